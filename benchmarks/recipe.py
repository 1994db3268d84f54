"""How accurate the defaults are on photographs: one row for each dataset, size and variant.

From each dataset, images are drawn once to test on: those of its `test` folder, else of its `val`
folder, else a fifth of each class, in any case at most `--test` of a class. Of the others, 20, 100
or all of each class are given to `swinclf train`, which holds out a fifth of these by itself; the
test images choose nothing. The same test images are used for every row, and fewer images are a part
of more. Each row is printed as JSON when it is done, and all as a table at the end.

    python benchmarks/recipe.py flower_photos
    python benchmarks/recipe.py cifar10 caltech101 --variant frozen --per-class 20 100 all
    python benchmarks/recipe.py flower_photos --weights runs/flowers-1 -- precision=fp32
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timing

import swinclf
from swinclf.data.folder import scan_folder
from swinclf.errors import SwinclfError
from swinclf.reporter import format_percent

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "frozen": {"freeze_layers": True},
    "fine-tuned": {"freeze_layers": False},
}
Files = dict[str, list[Path]]  # by class


def files_in(folder: Path) -> Files:
    """Return the image files of a folder of class folders, sorted."""
    index = scan_folder(folder)
    files: Files = {name: [] for name in index.classes}
    for image in index.images:
        files[image.label].append(folder / image.path)
    return files


def draw(folder: Path, test: int) -> tuple[Files, Files]:
    """Return the files to learn from, in the order of drawing, and those to test on."""
    given = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    learned = files_in(folder / "train" if given else folder)
    tested = files_in(given) if given else {name: [] for name in learned}
    for number, (name, files) in enumerate(learned.items()):
        draws = random.Random(f"0 {number}")
        draws.shuffle(files)
        if given:
            draws.shuffle(tested[name])
        else:
            count = max(1, min(test, len(files) // 5))
            tested[name], learned[name] = files[:count], files[count:]
    return learned, {name: files[:test] for name, files in tested.items()}


def link(files: Files, folder: Path, count: int) -> Path:
    """Write a folder of class folders with the first `count` files of each class; 0 for all."""
    for name, paths in files.items():
        (folder / name).mkdir(parents=True)
        for number, path in enumerate(paths[: count or None]):
            target = folder / name / f"{folder.name}-{number:06d}{path.suffix}"
            try:
                os.link(path.resolve(), target)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(path, target)
    return folder


def measure(
    learned: Files, tested: Files, per_class: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train and score once."""
    with tempfile.TemporaryDirectory(prefix="swinclf-recipe-") as folder:
        data = link(learned, Path(folder) / "train", per_class)
        shown = link(tested, Path(folder) / "test", 0)
        start = time.perf_counter()
        run = swinclf.train(data, out=f"{folder}/runs", **settings)
        seconds = time.perf_counter() - start
        metrics = swinclf.load(run.folder.path).evaluate(shown, split="all")
        config = json.loads(run.folder.config.read_text(encoding="utf-8"))
        return {
            "per_class": per_class or "all",
            "classes": len(learned),
            "images": sum(len(paths[: per_class or None]) for paths in learned.values()),
            "test_images": metrics.images,
            "accuracy": metrics.accuracy,
            "low": metrics.accuracy_ci95[0],
            "high": metrics.accuracy_ci95[1],
            "balanced_accuracy": metrics.balanced_accuracy,
            "seconds": seconds,
            "epochs": config["epochs"],
            "lr": config["lr"],
            "precision": config["precision"],
            "model": config["model"],
        }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| dataset | classes | images per class | variant | test images | accuracy (95 % interval) "
        "| training |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = f"{format_percent(row['low'])} to {format_percent(row['high'])}"
        lines.append(
            f"| {row['dataset']} | {row['classes']} | {row['per_class']} | {row['variant']} "
            f"| {row['test_images']:,} | {format_percent(row['accuracy'])} ({interval}) "
            f"| {row['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def setting(word: str) -> tuple[str, Any]:
    """Return the name and the value of a setting such as lr=1e-3."""
    name, _, text = word.partition("=")
    with suppress(ValueError):
        return name.replace("-", "_"), json.loads(text)
    return name.replace("-", "_"), text


def per_class(text: str) -> int:
    """Return the images of a class; 0 for `all`."""
    count = 0 if text == "all" else int(text)
    if count < 0 or (not count and text != "all"):
        raise argparse.ArgumentTypeError("a number above 0, or all")
    return count


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("datasets", nargs="+", type=Path, help="folders of class folders")
    parser.add_argument("--per-class", nargs="+", type=per_class, default=[20, 100, 0])
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--test", type=int, default=200, help="test images of a class, at most")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--model", default="embedded")
    start.add_argument("--weights", help="a run or a weights file, instead of a model")
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    start_from = {"weights": options.weights} if options.weights else {"model": options.model}
    options.settings = {**start_from, **dict(map(setting, words[cut + 1 :]))}
    return options


def main(words: Sequence[str]) -> None:
    """Measure and print the table."""
    options = arguments_of(words)
    rows = []
    for folder in options.datasets:
        learned, tested = draw(folder, options.test)
        for count, name in itertools.product(options.per_class, options.variant):
            about = {"dataset": folder.resolve().name, "variant": name}
            try:
                row = measure(learned, tested, count, {**options.settings, **VARIANTS[name]})
            except SwinclfError as error:
                print(f"{about}, {count}: {error}", file=sys.stderr, flush=True)
                continue
            rows.append({**about, **row})
            timing.print_row(**rows[-1])
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
