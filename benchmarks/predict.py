"""Labelling photographs: `swinclf predict` and a plain loop of timm; and reading large JPEGs.

Whole processes from start to end, labels and probabilities compared; then the reading alone, one
thread a side, picture by picture in turns, of photographs of 12 megapixels. The reference reads by
worker processes, one a core. Defaults: four minutes on two cores, most of it the reference's.

    python benchmarks/predict.py
    python benchmarks/predict.py --count 100 --large 10
    python benchmarks/predict.py --photos flowers --weights swin_t.safetensors
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import timing
from timing import Measured

OURS, THEIRS = "swinclf", "reference"


def main(arguments: list[str]) -> None:
    """Measure and report."""
    parser = timing.parser(__doc__, photos=2000, rounds=1)
    parser.add_argument("--large", type=int, default=200, help="readings of 12 megapixels [200]")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        read_in_turns(options.read, options.large)
        return
    report = timing.Report("predict")
    with timing.workplace(options) as work, TemporaryDirectory(dir=work) as place:
        measure_predict(options, work, Path(place), report)
        if options.large:
            measure_reading(options, work, report)


def measure_predict(
    options: argparse.Namespace, work: Path, place: Path, report: timing.Report
) -> None:
    """Both sides on the same photographs, by the same weights."""
    few = argparse.Namespace(**{**vars(options), "count": 30})
    head = [
        "--freeze-layers",
        "--epochs",
        "20",
        "--val-split",
        "0",
        "--out",
        place,
        "--name",
        "run",
    ]
    start = ["--model", options.model, "--weights", timing.weights_for(options, work)]
    command = [*timing.SWINCLF, "train", timing.photos_for(few, work), *start, *head]
    timing.run(command, SWINCLF_CACHE_DIR=place / "cache")
    data, model = timing.photos_for(options, work), place / "run" / "model.safetensors"
    labels = {THEIRS: place / "labels.csv", OURS: place / "labels.jsonl"}

    def reference(_: int) -> Measured:
        words: list[str | Path] = ["--model", options.model, "--weights", model]
        words += ["--output", labels[THEIRS]]
        return timing.run([*timing.REFERENCE, "predict", data, *words])

    def ours(_: int) -> Measured:
        words: list[str | Path] = [
            "--run",
            place / "run",
            "--format",
            "jsonl",
            "--output",
            labels[OURS],
        ]
        return timing.run([*timing.SWINCLF, "predict", data, *words, "--top-k", "1000"])

    sides: dict[str, Callable[[int], Measured]] = {OURS: ours, THEIRS: reference}
    runs: dict[str, list[Measured]] = {OURS: [], THEIRS: []}
    for _, side, measured in timing.alternate(sides, options.rounds):
        runs[side].append(measured)
    classes = json.loads((place / "run" / "class_indices.json").read_text(encoding="utf-8"))
    count, flips, largest = compare(labels[THEIRS], labels[OURS], list(classes.values()))
    seconds = {side: [run.seconds for run in rounds] for side, rounds in runs.items()}
    for side in (THEIRS, OURS):
        report.add(
            f"predict {count} photographs: {side}",
            seconds=statistics.median(seconds[side]),
            images_per_second=count / statistics.median(seconds[side]),
            times_as_fast=timing.median_ratio(seconds[THEIRS], seconds[side]),
            labels_differing=flips,
            largest_difference=largest,
            peak_mib=timing.peak(runs[side]),
        )


def compare(theirs: Path, ours: Path, classes: list[str]) -> tuple[int, int, float]:
    """How many files, how many labels differ, and by how much a probability at most."""
    with theirs.open(encoding="utf-8", newline="") as file:
        rows = {path: list(map(float, values)) for path, *values in csv.reader(file)}
    flips, largest = 0, 0.0
    records = [json.loads(line) for line in ours.read_text(encoding="utf-8").splitlines()]
    for record in records:
        row = rows.pop(record["path"])
        shares = {one["label"]: one["probability"] for one in record["top"]}
        flips += classes[row.index(max(row))] != record["label"]
        gaps = [abs(share - shares[name]) for name, share in zip(classes, row, strict=True)]
        largest = max(largest, *gaps)
    assert not rows, f"not labelled: {len(rows)}"
    return len(records), flips, largest


def measure_reading(options: argparse.Namespace, work: Path, report: timing.Report) -> None:
    """Reading alone, in a process of its own."""
    few = argparse.Namespace(**{**vars(options), "count": min(20, options.large), "photos": None})
    folder = timing.photos_for(few, work, "--size", "4000x3000")
    words: list[str | Path] = ["--read", folder, "--large", str(options.large)]
    (row,) = timing.run([sys.executable, __file__, *words]).records
    report.add(f"read {options.large} of 12 megapixels", **row)


def read_in_turns(folder: Path, count: int) -> None:
    """Time both readers, picture by picture, from file to what the network sees as bytes."""
    from PIL import Image
    from torchvision import transforms

    from swinclf.config import Impl
    from swinclf.data.loader import load_for_prediction
    from swinclf.models.build import default_preprocess
    from swinclf.models.names import Architecture

    architecture = Architecture("swin_tiny_patch4_window7_224", Impl.NATIVE, 5)
    preprocess = default_preprocess(architecture)
    bicubic = transforms.InterpolationMode.BICUBIC
    middle = transforms.Compose(
        [
            transforms.Resize(preprocess.scaled_size[0], interpolation=bicubic),
            transforms.CenterCrop(preprocess.height),
        ]
    )
    sides: dict[str, Callable[[Path], object]] = {
        OURS: lambda path: load_for_prediction(path, preprocess, digest=False).pixels,
        THEIRS: lambda path: middle(Image.open(path).convert("RGB")),
    }
    files = sorted(folder.rglob("*.jpg"))
    times: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for number in range(count):
        for side in sorted(sides, reverse=bool(number % 2)):
            start = time.perf_counter()
            sides[side](files[number % len(files)])
            times[side].append(1e3 * (time.perf_counter() - start))
    row = {
        "reference_ms": statistics.median(times[THEIRS]),
        "swinclf_ms": statistics.median(times[OURS]),
        "times_as_fast": timing.median_ratio(times[THEIRS], times[OURS]),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])
