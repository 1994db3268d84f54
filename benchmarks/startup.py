"""Start-up: `--help`, and a prediction of one picture compared with importing torch alone.

Defaults: a minute and a half on two cores.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import timing
from timing import Measured


def main(arguments: list[str]) -> None:
    """Measure and report."""
    options = timing.parser(__doc__, photos=30, rounds=9).parse_args(arguments)
    report = timing.Report("startup")
    with timing.workplace(options) as work, TemporaryDirectory(dir=work) as place:
        picture, run = prepare(options, work, Path(place))
        sides: dict[str, Callable[[int], Measured]] = {
            "import torch": lambda _: timing.run([sys.executable, "-c", "import torch"]),
            "swinclf --help": lambda _: timing.run([*timing.SWINCLF, "--help"]),
            "swinclf predict, one picture": lambda _: timing.run(
                [*timing.SWINCLF, "predict", picture, "--run", run]
            ),
        }
        runs: dict[str, list[Measured]] = {name: [] for name in sides}
        for _, side, measured in timing.alternate(sides, options.rounds):
            runs[side].append(measured)
    torch = [one.seconds for one in runs["import torch"]]
    for side, rounds in runs.items():
        seconds = [one.seconds for one in rounds]
        report.add(
            side,
            seconds=statistics.median(seconds),
            beyond_torch=statistics.median(a - b for a, b in zip(seconds, torch, strict=True)),
            peak_mib=timing.peak(rounds),
        )


def prepare(options: argparse.Namespace, work: Path, place: Path) -> tuple[Path, Path]:
    """A picture, and a run of the default settings to label it with."""
    data = timing.photos_for(options, work)
    start = ["--model", options.model, "--weights", timing.weights_for(options, work)]
    head = ["--freeze-layers", "--epochs", "5", "--out", place, "--name", "run"]
    command = [*timing.SWINCLF, "train", data, *start, *head]
    timing.run(command, SWINCLF_CACHE_DIR=place / "cache")
    return next(data.rglob("*.jpg")), place / "run"


if __name__ == "__main__":
    main(sys.argv[1:])
