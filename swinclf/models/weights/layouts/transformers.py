"""Hugging Face transformers: Swin, Swin V2, ViT, DeiT, ViTMAE, BEiT, DINOv2 and DINOv3.

Each under the names of its files since 2020 and those of a network of transformers 5 in memory.
Source: the model files of transformers 4 and 5.
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
    fold_class_position,
    join_qkv,
    merge_in_next_stage,
    prefix_of,
    rename,
    rename_siblings,
    share_position_bias,
    under_prefix,
)

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_PATCHES_V3 = "embeddings.patch_embeddings.weight"
_BLOCK = r"^(layers\.\d+\.blocks\.\d+\.)"
_SWIN_RULES: Rules = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (_BLOCK + r"attention\.self\.(q|k|v)(uery|ey|alue)\.", r"\1attn.\2."),
    (_BLOCK + r"attention\.(self\.)?(q|k|v)_proj\.", r"\1attn.\3."),
    (_BLOCK + r"attention\.(self\.)?(relative_position_bias\.)?relative_", r"\1attn.relative_"),
    (_BLOCK + r"attention\.(self\.)?continuous_position_bias_mlp\.", r"\1attn.cpb_mlp."),
    (_BLOCK + r"attention\.(self\.)?logit_scale$", r"\1attn.logit_scale"),
    (_BLOCK + r"attention\.(output\.dense|o_proj)\.", r"\1attn.proj."),
    (_BLOCK + r"layernorm_before\.", r"\1norm1."),
    (_BLOCK + r"layernorm_after\.", r"\1norm2."),
    (_BLOCK + r"intermediate\.dense\.", r"\1mlp.fc1."),
    (_BLOCK + r"output\.dense\.", r"\1mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
_SWIN_UNUSED = (r"embeddings\.mask_token$", r"classifier\.", r"decoder\.")


def _swin_prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of the backbone, or None if it is not one of these networks."""
    prefix = prefix_of(state, _PATCHES)
    if prefix is None or not any(
        name.startswith(f"{prefix}encoder.layers.0.blocks.0.") for name in state
    ):
        return None
    return prefix


def _convert_swin(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = drop_names(under_prefix(state, prefix), *_SWIN_UNUSED)
    found = merge_in_next_stage(join_qkv(rename(body, _SWIN_RULES)))
    found |= rename_siblings(state, prefix, {"classifier.": "head."})
    return found


_SWIN_LAYOUTS = (
    WeightLayout(
        "transformers Swin V2",
        _swin_prefix,
        _convert_swin,
        "imagenet",
        signs=("continuous_position_bias_mlp",),
    ),
    WeightLayout("transformers Swin", _swin_prefix, _convert_swin, "imagenet"),
)


_RULES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^(encoder\.relative_position_bias|relative_position_bias)\.", "rel_pos_bias."),
    (r"^(encoder\.layers?|model\.layer|layers?)\.(\d+)\.", r"blocks.\2."),
    (
        r"^(blocks\.\d+\.)(attention\.attention\.)?relative_position_bias\.relative_",
        r"\1attn.relative_",
    ),
    (r"^(blocks\.\d+\.)attention\.attention\.(q|k|v)(uery|ey|alue)\.", r"\1attn.\2."),
    (r"^(blocks\.\d+\.)attention\.(q|k|v)_proj\.", r"\1attn.\2."),
    (r"^(blocks\.\d+\.)attention\.(output\.dense|o_proj)\.", r"\1attn.proj."),
    (r"^(blocks\.\d+\.)layernorm_before\.", r"\1norm1."),
    (r"^(blocks\.\d+\.)layernorm_after\.", r"\1norm2."),
    (r"^(blocks\.\d+\.)(intermediate\.dense|mlp\.weights_in)\.", r"\1mlp.fc1."),
    (r"^(blocks\.\d+\.)(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", r"\1mlp.fc2."),
    (r"^(blocks\.\d+\.)mlp\.gate_proj\.", r"\1mlp.fc1_g."),
    (r"^(blocks\.\d+\.)(layer_scale(\d)\.lambda1|lambda_(\d))$", r"\1ls\3\4.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
)
_UNUSED = (r"embeddings\.mask_token$", r"pooler\.dense\.")  # only for training
_HEADS = {
    "classifier.": "head.",
    "cls_classifier.": "head.",
    "distillation_classifier.": "head_dist.",
}


def _prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of the backbone, or None if it is not one of these networks."""
    prefix = prefix_of(state, _PATCHES)
    if prefix is None:
        prefix = prefix_of(state, _PATCHES_V3)
    blocks = ("encoder.layer.", "encoder.layers.", "model.layer.", "layer.", "layers.")
    if prefix is None or not any(
        name.startswith(tuple(prefix + b for b in blocks)) for name in state
    ):
        return None
    return prefix if not any(".blocks." in name for name in state) else None


def _convert(state: Mapping[str, Tensor], prefix: str, wanted: Mapping[str, Tensor]) -> State:
    body = under_prefix(state, prefix)
    body = {name: value for name, value in body.items() if not name.startswith(tuple(_HEADS))}
    if not prefix:
        body = drop_names(body, r"decoder\.")
    found = join_qkv(rename(drop_names(body, *_UNUSED), _RULES))
    found = _ungated(found)
    found |= rename_siblings(state, prefix, _HEADS)
    if "reg_token" in found and "pos_embed" in found:
        fold_class_position(found)
    share_position_bias(found, wanted)
    return found


def _ungated(state: State) -> State:
    """Name the first layer of an MLP `fc1`, or `fc1_x` if it has a gate."""
    gated = any(".mlp.fc1_g." in name for name in state)
    return rename(state, ((r"\.mlp\.up_proj\.", ".mlp.fc1_x." if gated else ".mlp.fc1."),))


LAYOUTS = (
    *_SWIN_LAYOUTS,
    WeightLayout("transformers BEiT", _prefix, _convert, signs=(r"\.lambda_1",)),
    WeightLayout(
        "transformers DeiT", _prefix, _convert, "imagenet", (r"embeddings\.distillation_token",)
    ),
    WeightLayout(
        "transformers DINOv3", _prefix, _convert, "imagenet", (rf"(^|\.){re.escape(_PATCHES_V3)}$",)
    ),
    WeightLayout("transformers DINOv2", _prefix, _convert, "imagenet", (r"\.layer_scale1\.",)),
    WeightLayout(
        "transformers ViTMAE", _prefix, _convert, "imagenet", (r"decoder\.decoder_embed\.",)
    ),
    WeightLayout("transformers ViT", _prefix, _convert),
)
