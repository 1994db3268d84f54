"""Swin in the layout of Microsoft's own code: patch merging belongs to the previous stage.

SimMIM, Microsoft's masked pretraining, has the same encoder below `encoder.`, with a mask token and
a decoder that are left out.

Source: microsoft/Swin-Transformer, models/swin_transformer.py and simmim.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import (
    State,
    WeightLayout,
    drop_names,
    merge_in_next_stage,
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
    return merge_in_next_stage(body)


LAYOUTS = (
    WeightLayout("SimMIM", _find_simmim, _convert, "imagenet"),
    WeightLayout("Microsoft Swin", lambda state: prefix_of(state, _MERGING), _convert),
)
