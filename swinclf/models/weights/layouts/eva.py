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


def _find_eva(state: Mapping[str, Tensor]) -> str | None:
    gates = (".mlp.w1.weight", ".mlp.w12.weight", ".mlp.ffn_ln.weight")
    return _prefix_with(state, gates, (".attn.q_proj.weight", ".attn.q_bias"))


def _find_beit(state: Mapping[str, Tensor]) -> str | None:
    own = ("lm_head.weight", "rel_pos_bias.relative_position_bias_table")
    return _prefix_with(state, own, (".attn.q_bias",))


def _prefix_with(state: Mapping[str, Tensor], *endings: tuple[str, ...]) -> str | None:
    """Return the prefix of a ViT that has a name with one of each of these endings."""
    has_all = all(any(name.endswith(one) for name in state) for one in endings)
    return prefix_of(state, _PATCHES) if has_all else None


def _convert(state: Mapping[str, Tensor], prefix: str, wanted: Mapping[str, Tensor]) -> State:
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
    return found


LAYOUTS = (
    WeightLayout("EVA-02", _find_eva, _convert, "clip"),
    WeightLayout("BEiT", _find_beit, _convert),
)
