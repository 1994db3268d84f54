"""What an export is written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Embed, ExportPrecision


@dataclass(frozen=True)
class ExportSource:
    """A model as the writers of all formats get it.

    Attributes:
        network: In evaluation mode, on the CPU, in float32.
        card: Its model card.
        model: Its model.safetensors; in a run, metrics and settings are next to it.
        embed: What the graph contains besides the network.
        precision: The number format.
        calibration: (N, H, W, 3) uint8 images in the network's size, on which int8 is calibrated
            and a lower precision is timed; None for float32.
    """

    network: nn.Module
    card: ModelCard
    model: Path
    embed: Embed = Embed.NONE
    precision: ExportPrecision = ExportPrecision.FP32
    calibration: np.ndarray | None = None
