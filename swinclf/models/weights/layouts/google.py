"""ViT in the layout of Google's JAX code: kernels are (in, out), heads are a separate axis.

vit_jax and big_vision. They approximate GELU by tanh, whereas timm is exact for most names;
`--model vit --model-arg activation=gelu_tanh` computes it in the same way.

Source: google-research/vision_transformer and google-research/big_vision, models/vit.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import (
    State,
    WeightLayout,
    under_prefix,
)

_PATCHES = "embedding/kernel"
_ATTENTION = r"MultiHeadDotProductAttention_\d/"
# Google's name to ours. A block's parts are numbered in the order of a growing list, so the numbers
# differ between releases: the attention is 0 or 1, the second norm 1 or 2, the MLP 0 or 3.
_GOOGLE = (
    (r"embedding/", "patch_embed.proj."),
    (r"cls$", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
    (r"Transformer/encoder_norm/", "norm."),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/", r"blocks.\1.norm1."),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_[12]/", r"blocks.\1.norm2."),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_0/", r"blocks.\1.mlp.fc1."),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_1/", r"blocks.\1.mlp.fc2."),
    (rf"Transformer/encoderblock_(\d+)/{_ATTENTION}out/", r"blocks.\1.attn.proj."),
    (rf"Transformer/encoderblock_(\d+)/{_ATTENTION}(query|key|value)/", r"blocks.\1.attn.\2."),
    (r"MAPHead_0/probe", "attn_pool.latent"),
    (rf"MAPHead_0/{_ATTENTION}out/", "attn_pool.attn.proj."),
    (rf"MAPHead_0/{_ATTENTION}(query|key|value)/", r"attn_pool.attn.\1."),
    (r"MAPHead_0/LayerNorm_0/", "attn_pool.norm."),
    (r"MAPHead_0/MlpBlock_0/Dense_0/", "attn_pool.mlp.fc1."),
    (r"MAPHead_0/MlpBlock_0/Dense_1/", "attn_pool.mlp.fc2."),
    (r"pre_logits/", "pre_logits.fc."),
    (r"head/", "head."),
)


def _find_prefix(state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of the weights rather than of the optimizer's averages of them."""
    found = [name.removesuffix(_PATCHES) for name in state if name.endswith(_PATCHES)]
    return min(found, key=lambda prefix: "state" in prefix, default=None)


def _convert(state: Mapping[str, Tensor], prefix: str, _: Mapping[str, Tensor]) -> State:
    found: State = {}
    for name, value in _unstacked(under_prefix(state, prefix)).items():
        for theirs, ours in _GOOGLE:
            name, done = re.subn(f"^{theirs}", ours, name)
            if done:
                break
        name, kernel = re.subn("kernel$", "weight", name)
        name = re.sub("scale$", "weight", name)
        found[name] = _torch_layout(name, value) if kernel or ".attn." in name else value
    for name in [name for name in found if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in found for part in parts):
            query, key, value = (found.pop(part) for part in parts)
            if name.startswith("attn_pool."):
                found[name.replace("attn.query.", "q.")] = query
                found[name.replace("attn.query.", "kv.")] = torch.cat((key, value))
            else:
                found[name.replace(".query.", ".qkv.")] = torch.cat((query, key, value))
    return {name.replace("attn_pool.attn.", "attn_pool."): one for name, one in found.items()}


def _unstacked(state: State) -> State:
    """Split blocks that are stacked in one array each."""
    found: State = {}
    for name, value in state.items():
        if "/encoderblock/" in name:
            for index, one in enumerate(value):
                found[name.replace("/encoderblock/", f"/encoderblock_{index}/")] = one
        else:
            found[name] = value
    return found


def _torch_layout(name: str, value: Tensor) -> Tensor:
    """Transpose a kernel to PyTorch's layout; join the heads of a bias."""
    if name == "patch_embed.proj.weight" and value.dim() == 4:
        return value.permute(3, 2, 0, 1)  # (H, W, 3, C) -> (C, 3, H, W)
    if name.endswith(".bias"):
        return value.flatten()  # (A, E) -> (C,)
    if ".attn.proj." in name:
        return value.flatten(0, -2).t()  # (A, E, C) -> (C, A * E)
    return value.flatten(1).t()  # (C, D) or (C, A, E) -> (D, C) or (A * E, C)


GOOGLE = WeightLayout("Google JAX", _find_prefix, _convert)
