"""torchvision: Swin, Swin V2 and ViT.

Source: torchvision/models/swin_transformer.py and vision_transformer.py, 0.13 to 0.29.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import (
    Rules,
    State,
    WeightLayout,
    prefix_of,
    rename,
    under_prefix,
)

_SWIN, _VIT = "features.0.0.weight", "encoder.layers.encoder_layer_0.ln_1.weight"

_SWIN_RULES: Rules = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_VIT_RULES: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
    (r"^heads\.pre_logits\.", "pre_logits.fc."),
)


def _swin_prefix(state: Mapping[str, Tensor]) -> str | None:
    prefix = prefix_of(state, _SWIN)
    is_swin = prefix is not None and f"{prefix}features.1.0.attn.qkv.weight" in state
    return prefix if is_swin else None


def _convert_swin(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = rename(under_prefix(state, prefix), _SWIN_RULES)
    found = {re.sub(r"^features\.(\d+)\.", _stage, name): value for name, value in body.items()}
    for name in [name for name in found if name.endswith(".attn.qkv.bias")]:
        if name.replace("qkv.bias", "logit_scale") in found:  # Swin V2 ignores the bias of keys
            query, _key, own = found[name].chunk(3)
            found[name] = torch.cat((query, torch.zeros_like(query), own))
    return found


def _stage(match: re.Match[str]) -> str:
    """Return the stage of a feature: 1, 3, 5, 7 are blocks, 2, 4, 6 the merging after them."""
    number = int(match[1])
    return f"layers.{number // 2}." + ("blocks." if number % 2 else "downsample.")


def _convert_vit(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    return rename(under_prefix(state, prefix), _VIT_RULES)


LAYOUTS = (
    WeightLayout(
        "torchvision Swin V2", _swin_prefix, _convert_swin, "imagenet", (r"\.attn\.logit_scale$",)
    ),
    WeightLayout("torchvision Swin", _swin_prefix, _convert_swin, "imagenet"),
    WeightLayout("torchvision ViT", lambda state: prefix_of(state, _VIT), _convert_vit, "imagenet"),
)
