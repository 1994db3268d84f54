"""Four kinds of first use, from the first command to the first useful result; JSON lines on stdout.

A biologist labels new photographs, a student types the flags of an old script, an engineer trains,
predicts, exports, evaluates and compares, a teacher looks at the demonstration and a network. Each
is run on a pipe, in a terminal (tmux) of 80, 100 and 120 columns, and in one without colour, with
the embedded weights. A row states the number of commands and of seconds to the first useful result
and to the last, and the longest line. `--estimates` instead compares the first estimate of five
trainings with the time they took.

    python benchmarks/first_use.py PHOTOS
    python benchmarks/first_use.py PHOTOS --estimates
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import timing

PLACES: Mapping[str, int | None] = {
    "pipe": None,
    "terminal, 80 columns": 80,
    "terminal, 100 columns": 100,
    "terminal, 120 columns": 120,
    "terminal, no colour": 80,
}
COMMANDS: Mapping[str, Sequence[str]] = {
    "biologist": ("train few", "predict new --page new.html"),
    "student": (
        "train --data-path few --num_classes 5 --epochs 10 --batch-size 8 --lr 0.001 --lrf 0.01"
        " --weights '' --freeze-layers True --device cuda:0",
        "predict new/0.jpg",
    ),
    "engineer": (
        "train all --name first",
        "predict new --format csv --output new.csv",
        "export --output first.onnx",
        "eval few --split all",
        "train all --name second --img-size 192",
        "compare runs/first runs/second",
    ),
    "teacher": (
        "demo --output demo",
        "inspect vit_tiny_patch16_224 --image new/0.jpg",
    ),
}
ESTIMATES = 3  # trainings of each kind
USEFUL = {"biologist": 2, "student": 2, "engineer": 2, "teacher": 1}  # commands until then
TRAININGS: Mapping[str, str] = {
    "all layers, 128 px": "train few --no-freeze-layers --img-size 128 --epochs 12",
    "all layers, 160 px, many": "train all --no-freeze-layers --img-size 160 --epochs 3",
    "last stages, 128 px": "train all --freeze-stages 4 --img-size 128 --epochs 6",
    "Swin, random weights, 64 px": "train all --model swin --model-arg embed_dim=48"
    " --model-arg depths=2,2,2 --model-arg num_heads=2,4,8 --no-pretrained --img-size 64"
    " --model-arg patch_size=4 --model-arg window_size=4 --epochs 10",
    "ViT-tiny, random weights, 96 px": "train all --model vit_tiny_patch16_224 --no-pretrained"
    " --img-size 96 --epochs 8",
}


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder of class folders")
    parser.add_argument("--estimates", action="store_true", help="of five trainings, instead")
    parser.add_argument("--only", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    report = timing.Report("first use")
    with tempfile.TemporaryDirectory(prefix="swinclf-first-") as folder:
        work = Path(folder)
        link_photographs(options.photos.resolve(), work)
        rows = estimates(work, options.only) if options.estimates else uses(work, options.only)
        for name, values in rows:
            report.add(name, **values)


def link_photographs(photos: Path, work: Path) -> None:
    """Make the datasets: few/ (40 of a class), all/ (all others but a few) and new/ (those)."""
    draw = random.Random(0)
    number = 0
    for label in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = sorted(label.iterdir())
        draw.shuffle(files)
        for place, part in {"few": files[:40], "all": files[40:-6]}.items():
            (work / place / label.name).mkdir(parents=True)
            for file in part:
                (work / place / label.name / file.name).symlink_to(file)
        (work / "new").mkdir(exist_ok=True)
        for file in files[-6:]:
            (work / "new" / f"{number}{file.suffix}").symlink_to(file)
            number += 1


def uses(work: Path, only: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Run each kind of use in each place."""
    for place, columns in PLACES.items():
        for kind, commands in COMMANDS.items():
            name = f"{kind}, {place}"
            if only and only not in name:
                continue
            seconds, longest = [], 0
            for command in commands:
                taken, text, code = execute(command, work, columns, color="no" not in place)
                if code:
                    raise SystemExit(f"{command}: {code}\n{text[-4000:]}")
                seconds.append(taken)
                longest = max(longest, *map(len, text.splitlines() or [""]))
            yield (
                name,
                {
                    "commands": USEFUL[kind],
                    "useful_s": sum(seconds[: USEFUL[kind]]),
                    "all_commands": len(commands),
                    "all_s": sum(seconds),
                    "longest_line": longest,
                },
            )
            clear(work)


def execute(
    command: str, work: Path, columns: int | None, *, color: bool = True
) -> tuple[float, str, int]:
    """Run a command on a pipe, or in a terminal of so many columns.

    Returns:
        Seconds, what it wrote (a terminal's whole history), exit code.
    """
    words = [*timing.SWINCLF, *shlex.split(command)]
    environment = {**os.environ, "SWINCLF_CACHE_DIR": str(work / "cache")}
    environment |= {} if color else {"NO_COLOR": "1"}
    start = time.perf_counter()
    if columns is None:
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True)
        return time.perf_counter() - start, done.stdout + done.stderr, done.returncode
    text, code = run_in_tmux(shlex.join(words), work, environment, columns)
    return time.perf_counter() - start, text, code


def run_in_tmux(
    command: str, work: Path, environment: Mapping[str, str], columns: int
) -> tuple[str, int]:
    """Run a command in a terminal; return the lines as they were wrapped, and the exit code."""
    # A server of its own: the one before may still be ending.
    tmux = ["tmux", "-L", f"swinclf-{os.getpid()}-{time.monotonic_ns()}", "-f", os.devnull]
    code = work / "code"
    code.unlink(missing_ok=True)
    done = f"{command}; echo $? > {code}.new; mv {code}.new {code}; sleep 60"
    size = ["-x", str(columns), "-y", "40"]
    new = ["new-session", "-d", *size, "-c", str(work), "sh", "-c", done]
    options = [";", "set-option", "-g", "history-limit", "50000"]
    subprocess.run([*tmux, "start-server", *options, ";", *new], env=environment, check=True)
    while not code.exists():
        time.sleep(0.02)
    screen = subprocess.run(
        [*tmux, "capture-pane", "-p", "-S", "-"], capture_output=True, text=True, check=True
    )
    subprocess.run([*tmux, "kill-server"], check=True)
    return screen.stdout.rstrip(), int(code.read_text())


def clear(work: Path) -> None:
    """Remove what a use has made, also its caches."""
    for name in ("runs", "demo", "cache", "new.html", "new.csv", "first.onnx"):
        subprocess.run(["rm", "-rf", str(work / name)], check=True)


def estimates(work: Path, only: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Train; compare the first estimate with the time from then to the end of the last epoch."""
    for name, command in TRAININGS.items():
        if only and only not in name:
            continue
        times, ratios = [], []
        for _ in range(ESTIMATES):
            execute_or_stop(f"{command} --patience 0 --name it", work)
            lines = (work / "runs/it/events.jsonl").read_text("utf-8").splitlines()
            events = [json.loads(line) for line in lines]
            first = next(event for event in events if event["event"] == "estimate")
            last = [event for event in events if event["event"] == "epoch"][-1]
            times.append((moment(last) - moment(first)).total_seconds())
            ratios.append(first["seconds"] / times[-1])
            clear(work)
        spread = {"lowest": min(ratios), "highest": max(ratios)}
        yield name, {"s": statistics.median(times), "ratio": statistics.median(ratios), **spread}


def moment(event: Mapping[str, str]) -> datetime:
    """Return when an event was."""
    return datetime.fromisoformat(event["time"])


def execute_or_stop(command: str, work: Path) -> None:
    """Run a command on a pipe; a failure ends the benchmark."""
    _, text, code = execute(command, work, None)
    if code:
        raise SystemExit(f"{command}: {code}\n{text[-4000:]}")


if __name__ == "__main__":
    main(sys.argv[1:])
