"""The benchmarks run, small: each prints lines of JSON that say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import SMALL_MODEL, write_textures
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def lines(name, *words):
    command = [sys.executable, str(BENCHMARKS / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_folder_of_many_links_is_scanned_and_split(tmp_path):
    folder = tmp_path / "many"
    lines("scale.py", "--step", "links", "--files", 600, "--classes", 3, folder)
    (row,) = lines("scale.py", "--step", "scan", folder)
    assert row["images"] == 600


def test_photographs_are_drawn_and_read_by_both_sides(tmp_path):
    lines("photos.py", tmp_path / "photos", "--count", 10, "--size", "200x150", "--split")
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg"))
    assert [file.parts[1] for file in files] == ["train"] * 5 + ["val"] * 5
    (row,) = lines("predict.py", "--read", tmp_path / "photos", "--large", 4)
    assert row["swinclf_ms"] > 0
    assert row["times_as_fast"] > 0


def test_swapped_labels_are_planted_and_looked_for(tmp_path):
    for number in range(120):
        side = (number % 2 + 1) * 8
        squares = np.indices((48, 48)).sum(0) // side % 2 * 255
        file = tmp_path / f"{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray((squares + number % 7).astype(np.uint8)).save(file)
    rows = lines("audit.py", "suspects", tmp_path)
    assert [row["seed"] for row in rows] == list(range(10))
    assert all(row["swapped"] == 60 and 0 <= row["recall"] <= 1 for row in rows)


def test_classes_are_left_out_and_shown(tmp_path):
    photos = write_textures(
        tmp_path / "photos", ("across", "along", "checks", "slant"), per_class=60, seed=0
    )
    small = ("--model", SMALL_MODEL, "--epochs", 2, "--held", 15, "--leave-out", "slant")
    (row,) = lines("reject.py", photos, "--precision", 0.5, *small)
    assert row["left_out"] == "slant"
    assert (row["known"], row["unknown"]) == (45, 15)
    assert 0 <= row["auroc_trust"] <= 1


def test_networks_are_timed_in_turns():
    words = ("--models", "vit_tiny_patch16_224", "--dtypes", "fp32", "--modes", "forward")
    _, row = lines("networks.py", *words, "--batches", 1, "--seconds", 0.1, "--cpu-time")
    assert row["rounds"] >= 3
    assert min(row[f"{name}_ms"] for name in ("accelerated", "reference", "timm")) > 0
