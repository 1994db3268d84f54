"""Swin as Microsoft's own code stores it: patch merging belongs to the stage before it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.layouts.layout import Layout, State


def _recognises(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("layers.0.downsample.") for name in state)


def _convert(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Count patch merging to the stage after it, and name the head as timm does."""
    del wanted
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name)
        renamed[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)] = value
    return renamed


def _next_stage(match: re.Match[str]) -> str:
    """Return the name of patch merging as part of the stage after it."""
    return f"layers.{int(match[1]) + 1}.downsample"


MICROSOFT = Layout("Microsoft Swin", _recognises, _convert)
