"""Sizes: a million files scanned and split, ten thousand classes trained, memory that stays.

The million files are hard links to a hundred small pictures, as no disk reads a million photographs
in a minute: what is measured is the program. Memory is that of `predict` on few and on many images.
Defaults: ten minutes on two cores.

    python benchmarks/scale.py
    python benchmarks/scale.py --files 10000 --classes 200 --few 100 --many 400
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import timing

NETWORK = ("--model", "vit_tiny_patch16_224", "--impl", "native", "--img-size", "32")


def main(arguments: list[str]) -> None:
    """Measure and report."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("--files", type=int, default=1_000_000, help="to scan [1,000,000]")
    parser.add_argument("--classes", type=int, default=10_000, help="to train [10,000]")
    parser.add_argument("--few", type=int, default=2_000, help="images, for memory [2,000]")
    parser.add_argument("--many", type=int, default=50_000, help="images, for memory [50,000]")
    parser.add_argument("--work", type=Path, help="folder for what is made [a temporary one]")
    parser.add_argument("--pictures", type=int, default=100, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=["links", "scan"], help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step == "links":
        make_links(options.folder, options.files, options.classes, options.pictures)
    elif options.step == "scan":
        scan_and_split(options.folder)
    else:
        report = timing.Report("scale")
        with timing.workplace(options) as work, TemporaryDirectory(dir=work) as place:
            measure_scan(options, Path(place), report)
            measure_classes(options, Path(place), report)
            measure_memory(options, Path(place), report)


def links(folder: Path, files: int, classes: int, *, pictures: int = 100) -> Path:
    """A folder of so many files in so many classes, hard links to so many pictures."""
    words = ["--files", str(files), "--classes", str(classes), "--pictures", str(pictures)]
    timing.run([sys.executable, __file__, "--step", "links", folder, *words])
    return folder


def measure_scan(options: argparse.Namespace, place: Path, report: timing.Report) -> None:
    """A folder listed, its contents hashed, its images split."""
    classes = max(2, options.files // 1000)
    folder = links(place / "files", options.files, classes)
    done = timing.run([sys.executable, __file__, "--step", "scan", folder])
    (row,) = done.records
    report.add(
        f"scan and split {options.files:,} files",
        classes=classes,
        seconds=done.seconds,
        peak_mib=done.peak_mib,
        **row,
    )


def measure_classes(options: argparse.Namespace, place: Path, report: timing.Report) -> None:
    """A training of many classes, two images each."""
    folder = links(place / "classes", 2 * options.classes, options.classes)
    done = train(folder, place, "classes")
    report.add(f"train {options.classes:,} classes", seconds=done.seconds, peak_mib=done.peak_mib)


def measure_memory(options: argparse.Namespace, place: Path, report: timing.Report) -> None:
    """Peaks on few and on many images."""
    folders = {
        count: links(place / str(count), count, 20, pictures=count)
        for count in (options.few, options.many)
    }
    train(folders[options.few], place, "few")
    words: list[str | Path] = ["--run", place / "few-run", "--output", place / "labels.json"]
    for count, folder in folders.items():
        done = timing.run([*timing.SWINCLF, "predict", folder, *words, "--format", "json"])
        report.add(f"predict {count:,} images", seconds=done.seconds, peak_mib=done.peak_mib)


def train(folder: Path, place: Path, name: str) -> timing.Measured:
    """A head on frozen features of a small network with random weights."""
    words = ["--no-pretrained", "--freeze-layers", "--epochs", "2", "--mirror"]
    command: list[str | Path] = [*timing.SWINCLF, "train", folder, *NETWORK, *words, "--out", place]
    cache = place / f"{name}-cache"
    return timing.run([*command, "--name", f"{name}-run"], SWINCLF_CACHE_DIR=cache)


def make_links(folder: Path, files: int, classes: int, pictures: int) -> None:
    """Write so many pictures, and hard links to them."""
    import numpy as np
    from PIL import Image

    sources = folder / ".pictures"
    sources.mkdir(parents=True)
    for number in range(pictures):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(sources / f"{number}.jpg")
    each = files // classes
    for label in range(classes):
        below = folder / f"class{label:05d}"
        below.mkdir()
        for number in range(each):
            source = sources / f"{(label * each + number) % pictures}.jpg"
            os.link(source, below / f"{number:06d}.jpg")


def scan_and_split(folder: Path) -> None:
    """What a training does before it decodes the first image."""
    from swinclf.data.dataset import assign_splits
    from swinclf.data.folder import scan_folder
    from swinclf.data.images import content_digest, read_bytes
    from swinclf.data.split import SplitRule

    start = time.perf_counter()
    index = scan_folder(folder)
    scanned = time.perf_counter()
    shared: dict[int, bytes] = {}  # by the number of the file, as a picture has many links
    digests: dict[str, bytes] = {}
    for image in index.images:
        file = index.root / image.path
        inode = file.stat().st_ino
        if inode not in shared:
            shared[inode] = content_digest(read_bytes(file))
        digests[image.path] = shared[inode]
    digested = time.perf_counter()
    dataset = assign_splits(index, digests, {}, SplitRule(0.2))
    split = time.perf_counter()
    timing.print_row(
        scan_s=scanned - start,
        digests_s=digested - scanned,
        split_s=split - digested,
        images=len(dataset.images),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
