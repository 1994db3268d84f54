"""Fine-tuning the whole network: images a second of an epoch, reading included, and the losses.

Both sides train in turns from the same weights on the same photographs, in batches of 32 at the
same learning rate, each round from another seed; losses are means over the rounds, with the
standard deviation of a round. swinclf starts from a head that it has fitted first; `--fp32` shows
a machine that does not multiply bf16. Defaults: four minutes on two cores.

    python benchmarks/finetune.py
    python benchmarks/finetune.py --rounds 3 --epochs 4
    python benchmarks/finetune.py --fp32 --rounds 1
    python benchmarks/finetune.py --photos flowers --weights swin_t.safetensors --epochs 4
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timing
from timing import Measured

OURS, THEIRS = "swinclf", "reference"


def main(arguments: list[str]) -> None:
    """Measure and report."""
    parser = timing.parser(__doc__, photos=160, rounds=2)
    parser.add_argument("--epochs", type=int, default=2, help="of each side in a round [2]")
    parser.add_argument("--fp32", action="store_true", help="swinclf in float32 too")
    options = parser.parse_args(arguments)
    report = timing.Report("finetune")
    with timing.workplace(options) as work, TemporaryDirectory(dir=work) as place:
        data = timing.photos_for(options, work, "--split")
        same = ["--model", options.model, "--weights", timing.weights_for(options, work)]
        same += ["--epochs", str(options.epochs), "--lr", "1e-4"]
        own = ["--precision", "fp32"] if options.fp32 else []
        histories: dict[str, list[list[dict[str, Any]]]] = {OURS: [], THEIRS: []}

        def reference(number: int) -> Measured:
            return timing.run([*timing.REFERENCE, "train", data, *same, "--seed", str(number)])

        def ours(number: int) -> Measured:
            name = ["--no-freeze-layers", "--out", place, "--name", f"round-{number}"]
            name += ["--seed", str(number)]
            full = [*timing.SWINCLF, "train", data, *same, "--batch-size", "32", *name, *own]
            return timing.run(full, SWINCLF_CACHE_DIR=Path(place) / f"cache-{number}")

        sides: dict[str, Callable[[int], Measured]] = {OURS: ours, THEIRS: reference}
        runs: dict[str, list[Measured]] = {OURS: [], THEIRS: []}
        for number, side, measured in timing.alternate(sides, options.rounds):
            runs[side].append(measured)
            path = Path(place) / f"round-{number}" / "history.csv"
            histories[side].append(measured.records if side == THEIRS else history(path))
    rates = {side: [rate(rows) for rows in rounds] for side, rounds in histories.items()}
    for side in (THEIRS, OURS):
        report.add(
            f"fine-tuning: {side}",
            images_per_second=statistics.median(rates[side]),
            times_as_fast=timing.median_ratio(rates[side], rates[THEIRS]),
            train_losses=losses(histories[side], "train_loss"),
            val_losses=losses(histories[side], "val_loss"),
            whole_seconds=statistics.median(run.seconds for run in runs[side]),
            peak_mib=timing.peak(runs[side]),
        )


def losses(rounds: list[list[dict[str, Any]]], name: str) -> list[str]:
    """Of each epoch the mean over the rounds, and the standard deviation of one."""
    epochs = ([float(row[name]) for row in rows] for rows in zip(*rounds, strict=True))
    return [
        f"{statistics.mean(one):.3f}" + (f" ± {statistics.stdev(one):.3f}" if len(one) > 1 else "")
        for one in epochs
    ]


def history(path: Path) -> list[dict[str, Any]]:
    """The epochs of a run."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rate(rows: list[dict[str, Any]]) -> float:
    """Images a second of the median epoch."""
    return statistics.median(float(row["images_per_second"]) for row in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
