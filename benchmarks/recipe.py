"""How accurate the defaults are on photographs: one row for each dataset, size and variant.

From each dataset, images are drawn once to test on: those of its `test` folder, else of its `val`
folder, else a fifth of each class, in any case at most `--test` of a class. Of the others, 20, 100
or all of each class are given to `swinclf train`, which holds out a fifth of these by itself; the
test images choose nothing. The same test images are used for every row, and fewer images are a part
of more. Each finished row is appended to `--results`; a second run does only what is missing there.

    python benchmarks/recipe.py flower_photos
    python benchmarks/recipe.py cifar10 caltech101 --variant frozen --per-class 20 100 all
    python benchmarks/recipe.py flower_photos --variant "slow: freeze_layers=false lr=3e-5"
    python benchmarks/recipe.py flower_photos --results rows.jsonl -- precision=fp32
    python benchmarks/recipe.py flower_photos --weights runs/flowers-1 --variant frozen
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import swinclf
from swinclf.data.folder import scan_folder
from swinclf.errors import SwinclfError
from swinclf.reporter import format_percent

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "frozen": {"freeze_layers": True},
    "fine-tuned": {"freeze_layers": False},
}
Files = dict[str, list[Path]]  # by class


@dataclass(frozen=True)
class Cell:
    """What one row of the table is about.

    Attributes:
        dataset: Name of its folder.
        per_class: Images of each class that are given to the training; 0 for all.
        variant: Name of the settings.
        seed: Of the drawing and of the training.
        settings: Of the training, by name.
    """

    dataset: str
    per_class: int
    variant: str
    seed: int
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What tells it from the others in the file of results."""
        return json.dumps([self.dataset, self.per_class, self.seed, self.variant, self.settings])


def files_in(folder: Path) -> Files:
    """Return the image files of a folder of class folders, sorted."""
    index = scan_folder(folder)
    files: Files = {name: [] for name in index.classes}
    for image in index.images:
        files[image.label].append(folder / image.path)
    return files


def draw(folder: Path, *, test: int, seed: int) -> tuple[Files, Files]:
    """Return the files to learn from, in the order of drawing, and those to test on."""
    given = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    learned = files_in(folder / "train" if given else folder)
    tested = files_in(given) if given else {name: [] for name in learned}
    for number, (name, files) in enumerate(learned.items()):
        draws = random.Random(f"{seed} {number}")
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


def measure(cell: Cell, learned: Files, tested: Files) -> dict[str, object]:
    """Train and score one cell."""
    with tempfile.TemporaryDirectory(prefix="swinclf-recipe-") as place:
        data = link(learned, Path(place) / "train", cell.per_class)
        shown = link(tested, Path(place) / "test", 0)
        start = time.perf_counter()
        run = swinclf.train(data, out=f"{place}/runs", seed=cell.seed, **cell.settings)
        seconds = time.perf_counter() - start
        metrics = swinclf.load(run.folder.path).evaluate(shown, split="all")
        config = json.loads(run.folder.config.read_text(encoding="utf-8"))
        return {
            "key": cell.key,
            "dataset": cell.dataset,
            "per_class": cell.per_class or "all",
            "variant": cell.variant,
            "seed": cell.seed,
            "classes": len(learned),
            "images": sum(len(paths[: cell.per_class or None]) for paths in learned.values()),
            "test_images": metrics.images,
            "accuracy": metrics.accuracy,
            "low": metrics.accuracy_ci95[0],
            "high": metrics.accuracy_ci95[1],
            "balanced_accuracy": metrics.balanced_accuracy,
            "seconds": round(seconds, 1),
            "epochs": config["epochs"],
            "lr": config["lr"],
            "precision": config["precision"],
            "model": config["model"],
        }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that are finished; a line that was cut off in the middle is none."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                rows.append(json.loads(line))
    return rows


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


def variant(text: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the settings of a variant: one of VARIANTS, or NAME: KEY=VALUE ...."""
    name, colon, words = text.partition(":")
    if colon:
        return name, dict(map(setting, words.split()))
    if name not in VARIANTS:
        raise argparse.ArgumentTypeError(f"one of {', '.join(VARIANTS)}, or NAME: KEY=VALUE ...")
    return name, VARIANTS[name]


def per_class(text: str) -> int:
    """Return the images of a class; 0 for `all`."""
    count = 0 if text == "all" else int(text)
    if count < 0 or (not count and text != "all"):
        raise argparse.ArgumentTypeError("a number above 0, or all")
    return count


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", type=Path, help="folders of class folders")
    parser.add_argument("--per-class", nargs="+", type=per_class, default=[20, 100, 0])
    parser.add_argument("--variant", action="append", type=variant, help="[each of VARIANTS]")
    parser.add_argument("--test", type=int, default=200, help="test images of a class, at most")
    parser.add_argument("--seed", action="append", type=int, help="[0]")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--model", default="embedded")
    start.add_argument("--weights", help="a run or a weights file, instead of a model")
    parser.add_argument("--results", type=Path, default=Path("recipe.jsonl"))
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    start_from = {"weights": options.weights} if options.weights else {"model": options.model}
    options.settings = {**start_from, **dict(map(setting, words[cut + 1 :]))}
    return options


def main(words: Sequence[str]) -> None:
    """Measure what is missing and print the table."""
    options = arguments_of(words)
    rows = {row["key"]: row for row in read_rows(options.results)}
    asked = []
    for folder in options.datasets:
        for seed in options.seed or [0]:
            learned, tested = draw(folder, test=options.test, seed=seed)
            for count in options.per_class:
                for name, settings in options.variant or VARIANTS.items():
                    whole = {**options.settings, **settings}
                    cell = Cell(folder.resolve().name, count, name, seed, whole)
                    asked.append(cell.key)
                    if cell.key in rows:
                        continue
                    try:
                        row = measure(cell, learned, tested)
                    except SwinclfError as error:
                        print(f"{cell.key}: {error}", file=sys.stderr, flush=True)
                        continue
                    rows[cell.key] = row
                    with options.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    print(table(rows[key] for key in asked if key in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
