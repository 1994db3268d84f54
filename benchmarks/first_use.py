"""Four kinds of first use, from the first command to the first useful result; JSON lines on stdout.

A biologist labels new photographs, a student types the flags of an old script, an engineer trains,
predicts, exports, evaluates and compares, a teacher inspects the demonstration and a network. Each
is run in a terminal (tmux) of 80 columns, with the embedded weights. A row states the number of
commands and of seconds to the first useful result and to the last. `--estimates` instead compares
the first estimate of five trainings with the time they took.

    python benchmarks/first_use.py PHOTOS
    python benchmarks/first_use.py PHOTOS --estimates
"""

from __future__ import annotations

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
    parser = timing.plain_parser(__doc__, "a folder of class folders")
    parser.add_argument("--estimates", action="store_true", help="of five trainings, instead")
    options = parser.parse_args(arguments)
    report = timing.Report("first use")
    with tempfile.TemporaryDirectory(prefix="swinclf-first-") as folder:
        work = Path(folder)
        link_photographs(options.photos.resolve(), work)
        for name, values in estimates(work) if options.estimates else uses(work):
            report.add(name, **values)


def link_photographs(photos: Path, work: Path) -> None:
    """Make the datasets: few/ (40 of a class), all/ (all others but a few) and new/ (those)."""
    draw = random.Random(0)
    number = 0
    for label in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = sorted(label.iterdir())
        draw.shuffle(files)
        for name, part in {"few": files[:40], "all": files[40:-6]}.items():
            (work / name / label.name).mkdir(parents=True)
            for file in part:
                (work / name / label.name / file.name).symlink_to(file)
        (work / "new").mkdir(exist_ok=True)
        for file in files[-6:]:
            (work / "new" / f"{number}{file.suffix}").symlink_to(file)
            number += 1


def uses(work: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Run each kind of use."""
    for kind, commands in COMMANDS.items():
        seconds = [run_in_tmux(command, work) for command in commands]
        useful = USEFUL[kind]
        counts = {"commands": useful, "all_commands": len(commands)}
        yield kind, {**counts, "useful_s": sum(seconds[:useful]), "all_s": sum(seconds)}
        clear(work)


def environment_of(work: Path) -> dict[str, str]:
    """Return the environment of a command: its cache of features is in the folder."""
    return {**os.environ, "SWINCLF_CACHE_DIR": str(work / "cache")}


def run_in_tmux(command: str, work: Path) -> float:
    """Run a command in a terminal and return its seconds; a failure ends the benchmark."""
    start = time.perf_counter()
    # A server of its own: the one before may still be ending.
    tmux = ["tmux", "-L", f"swinclf-{os.getpid()}-{time.monotonic_ns()}", "-f", os.devnull]
    code = work / "code"
    code.unlink(missing_ok=True)
    words = shlex.join([*timing.SWINCLF, *shlex.split(command)])
    done = f"{words}; echo $? > {code}.new; mv {code}.new {code}; sleep 60"
    size = ["-x", "80", "-y", "40"]
    new = ["new-session", "-d", *size, "-c", str(work), "sh", "-c", done]
    options = [";", "set-option", "-g", "history-limit", "50000"]
    subprocess.run(
        [*tmux, "start-server", *options, ";", *new], env=environment_of(work), check=True
    )
    while not code.exists():
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    screen = subprocess.run(
        [*tmux, "capture-pane", "-p", "-S", "-"], capture_output=True, text=True, check=True
    )
    subprocess.run([*tmux, "kill-server"], check=True)
    if int(code.read_text()):
        raise SystemExit(f"{command}: {code.read_text()}\n{screen.stdout[-4000:]}")
    return seconds


def clear(work: Path) -> None:
    """Remove what a use has made, also its caches."""
    for name in ("runs", "demo", "cache", "new.html", "new.csv", "first.onnx"):
        subprocess.run(["rm", "-rf", str(work / name)], check=True)


def estimates(work: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Train; compare the first estimate with the time from then to the end of the last epoch."""
    for name, command in TRAININGS.items():
        times, ratios = [], []
        for _ in range(ESTIMATES):
            words = [*timing.SWINCLF, *shlex.split(command), "--patience", "0", "--name", "it"]
            subprocess.run(
                words, cwd=work, env=environment_of(work), stderr=subprocess.DEVNULL, check=True
            )
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


if __name__ == "__main__":
    main(sys.argv[1:])
