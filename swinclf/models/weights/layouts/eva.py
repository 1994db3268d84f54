"""BEiT and EVA-02 in their own code's layout, before and after fine-tuning.

Source: microsoft/unilm, beit/modeling_finetune.py and modeling_pretrain.py; baaivision/EVA,
EVA-02/asuka.
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
    fit_names,
    join_qkv,
    prefix_of,
    rename,
    share_position_bias,
    under_prefix,
)

_PATCHES = "patch_embed.proj.weight"
_RULES: Rules = (
    (r"\.attn\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attn\.(q|v)_bias$", r".attn.\1.bias"),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_UNUSED = (
    r"mask_token$",
    r"lm_head\.",
    r"(.*\.)?rope\.",
    r"(.*\.)?relative_position_index$",
    r"(cls_pt|teacher|decoder)",
)


def _is_eva(state: Mapping[str, Tensor]) -> bool:
    gates = (".mlp.w1.weight", ".mlp.w12.weight", ".mlp.ffn_ln.weight")
    return _has(state, gates) and _has(state, (".attn.q_proj.weight", ".attn.q_bias"))


def _is_beit(state: Mapping[str, Tensor]) -> bool:
    own = ("lm_head.weight", "rel_pos_bias.relative_position_bias_table")
    return _has(state, own) and _has(state, (".attn.q_bias",))


def _has(state: Mapping[str, Tensor], endings: tuple[str, ...]) -> bool:
    """Return whether a ViT has a name with one of these endings."""
    is_vit = prefix_of(state, _PATCHES) is not None
    return is_vit and any(name.endswith(endings) for name in state)


def _convert(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    prefix = prefix_of(state, _PATCHES)
    assert prefix is not None
    found = rename(drop_names(under_prefix(state, prefix), *_UNUSED), _RULES)
    for name in [name for name in found if re.search(r"\.attn\.q\.bias$", name)]:
        joined = name.replace(".q.bias", ".qkv.weight")
        if joined in found:  # one product with two biases: split here, joined below
            parts = found.pop(joined).chunk(3)
            base = joined.removesuffix("qkv.weight")
            found |= {f"{base}{part}.weight": one for part, one in zip("qkv", parts, strict=True)}
    found = join_qkv(found)
    share_position_bias(found, wanted)
    if "norm.weight" in found and "norm.weight" not in wanted and "fc_norm.weight" in wanted:
        # Masked pretraining has no pooled norm; timm starts fine-tuning from its last one.
        found = rename(found, ((r"^norm\.", "fc_norm."),))
    return fit_names(found, wanted)


LAYOUTS = (
    WeightLayout("EVA-02", _is_eva, _convert, "clip"),
    WeightLayout("BEiT", _is_beit, _convert),
)
