"""What the benchmarks share: processes timed in turns, their peak memory, the hardware, the output.

A benchmark imports nothing large itself: how much memory a process takes is asked of the system
after it has ended, and Linux counts what its parent had in it when it was started.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SWINCLF = (sys.executable, "-m", "swinclf")
REFERENCE = (sys.executable, str(HERE / "reference.py"))
PHOTOS = (sys.executable, str(HERE / "photos.py"))


@dataclass(frozen=True)
class Measured:
    """A process that has ended.

    Attributes:
        seconds: From its start to its end.
        peak_mib: Its largest resident memory, or that of the largest of its children, MiB.
        output: What it wrote to standard output.
    """

    seconds: float
    peak_mib: int
    output: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON lines of its output."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


def run(command: Sequence[str | Path], **environment: str | Path) -> Measured:
    """Runs a program to its end; a failure ends the benchmark with what the program said.

    Args:
        command: The program and its words.
        environment: Variables to set for it.
    """
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=errors, env=variables
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            said = errors.read()[-4000:]
            raise SystemExit(f"{' '.join(map(str, command))}: {process.returncode}\n{said}")
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return Measured(seconds, usage.ru_maxrss // unit, output.read())


def alternate(
    sides: Mapping[str, Callable[[int], Measured]], rounds: int
) -> Iterator[tuple[int, str, Measured]]:
    """Every side once a round, in turns; who goes first changes from round to round.

    Yields:
        Round from 0, side, what came of it.
    """
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            yield number, name, sides[name](number)


def median_ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(upper, lower, strict=True))


def peak(runs: Sequence[Measured]) -> int:
    """The largest peak of memory, MiB."""
    return max(one.peak_mib for one in runs)


def hardware() -> dict[str, object]:
    """The machine and what computes on it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    lines = [line for line in text.splitlines() if "model name" in line]
    name = lines[0].split(":")[1].strip() if lines else platform.processor() or platform.machine()
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in text]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "hardware": " ".join([name, *units]),
        "cores": cores,
        **{one: version(one) for one in ("torch", "torchvision", "timm", "pillow")},
    }


def rounded(value: Any) -> Any:
    """Return a value of JSON with four digits of each number."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def print_row(**values: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(rounded(values)), flush=True)


class Report:
    """JSON lines on standard output, a table on standard error, both as they come.

    Args:
        title: What is measured.
    """

    def __init__(self, title: str) -> None:
        about = {"benchmark": title, **hardware()}
        print_row(**about)
        words = ", ".join(f"{key} {value}" for key, value in about.items())
        print(words, file=sys.stderr, flush=True)

    def add(self, what: str, **values: object) -> None:
        """One line of results."""
        print_row(what=what, **values)
        words = "  ".join(f"{key} {value}" for key, value in rounded(values).items())
        print(f"  {what:<44} {words}", file=sys.stderr, flush=True)


def plain_parser(text: str | None, photos: str = "") -> argparse.ArgumentParser:
    """A parser without options; `photos` is the help of its only argument, if it has one."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if photos:
        made.add_argument("photos", type=Path, help=photos)
    return made


def parser(text: str | None, *, photos: int, rounds: int) -> argparse.ArgumentParser:
    """The options that most of the benchmarks have."""
    made = plain_parser(text)
    made.add_argument("--count", type=int, default=photos, help=f"photographs [{photos}]")
    made.add_argument(
        "--photos", type=Path, help="a folder of class folders [photographs drawn by formula]"
    )
    made.add_argument("--model", default="swin_tiny_patch4_window7_224", help="a name timm knows")
    made.add_argument("--weights", type=Path, help="a safetensors file of it [random weights]")
    made.add_argument("--rounds", type=int, default=rounds, help=f"each side so often [{rounds}]")
    made.add_argument("--work", type=Path, help="folder for what is made [a temporary one]")
    return made


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Path]:
    """The folder for photographs, weights and runs."""
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        yield options.work
    else:
        with tempfile.TemporaryDirectory(prefix="swinclf-bench-") as folder:
            yield Path(folder)


def weights_for(options: argparse.Namespace, work: Path) -> Path:
    """The weights that both sides start from."""
    if options.weights:
        given: Path = options.weights
        return given
    path = work / f"{options.model}.safetensors"
    if not path.exists():
        run([*REFERENCE, "weights", "--model", options.model, "--output", path])
    return path


def photos_for(options: argparse.Namespace, work: Path, *words: str) -> Path:
    """The photographs: those given, spread over splits as asked, or drawn ones."""
    folder = work / "-".join(["photos", str(options.count), *(word.strip("-") for word in words)])
    if not folder.exists():
        given = ["--from", options.photos] if options.photos else []
        run([*PHOTOS, folder, "--count", str(options.count), *given, *words])
    return folder
