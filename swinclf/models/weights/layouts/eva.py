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
    r"(cls_pt|teacher|decoder)",
)


def _find_vit(state: Mapping[str, Tensor]) -> str | None:
    return prefix_of(state, "patch_embed.proj.weight")


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


_Q_BIAS = r"\.attn\.q_bias$"
LAYOUTS = (
    WeightLayout(
        "EVA-02",
        _find_vit,
        _convert,
        "clip",
        (r"\.mlp\.(w1|w12|ffn_ln)\.weight$", rf"\.attn\.q_proj\.weight$|{_Q_BIAS}"),
    ),
    WeightLayout(
        "BEiT",
        _find_vit,
        _convert,
        signs=(r"lm_head\.weight$|rel_pos_bias\.relative_position_bias_table$", _Q_BIAS),
    ),
)
