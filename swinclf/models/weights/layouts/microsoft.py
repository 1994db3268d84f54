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


def _find_prefix(state: Mapping[str, Tensor]) -> str | None:
    return prefix_of(state, "layers.0.downsample.reduction.weight")


def _convert(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = drop_names(under_prefix(state, prefix), r"mask_token$", r"decoder\.")
    return merge_in_next_stage(body)


LAYOUTS = (
    WeightLayout("SimMIM", _find_prefix, _convert, "imagenet", (r"(^|\.)mask_token$",)),
    WeightLayout("Microsoft Swin", _find_prefix, _convert),
)
