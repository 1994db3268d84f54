"""ViT as Google's JAX code stores it: kernels are (in, out), heads are an axis of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from swinclf.models.weights.layouts.layout import Layout, State

# Google's name to ours. A block's parts are numbered in the order of a list that has grown, so the
# numbers differ between releases: the attention is 0 or 1, the second norm 1 or 2, the MLP 0 or 3.
_GOOGLE = (
    (r"embedding/", "patch_embed.proj."),
    (r"cls", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
    (r"Transformer/encoder_norm/", "norm."),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/", r"blocks.\1.norm1."),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_[12]/", r"blocks.\1.norm2."),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_0/", r"blocks.\1.mlp.fc1."),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_1/", r"blocks.\1.mlp.fc2."),
    (
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_\d/out/",
        r"blocks.\1.attn.proj.",
    ),
    (
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_\d/(query|key|value)/",
        r"blocks.\1.attn.\2.",
    ),
    (r"pre_logits/", "pre_logits.fc."),
    (r"head/", "head."),
)


def _recognises(state: Mapping[str, Tensor]) -> bool:
    return any(name.endswith("embedding/kernel") for name in state)


def _convert(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Rename and transpose what JAX stores."""
    del wanted
    found: State = {}
    for name, value in state.items():
        name = re.sub(r"^(opt/target/|params/)", "", name)
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
            joined = torch.cat([found.pop(part) for part in parts])
            found[name.replace(".query.", ".qkv.")] = joined
    return found


def _torch_layout(name: str, value: Tensor) -> Tensor:
    """Return a kernel as PyTorch lays it out, and a bias with its heads side by side."""
    if name == "patch_embed.proj.weight" and value.dim() == 4:
        return value.permute(3, 2, 0, 1)  # (H, W, 3, C) -> (C, 3, H, W)
    if name.endswith(".bias"):
        return value.flatten()  # (A, E) -> (C,)
    if ".attn.proj." in name:
        return value.flatten(0, -2).t()  # (A, E, C) -> (C, A * E)
    return value.flatten(1).t()  # (C, D) or (C, A, E) -> (D, C) or (A * E, C)


GOOGLE = Layout("Google JAX", _recognises, _convert)
