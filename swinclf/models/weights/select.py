"""A weights file as it was read: its tensors, where they are from, what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file or folder holds."""

    tensors: Mapping[str, Tensor]
    """By their names in the file, of the state dict that was selected."""
    source: Path
    """The file, or the folder of shards."""
    config: Mapping[str, Any] | None = None
    """config.json of the folder, or what the checkpoint says of its network (`args`, `arch`)."""
    notes: tuple[str, ...] = ()
    """What was selected and why, a phrase each, for the report."""
