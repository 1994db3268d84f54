"""mmpretrain, mmcls, mmdetection and mmsegmentation: ViT, Swin and Swin V2.

Source: mmpretrain/models/backbones/vision_transformer.py, swin_transformer.py and
swin_transformer_v2.py, and the converters in tools/model_converters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import (
    Rules,
    State,
    WeightLayout,
    drop_names,
    prefix_of,
    rename,
    rename_siblings,
    under_prefix,
)

_VIT, _SWIN = "layers.0.ffn.layers.0.0.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"

_RULES: Rules = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^(ln1|norm1)\.", "norm."),
    (r"^(ln2|norm2)\.", "fc_norm."),
    (r"^pre_norm\.", "norm_pre."),
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.(attn|ffn)\.gamma(\d)\.weight$", r".ls\2.gamma"),
)
_SWIN_RULES: Rules = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^norm3\.", "norm."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_HEADS = {
    "head.layers.head.": "head.",
    "head.layers.head_dist.": "head_dist.",
    "head.layers.pre_logits.": "pre_logits.fc.",
    "head.fc.": "head.",
}


def _convert_vit(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = drop_names(under_prefix(state, prefix), r"head\.")
    return rename(body, _RULES) | rename_siblings(state, prefix, _HEADS)


def _convert_swin(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = rename(drop_names(under_prefix(state, prefix), r"head\."), _SWIN_RULES)
    # Swin V2 merges patches at the start of a stage, as timm does; Swin at the end of the previous.
    later = any(name.startswith("stages.0.downsample.") for name in body)
    found = {}
    for name, value in body.items():
        merging = re.match(r"stages\.(\d+)\.downsample\.(.*)", name)
        if merging:
            # The norm of Swin V2 is over the merged channels, in the network's own order.
            before = later or not merging[2].startswith("norm.")
            stage = int(merging[1]) + later
            found[f"layers.{stage}.downsample.{merging[2]}"] = _in_order(value) if before else value
        else:
            found[re.sub(r"^stages\.", "layers.", name)] = value
    return found | rename_siblings(state, prefix, _HEADS)


def _in_order(value: Tensor) -> Tensor:
    """Reorder the channels of patch merging to timm's order of the four patches.

    OpenMMLab's come from torch's unfold: channel by channel, rows before columns. timm's are patch
    by patch, columns before rows.
    """
    patches = value.reshape(*value.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]  # (..., C, 4)
    return patches.transpose(-1, -2).reshape(value.shape)


LAYOUTS = (
    WeightLayout(
        "OpenMMLab Swin", lambda state: prefix_of(state, _SWIN), _convert_swin, "imagenet"
    ),
    WeightLayout("OpenMMLab ViT", lambda state: prefix_of(state, _VIT), _convert_vit),
)
