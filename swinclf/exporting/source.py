"""What an export is written from: a network, its card, and the metadata that all formats carry."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Embed, ExportPrecision
from swinclf.errors import ExportError, RunError
from swinclf.files import read_json
from swinclf.models.embedded import architecture_name
from swinclf.models.names import OWN_SHAPES
from swinclf.preprocess import Fit
from swinclf.run_folder import RunFolder


@dataclass(frozen=True)
class ExportSource:
    """A model as the writers of all formats get it."""

    network: nn.Module  # in evaluation mode, on the CPU, in float32
    card: ModelCard
    model: Path  # its model.safetensors; in a run, metrics and settings are next to it
    # license of the weights that the training started from, such as `apache-2.0`; `none` if it
    # started from random ones, `unknown` if nobody has stated it
    license: str
    embed: Embed = Embed.NONE  # what the graph contains besides the network
    precision: ExportPrecision = ExportPrecision.FP32
    # (N, H, W, 3) uint8 images in the network's size, on which int8 is calibrated and a lower
    # precision is timed; None for float32
    calibration: np.ndarray | None = None

    def metadata(self) -> dict[str, str]:
        """Return the metadata of an exported file: `docs/exports.md` documents the keys.

        The temperature is 1, as the exported logits are already divided by it.
        """
        card = self.card
        preprocess = card.preprocess
        if preprocess.fit is not Fit.CROP:  # nothing is cropped
            preprocess = replace(preprocess, crop_pct=1.0)
        confidence = replace(card.confidence, temperature=1.0)
        reject = {
            "min_probability": {
                f"{row.precision:g}": row.probability for row in confidence.thresholds
            },
            "max_ood_score": confidence.ood_threshold if confidence.space else 0.0,
        }
        return {
            **replace(card, preprocess=preprocess, confidence=confidence).to_metadata(),
            "reject": json.dumps(reject),
            "license": self.license,
        }


def check_export_folder(folder: Path, entry_file: str) -> None:
    """Raise an ExportError unless a folder is new, empty or an earlier export, with that file."""
    is_file = folder.is_file()
    if is_file or folder.exists() and not (folder / entry_file).is_file() and any(folder.iterdir()):
        raise ExportError(
            f"an empty or a new folder for the export, or an earlier export: '{folder}'",
            found="a file" if is_file else "other files",
            hint="--output FOLDER",
        )


def starting_license(model: Path, name: str) -> str:
    """Return the license of the weights that a run started from; see `ExportSource.license`."""
    config: dict[str, object] = {}
    with suppress(RunError):
        config = read_json(RunFolder(model.parent).config)
    if config.get("pretrained") is False and not config.get("weights"):
        return "none"
    if not config.get("pretrained") or config.get("weights") or name in OWN_SHAPES:
        return "unknown"
    from swinclf.models.timm_networks import published_license

    return published_license(architecture_name(name))
