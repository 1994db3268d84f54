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
from swinclf.training.checkpoint import read_checkpoint
from tortures._small import SETTINGS, interrupted_run


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many damages."""
    parser.add_argument("--flips", type=int, default=1000, help="single bits flipped, one a time")
    parser.add_argument("--cuts", type=int, default=200, help="files cut short, at random places")


def torture(options: argparse.Namespace) -> dict[str, Any]:
    """Damages a checkpoint and a model file in every way and loads them each time."""
    rng = np.random.default_rng(options.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        run, state, _ = interrupted_run(Path(folder))
        data = Path(folder) / "colours"
        done = swinclf.train(data, epochs=1, out=str(Path(folder) / "runs"), **SETTINGS)
        before = state.step - 1
        for number in range(options.flips + options.cuts):
            path = run.checkpoint if number % 2 else done.folder.model
            whole = path.read_bytes()
            is_flip = number < options.flips
            path.write_bytes(
                _flipped(whole, rng) if is_flip else whole[: int(rng.integers(len(whole)))]
            )
            if path == run.checkpoint:
                saved = read_checkpoint(run)
                caught = bool(saved.newer_error) and saved.record["step"] == before
                counts["fallen back to the one before"] += caught
            else:
                caught = _is_refused(path)
            counts["caught"] += caught
            counts["wrong"] += not caught
            path.write_bytes(whole)
    return {"flips": options.flips, "cuts": options.cuts, **counts}


def _is_refused(model: Path) -> bool:
    try:
        load_model(model)
    except SwinclfError:
        return True
    return False


def _flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one bit flipped: in the header every second time, where a flip may hide best."""
    header = 8 + int.from_bytes(whole[:8], "little")
    place = int(rng.integers(header if rng.integers(2) else len(whole)))
    bit = 1 << int(rng.integers(8))
    return whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
