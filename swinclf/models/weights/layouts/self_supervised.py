"""ViTs of self-supervised training: DINO, iBOT, DINOv2, DINOv3, MAE and MoCo v3.

The encoder is named as in timm except for a few tensors; parts only for training (the other
encoder, mask tokens, decoders, projection heads) are left out. No tensor tells that MoCo v3's
ViT-S has 12 heads where timm's has 6.

Source: the published code of each (facebookresearch/dino, dinov2, dinov3, mae, moco-v3 and
bytedance/ibot).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swinclf.errors import WeightsError
from swinclf.models.weights.layouts.weight_layout import (
    Rules,
    State,
    WeightLayout,
    drop_names,
    fold_class_position,
    rename,
    under_prefix,
)

_PATCHES = "patch_embed.proj.weight"
# Preferred encoder if a file holds several: the average that DINO evaluates, the encoder that MoCo
# evaluates.
_ENCODERS = ("teacher.", "base_encoder.", "student.", "")

_RULES: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks count blocks from the first on
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^(register|storage)_tokens$", "reg_token"),
)
_UNUSED = (
    r"mask_token$",
    r"masked_embed$",
    r"decoder_",
    r"rope_embed\.periods$",
    r".*\.attn\.qkv\.bias_mask$",
    r"(local_)?cls_norm\.",
    r"head\.(mlp\.|last_layer\.|\d+\.|norm)",
)


def _prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of the preferred encoder, or None if there is no ViT."""
    found = [name.removesuffix(_PATCHES) for name in state if name.endswith(_PATCHES)]
    found = [prefix for prefix in found if prefix + "cls_token" in state]
    order = [next(n for n, word in enumerate(_ENCODERS) if word in prefix) for prefix in found]
    return found[order.index(min(order))] if found else None


def _convert(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = under_prefix(state, prefix)
    if prefix + "storage_tokens" in state:
        body = _without_key_bias(body)
        _check_periods(body.get("rope_embed.periods"))
    found = rename(drop_names(body, *_UNUSED), _RULES)
    if "reg_token" in found and "pos_embed" in found:
        fold_class_position(found)
    return found


def _without_key_bias(state: State) -> State:
    """Set DINOv3's bias of the keys to zero, as its mask does."""
    masked = dict(state)
    for name in state:
        if name.endswith(".attn.qkv.bias") and name + "_mask" in state:
            query, key, value = state[name].chunk(3)
            masked[name] = torch.cat((query, torch.zeros_like(key), value))
    return masked


def _check_periods(periods: Tensor | None) -> None:
    """Refuse rotary positions of another base than 100, which timm does not compute."""
    if periods is None or periods.is_meta:
        return
    steps = torch.arange(len(periods), dtype=torch.float32) / len(periods)
    if not torch.allclose(periods.float(), 100**steps, rtol=1e-2):
        raise WeightsError(
            "DINOv3 with rotary positions of base 100",
            found=f"probably a Meta DINOv3 checkpoint, but of longest period {periods[-1]}",
            hint="weights published by Meta",
        )


LAYOUTS = tuple(
    WeightLayout(name, _prefix, _convert, "imagenet", tuple(signs))
    for name, *signs in (
        ("Meta DINOv3", r"(^|\.)storage_tokens$"),
        ("MoCo v3", r"(^|\.)base_encoder\.", r"(^|\.)(momentum_encoder|predictor)\."),
        ("iBOT", r"(^|\.)masked_embed$"),
        ("MAE", r"(^|\.)decoder_embed\.weight$"),
        ("Meta DINOv2", r"(^|\.)(mask_token|register_tokens)$"),
        ("Meta DINO", r"(^|\.)(head\.last_layer|dino_head)\."),
        ("Meta DINOv2", r"(^|\.)blocks\.\d+\.\d+\.norm1\.weight$"),
    )
)
