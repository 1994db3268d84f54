"""Flips single bits of a run's files and cuts them short: every damage has to be noticed."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import swinclf
from swinclf.errors import SwinclfError
from swinclf.models.store import load_model
from tortures._small import SETTINGS, write_dataset


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many damages."""
    parser.add_argument("--flips", type=int, default=1000, help="single bits flipped, one a time")
    parser.add_argument("--cuts", type=int, default=200, help="files cut short, at random places")


def torture(options: argparse.Namespace) -> dict[str, Any]:
    """Damages a model file in every way and loads it each time."""
    rng = np.random.default_rng(options.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        data = write_dataset(Path(folder) / "colours")
        run = swinclf.train(data, epochs=1, out=str(Path(folder) / "runs"), **SETTINGS)
        whole = run.folder.model.read_bytes()
        copy = Path(folder) / "model.safetensors"
        for number in range(options.flips + options.cuts):
            damaged = (
                _flipped(whole, rng)
                if number < options.flips
                else whole[: int(rng.integers(len(whole)))]
            )
            copy.write_bytes(damaged)
            try:
                load_model(copy)
            except SwinclfError:
                counts["caught"] += 1
            else:
                counts["wrong"] += 1
    return {"damages": options.flips + options.cuts, "wrong": 0, **counts}


def _flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one bit flipped: in the header every second time, where a flip may hide best."""
    header = 8 + int.from_bytes(whole[:8], "little")
    place = int(rng.integers(header if rng.integers(2) else len(whole)))
    bit = 1 << int(rng.integers(8))
    return whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
