"""Image towers of CLIP and SigLIP: transformers, OpenAI's own code and OpenCLIP.

The text tower, and the temperature and bias of the contrastive loss, are left out. No tensor tells
whether a CLIP was trained with GELU or with its quick approximation: OpenAI's, and all that were
started from it, are `_clip_quickgelu_` in timm's names.

Source: the model files of transformers 4 and 5, CLIP (clip/model.py) and open_clip 2 and 3.
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
    join_qkv,
    prefix_of,
    rename,
    rename_siblings,
    under_prefix,
)

_RULES: Rules = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.self_attn\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_OPEN_RULES: Rules = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ls_(\d)\.gamma$", r".ls\1.gamma"),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def _find_patches(state: Mapping[str, Tensor]) -> str | None:
    return prefix_of(state, "embeddings.patch_embedding.weight")


def _convert_transformers(
    state: Mapping[str, Tensor], prefix: str, wanted: Mapping[str, Tensor]
) -> State:
    body = drop_names(
        under_prefix(state, prefix),
        r"embeddings\.position_ids$",
        *(() if prefix else (r"classifier\.", r"visual_projection\.", r"text_", r"logit_")),
    )
    found = join_qkv(rename(body, _RULES))
    found = _with_batch(found)
    _split_pool(found)
    if "cls_token" in found:
        found |= rename_siblings(state, prefix, {"visual_projection.": "head."})
    elif "attn_pool.latent" not in wanted:  # its classifier uses the mean of all patches
        found = drop_names(found, r"attn_pool\.")
        found |= rename_siblings(state, prefix, {"classifier.": "head."})
    return found


def _with_batch(found: State) -> State:
    """Add timm's batch axis to class token and positions, (1, T, C)."""
    for name, rank in (("cls_token", 3), ("pos_embed", 3)):
        while name in found and found[name].dim() < rank:
            found[name] = found[name].unsqueeze(0)
    return found


def _split_pool(found: State) -> None:
    """Split the joint projection of the attention pooling into queries, and keys with values."""
    for kind in ("weight", "bias"):
        whole = found.pop(f"attn_pool.in_proj.{kind}", None)
        if whole is not None:
            third = len(whole) // 3
            found[f"attn_pool.q.{kind}"] = whole[:third]
            found[f"attn_pool.kv.{kind}"] = whole[third:]


def _open_prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of OpenAI's and OpenCLIP's own ViT, or None."""
    prefix = prefix_of(state, "transformer.resblocks.0.attn.in_proj_weight")
    visual = prefix_of(state, "visual.transformer.resblocks.0.attn.in_proj_weight")
    if visual is not None:
        return visual + "visual."
    return prefix if prefix is not None and prefix + "class_embedding" in state else None


def _convert_open(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    body = under_prefix(state, prefix)
    projection = body.pop("proj", None)
    found = _with_batch(rename(body, _OPEN_RULES))
    if projection is not None:
        found["head.weight"] = projection.t()
    return found


def _trunk_prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of a timm network with a projection within OpenCLIP, or None.

    Without the projection the names are timm's own.
    """
    prefix = prefix_of(state, "visual.trunk.patch_embed.proj.weight")
    if prefix is None or prefix + "visual.head.proj.weight" not in state:
        return None
    return prefix + "visual.trunk."


def _convert_trunk(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    found = under_prefix(state, prefix)
    head = under_prefix(state, re.sub(r"trunk\.$", "head.proj.", prefix))
    if "head.weight" not in found:
        found |= {f"head.{name}": value for name, value in head.items()}
    return found


LAYOUTS = (
    WeightLayout(
        "transformers CLIP",
        _find_patches,
        _convert_transformers,
        "clip",
        (r"(^|\.)embeddings\.class_embedding$",),
    ),
    WeightLayout("transformers SigLIP", _find_patches, _convert_transformers, "half"),
    WeightLayout("OpenCLIP", _open_prefix, _convert_open, "clip"),
    WeightLayout("OpenCLIP with a timm network", _trunk_prefix, _convert_trunk),
)
