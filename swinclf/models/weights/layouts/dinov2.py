"""ViT as Meta's DINOv2 stores it: a mask token, registers without a position, SwiGLU's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.layouts.layout import Layout, State


def _recognises(state: Mapping[str, Tensor]) -> bool:
    return "mask_token" in state and "cls_token" in state and "patch_embed.proj.weight" in state


def _convert(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Add the class token's position to the token itself where there are registers."""
    del wanted
    found = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return {
        name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): value
        for name, value in found.items()
    }


DINOV2 = Layout("Meta DINOv2", _recognises, _convert)
