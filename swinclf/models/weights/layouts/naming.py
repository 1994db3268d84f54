"""Helpers of the layouts: renaming, joining, splitting and selecting tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import State

Rules = tuple[tuple[str, str], ...]
"""Pairs of a regular expression and its replacement, applied in order."""


def rename(state: Mapping[str, Tensor], rules: Rules) -> State:
    """Rename tensors: every rule is applied to every name, in order."""
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    renamed = {}
    for name, value in state.items():
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        renamed[name] = value
    return renamed


def drop_names(state: Mapping[str, Tensor], *patterns: str) -> State:
    """Return the tensors whose name no pattern matches at its start."""
    dropped = re.compile("|".join(patterns))
    return {name: value for name, value in state.items() if not dropped.match(name)}


def prefix_of(names: Iterable[str], anchor: str) -> str | None:
    """Return the part before `anchor` of the first name that ends with it, or None."""
    for name in names:
        if name == anchor or name.endswith("." + anchor):
            return name.removesuffix(anchor)
    return None


def under_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the tensors under a prefix, with the prefix removed."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def rename_siblings(state: Mapping[str, Tensor], prefix: str, names: Mapping[str, str]) -> State:
    """Return the siblings of a part of a larger network, under new names.

    `prefix` is that of the part, such as "vit." or "model.vit."; `names` has the new prefix of each
    sibling by its old one, such as {"classifier.": "head."}.
    """
    parts = prefix.split(".")[:-1]
    levels = {"".join(f"{part}." for part in parts[:depth]) for depth in range(len(parts) + 1)}
    found = {}
    for name, value in state.items():
        for level in levels:
            for theirs, ours in names.items():
                if name.startswith(level + theirs):
                    found[ours + name.removeprefix(level + theirs)] = value
    return found


def join_qkv(state: Mapping[str, Tensor]) -> State:
    """Join `attn.q`, `attn.k` and `attn.v` into `attn.qkv`; a missing bias is zero."""
    joined = dict(state)
    for name in [name for name in state if re.search(r"\battn\.q\.weight$", name)]:
        base = name.removesuffix("q.weight")
        parts = [f"{base}{part}." for part in "qkv"]
        if not all(part + "weight" in joined for part in parts):
            continue
        biases = [joined.pop(part + "bias", None) for part in parts]
        weights = [joined.pop(part + "weight") for part in parts]
        joined[base + "qkv.weight"] = torch.cat(weights)
        if any(bias is not None for bias in biases):
            filled = [
                weight.new_zeros(weight.shape[0]) if bias is None else bias
                for bias, weight in zip(biases, weights, strict=True)
            ]
            joined[base + "qkv.bias"] = torch.cat(filled)
    return joined


def fold_class_position(state: State) -> None:
    """Add the class token's position to the token, for networks whose table has only patches."""
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]


def is_square(count: int) -> bool:
    """Return whether a number of patches is a square."""
    return count > 0 and math.isqrt(count) ** 2 == count
