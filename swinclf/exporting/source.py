"""What an export is written from: a network, its card, and the metadata that all formats carry."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from swinclf.card import ModelCard
from swinclf.preprocess import Fit


@dataclass(frozen=True)
class ExportSource:
    """A model as the writers of all formats get it.

    Attributes:
        network: In evaluation mode, on the CPU, in float32.
        card: Its model card.
        model: Its model.safetensors; in a run, metrics and settings are next to it.
        license: License of the weights that the training started from, such as `apache-2.0`;
            `none` if it started from random ones, `unknown` if nobody has stated it.
    """

    network: nn.Module
    card: ModelCard
    model: Path
    license: str

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
