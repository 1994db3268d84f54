"""Hugging Face transformers: Swin and Swin V2, in old and new names.

Source: the model files of transformers 4 and 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.layouts.fit_names import fit_names
from swinclf.models.weights.layouts.naming import (
    Rules,
    drop_names,
    join_qkv,
    prefix_of,
    rename,
    rename_siblings,
    under_prefix,
)
from swinclf.models.weights.layouts.weight_layout import State, WeightLayout

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_BLOCK = r"^(layers\.\d+\.blocks\.\d+\.)"
_RULES: Rules = (
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
# For masked training, or computed from the window.
_UNUSED = (r"embeddings\.mask_token$", r".*\.relative_(position_index|coords_table)$")


def _prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of the backbone, or None if it is not one of these networks."""
    prefix = prefix_of(state, _PATCHES)
    if prefix is None or not any(
        name.startswith(f"{prefix}encoder.layers.0.blocks.0.") for name in state
    ):
        return None
    return prefix


def _is_second(state: Mapping[str, Tensor]) -> bool:
    return any("continuous_position_bias_mlp" in name for name in state)


def _convert(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    prefix = _prefix(state)
    assert prefix is not None
    body = drop_names(under_prefix(state, prefix), *_UNUSED, r"classifier\.", r"decoder\.")
    found = join_qkv(rename(body, _RULES))
    found = {
        re.sub(r"^layers\.(\d+)\.downsample\.", _next_stage, name): value
        for name, value in found.items()
    }
    found |= rename_siblings(state, prefix, {"classifier.": "head."})
    return fit_names(found, wanted)


def _next_stage(match: re.Match[str]) -> str:
    """Return the name of patch merging as part of the next stage."""
    return f"layers.{int(match[1]) + 1}.downsample."


LAYOUTS = (
    WeightLayout(
        "transformers Swin V2",
        lambda state: _prefix(state) is not None and _is_second(state),
        _convert,
        "imagenet",
    ),
    WeightLayout(
        "transformers Swin",
        lambda state: _prefix(state) is not None and not _is_second(state),
        _convert,
        "imagenet",
    ),
)
