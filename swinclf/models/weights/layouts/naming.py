"""Helpers of the layouts: tensors renamed, joined, split and taken out of larger networks.

Knows no tool.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from swinclf.models.weights.layouts.layout import State

Rules = tuple[tuple[str, str], ...]
"""Pairs of a regular expression and its replacement, applied one after the other."""


def rename(state: Mapping[str, Tensor], rules: Rules) -> State:
    """Return the tensors under new names: every rule is applied to every name, in order."""
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    renamed = {}
    for name, value in state.items():
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        renamed[name] = value
    return renamed


def without(state: Mapping[str, Tensor], *patterns: str) -> State:
    """Return the tensors of which no pattern matches the start of the name."""
    dropped = re.compile("|".join(patterns))
    return {name: value for name, value in state.items() if not dropped.match(name)}


def prefix_of(names: Iterable[str], anchor: str) -> str | None:
    """Return what stands before `anchor` in the first name that ends with it, or None."""
    for name in names:
        if name == anchor or name.endswith("." + anchor):
            return name.removesuffix(anchor)
    return None


def beneath(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def siblings(state: Mapping[str, Tensor], prefix: str, names: Mapping[str, str]) -> State:
    """Return what stands beside a part of a larger network, under new names.

    Args:
        state: All tensors.
        prefix: Prefix of the part, such as "vit." or "model.vit.".
        names: Prefix of a sibling to its new prefix, such as {"classifier.": "head."}.
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
    """Join `attn.q`, `attn.k` and `attn.v` into `attn.qkv`; a bias that is missing is zero."""
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
    """Add the class token's position to the token, in networks whose table is of patches alone."""
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]


def is_square(count: int) -> bool:
    """Whether so many patches make a square."""
    return count > 0 and math.isqrt(count) ** 2 == count
