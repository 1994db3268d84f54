"""Swin in the layout of Microsoft's own code: patch merging belongs to the previous stage.

SimMIM, Microsoft's masked pretraining, has the same encoder below `encoder.`, with a mask token and
a decoder that are left out.

Source: microsoft/Swin-Transformer, models/swin_transformer.py and simmim.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import (
    State,
    WeightLayout,
    drop_names,
    prefix_of,
    under_prefix,
)

_MERGING = "layers.0.downsample.reduction.weight"
_COMPUTED = (r".*\.relative_(position_index|coords_table)$", r".*\.attn_mask$")


def _find_simmim(state: Mapping[str, Tensor]) -> str | None:
    prefix = prefix_of(state, _MERGING)
    return prefix if prefix is not None and prefix + "mask_token" in state else None


def _convert(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = drop_names(under_prefix(state, prefix), r"mask_token$", r"decoder\.", *_COMPUTED)
    return {
        re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name): value
        for name, value in body.items()
    }


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


LAYOUTS = (
    WeightLayout("SimMIM", _find_simmim, _convert, "imagenet"),
    WeightLayout("Microsoft Swin", lambda state: prefix_of(state, _MERGING), _convert),
)
