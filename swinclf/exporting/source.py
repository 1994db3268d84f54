"""What an export is written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from swinclf.card import ModelCard


@dataclass(frozen=True)
class ExportSource:
    """A model as the writers of all formats get it.

    Attributes:
        network: In evaluation mode, on the CPU, in float32.
        card: Its model card.
        model: Its model.safetensors; in a run, metrics and settings are next to it.
    """

    network: nn.Module
    card: ModelCard
    model: Path
