"""Definition of a weight layout, and the steps of its conversion to timm's naming.

timm's ViT, EVA and BEiT, and this package's networks, compute alike in part but name and split
their tensors differently. Layouts convert to one form, which `fit_names` fits to the network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class WeightLayout:
    """The names and shapes of a tool's files."""

    name: str  # the tool, as in a report: "Microsoft Swin"
    # prefix of the network in a state dict; None in another layout. Called often: names only
    find_prefix: Callable[[Mapping[str, Tensor]], str | None]
    # (tensors of the file, prefix, state dict of the network) -> the tensors in timm's naming.
    # Tensors without a counterpart keep a name that the network lacks, and are reported; those
    # that are computed from the window are removed before
    rename: Callable[[Mapping[str, Tensor], str, Mapping[str, Tensor]], State]
    # name of the colour statistics of every published file of this layout: `imagenet`, `clip` or
    # `half`. None: files differ
    normalisation: str | None = None
    # regular expressions, each of which is found in some name of a file of this layout
    signs: tuple[str, ...] = ()

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State | None:
        """Return the tensors of a file as in a network; None if it is in another layout."""
        prefix = self.prefix_in(state)
        return None if prefix is None else fit_names(self.rename(state, prefix, wanted), wanted)

    def prefix_in(self, state: Mapping[str, Tensor]) -> str | None:
        """Return the prefix of the network in a file; None if it is in another layout."""
        prefix = self.find_prefix(state)
        has_signs = prefix is not None and all(
            any(re.search(sign, name) for name in state) for sign in self.signs
        )
        return prefix if has_signs else None


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


def merge_in_next_stage(state: Mapping[str, Tensor]) -> State:
    """Move Swin's patch merging from the end of a stage to the start of the next one."""

    def moved(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) + 1}.downsample."

    pattern = r"^layers\.(\d+)\.downsample\."
    return {re.sub(pattern, moved, name): value for name, value in state.items()}


def fold_class_position(state: State) -> None:
    """Add the class token's position to the token, for networks whose table has only patches."""
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]


def is_square(count: int) -> bool:
    """Return whether a number of patches is a square."""
    return count > 0 and math.isqrt(count) ** 2 == count


_QKV_BIAS = re.compile(r"(.*\battn\.)qkv\.bias$")


def fit_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Rename and split tensors as in the network.

    A change preserves the network's function, and is made only if the network has the new name and
    not the old one. `state` is under timm's names: `attn.qkv`, `ls1.gamma`, `mlp.fc1_g`, `head`.
    """
    found: State = {}
    for name, value in state.items():
        found.update(_fit(name, value, wanted))
    _join_gates(found, wanted)
    _fit_class_position(found, wanted)
    _fill_biases(found, wanted)
    return found


_TWO_NAMES = (
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def name_in(wanted: Mapping[str, Tensor], name: str) -> str:
    """Return the network's name of a tensor that timm itself names in two ways, else `name`."""
    if name not in wanted:
        for pattern, new in _TWO_NAMES:
            other = re.sub(pattern, new, name)
            if other in wanted:
                return other
    return name


def _fit(name: str, value: Tensor, wanted: Mapping[str, Tensor]) -> State:
    """Return one tensor under the network's name, or its parts under theirs."""
    if name in wanted:
        return {name: value}
    bias = _QKV_BIAS.match(name)
    if bias:
        return _fit_bias(bias[1], value, wanted)
    if (other := name_in(wanted, name)) != name:
        return {other: value}
    match = re.match(r"(.*\battn\.)qkv\.weight$", name)
    if match and match[1] + "q_proj.weight" in wanted:
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{match[1]}{part}_proj.weight": third for part, third in parts}
    match = re.match(r"(.*\.mlp\.)fc1\.(weight|bias)$", name)
    if match and f"{match[1]}fc1_g.{match[2]}" in wanted:
        gate, inner = value.chunk(2)
        return {f"{match[1]}fc1_g.{match[2]}": gate, f"{match[1]}fc1_x.{match[2]}": inner}
    return {name: value}


def _fit_bias(base: str, value: Tensor, wanted: Mapping[str, Tensor]) -> State:
    """Split the bias of queries, keys and values as in the network.

    A bias of the keys adds the same number to all of a query's scores, which softmax ignores; so
    BEiT and EVA have none. This does not hold if positions rotate or normalise the keys, but there
    the tools fix it at zero, which is checked.
    """
    query, key, own = value.chunk(3)
    if base + "q_bias" in wanted:
        parts = {base + "q_bias": query, base + "v_bias": own}
        if base + "k_bias" in wanted:
            parts[base + "k_bias"] = key
        elif _is_used(key) and base + "relative_position_bias_table" not in wanted:
            return {base + "qkv.bias": value}  # refused as a surplus tensor
        return parts
    if base + "q_proj.bias" in wanted:
        parts = {base + "q_proj.bias": query, base + "v_proj.bias": own}
        if base + "k_proj.bias" in wanted:
            parts[base + "k_proj.bias"] = key
        return parts
    return {base + "qkv.bias": value} if value.is_meta or _is_used(value) else {}


def _is_used(value: Tensor) -> bool:
    """Return whether a bias is not zero; False on the meta device, where only shapes matter."""
    return not value.is_meta and bool(value.any())


def _join_gates(found: State, wanted: Mapping[str, Tensor]) -> None:
    """Join the two halves of a gated MLP if the network computes them in one product."""
    for gate in [name for name in found if ".mlp.fc1_g." in name and name not in wanted]:
        inner, whole = gate.replace("fc1_g", "fc1_x"), gate.replace("fc1_g", "fc1")
        if whole in wanted and inner in found:
            found[whole] = torch.cat((found.pop(gate), found.pop(inner)))


def _fit_class_position(found: State, wanted: Mapping[str, Tensor]) -> None:
    """Add a zero position of the class token if only the network has one."""
    table, own = found.get("pos_embed"), wanted.get("pos_embed")
    if table is None or own is None or table.dim() != 3 or own.dim() != 3:
        return
    count, own_count = table.shape[1], own.shape[1]
    missing = count + 1 == own_count or (is_square(count) and is_square(own_count - 1))
    if count != own_count and missing and "cls_token" in wanted and "reg_token" not in wanted:
        found["pos_embed"] = torch.cat((torch.zeros_like(table[:, :1]), table), dim=1)


def _fill_biases(found: State, wanted: Mapping[str, Tensor]) -> None:
    """Add zero biases if only the network has them."""
    for name, own in wanted.items():
        is_attention = re.search(r"\battn\.(qkv\.bias|[qkv]_bias|[qkv]_proj\.bias)$", name)
        base = re.sub(r"(qkv\.bias|[qkv]_bias|[qkv]_proj\.bias)$", "", name)
        has_weight = base + "qkv.weight" in found or base + "q_proj.weight" in found
        if is_attention and name not in found and has_weight:
            found[name] = torch.zeros_like(own, device="cpu")
    if "head.weight" in found and "head.bias" in wanted and "head.bias" not in found:
        found["head.bias"] = found["head.weight"].new_zeros(found["head.weight"].shape[0])


def share_position_bias(found: State, wanted: Mapping[str, Tensor]) -> None:
    """Copy the table of relative positions that BEiT's pretraining shares to each block."""
    shared, own = "rel_pos_bias.relative_position_bias_table", ".attn.relative_position_bias_table"
    if shared in found and shared not in wanted:
        table = found.pop(shared)
        found.update({name: table for name in wanted if name.endswith(own)})
