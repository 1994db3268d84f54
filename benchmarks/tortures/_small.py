"""What the parts share: a dataset and a training that take seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

import swinclf
from swinclf.errors import ExitCode, Interrupted
from swinclf.pipeline import fit as pipeline
from swinclf.run_folder import RunFolder
from swinclf.training.resume_guard import RunFingerprint
from swinclf.training.state import TrainState

COLOURS = {"blue": (40, 60, 200), "green": (40, 170, 60), "red": (200, 50, 40)}
SETTINGS: Mapping[str, Any] = {
    "model": "test_vit",
    "pretrained": False,
    "img_size": 32,
    "batch_size": 8,
    "precision": "fp32",
    "device": "cpu",
    "drop_path": 0.3,  # random numbers that a resume must take up where they were
}


def write_dataset(root: Path, *, per_class: int = 12) -> Path:
    """A folder of class folders with noisy pictures of one colour."""
    for row, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            noise = np.random.default_rng(1000 * row + number).normal(0, 30, (40, 48, 3))
            pixels = (np.asarray(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
    return root


def interrupted_run(folder: Path) -> tuple[RunFolder, TrainState, RunFingerprint]:
    """A run that has been saved twice, the state it is in, and what it was begun with."""
    kept: list[Any] = []

    def fit(_plan: object, _context: object, state: TrainState, *rest: Any) -> None:
        saver = rest[-1]
        state.step += 1
        saver.save(state)
        kept.extend((state, saver._origin))
        raise Interrupted(ExitCode.INTERRUPTED)

    with patch.object(pipeline, "_fit_share", fit):
        data = write_dataset(folder / "colours", per_class=4)
        try:
            swinclf.train(data, out=str(folder / "runs"), epochs=1, name="saved", **SETTINGS)
        except Interrupted:
            state, fingerprint = kept
    return RunFolder(folder / "runs" / "saved"), state, fingerprint
