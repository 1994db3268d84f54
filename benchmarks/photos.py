"""Photographs to measure with: drawn by formula, of the size of a camera's files, or yours.

Drawn ones have detail at every scale, so that they take as long to decode as photographs do.

    python benchmarks/photos.py DIR --count 400 --split
    python benchmarks/photos.py DIR --count 40 --size 4000x3000
    python benchmarks/photos.py DIR --count 400 --split --from flowers
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASSES = 5
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}


def draw(number: int, size: tuple[int, int]) -> Image.Image:
    """A picture with detail at every scale; colours and shapes tell its class, number % CLASSES."""
    rng = np.random.default_rng(number)
    label = number % CLASSES
    width, height = size
    ground = np.zeros((height, width, 3), np.float32)
    cells = 4
    while cells < height:  # noise of every size, as in grass, bark and clouds
        noise = rng.normal(0, 255 / cells**0.75, (cells, cells * width // height, 3))
        layer = [
            Image.fromarray(noise[..., colour].astype(np.float32)).resize(size, 2)
            for colour in range(3)
        ]
        ground += np.stack([np.asarray(one) for one in layer], axis=-1)
        cells *= 4
    ground += rng.normal(0, 6, ground.shape).astype(np.float32)  # and what a sensor adds
    tint = np.array([[90, 120, 70], [120, 95, 70], [80, 100, 130], [110, 110, 90], [70, 70, 90]])
    picture = Image.fromarray(np.clip(ground + tint[label], 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = rng.uniform(0.04, 0.15) * height
        colour = tuple(int(value) for value in rng.integers(60, 256, 3))
        pen.regular_polygon((x, y, radius), 3 + label, rotation=int(rng.integers(360)), fill=colour)
    return picture


def write(task: tuple[int, Path, tuple[int, int]]) -> None:
    """Draws and saves one."""
    number, path, size = task
    draw(number, size).save(path, quality=90)


def drawn(count: int) -> Iterator[tuple[str, str]]:
    """Class and file name of each drawn picture."""
    for number in range(count):
        yield f"shape{3 + number % CLASSES}", f"{number:06d}.jpg"


def given(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Class and file name of `count` pictures of a folder, as many of each class."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    for name in classes:
        files = sorted(
            entry.name
            for entry in os.scandir(folder / name)
            if Path(entry.name).suffix.lower() in EXTENSIONS
        )
        yield from ((name, file) for file in files[: count // len(classes)])


def main(arguments: list[str]) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT of drawn ones")
    parser.add_argument("--from", dest="source", type=Path, help="a folder of class folders")
    parser.add_argument("--split", action="store_true", help="train/ and val/, every fifth in val/")
    options = parser.parse_args(arguments)
    width, height = (int(word) for word in options.size.split("x"))
    source = options.source
    tasks: list[Any] = []
    seen: dict[str, int] = {}
    for name, file in given(source, options.count) if source else drawn(options.count):
        seen[name] = seen.get(name, -1) + 1
        side = ("val" if seen[name] % 5 == 1 else "train") if options.split else "."
        path = options.folder / side / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if source:
            path.write_bytes((source / name / file).read_bytes())
        else:
            tasks.append((len(tasks), path, (width, height)))
    with ProcessPoolExecutor() as pool:
        list(pool.map(write, tasks, chunksize=4))


if __name__ == "__main__":
    main(sys.argv[1:])
