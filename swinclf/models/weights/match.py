"""Search for the prefix and layout under which the names of a file match those of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swinclf.models.weights.layouts import LAYOUTS
from swinclf.models.weights.layouts.weight_layout import State, WeightLayout, name_in

# Computed from the window, stored by some tools: never read.
_COMPUTED = ("relative_position_index", "attn_mask", "relative_coords_table")
# Exceptions of a conversion of a file that only resembles the layout.
_CANNOT_CONVERT = (KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError)
_DEPTH = 3  # leading components of a name by which unused tensors are grouped
_TABLES = re.compile(r"(.*\.)?(pos_embed\w*|relative_position_bias_table)")
# Of two networks in a file the averaged one is preferred: the EMA, as in timm, else the teacher.
_RANKS = (
    ("ema", re.compile(r"(^|[._])(ema|swa|averaged?)($|[._])|shadow")),
    ("teacher", re.compile(r"(^|[._])teacher($|[._])")),
)
_LAST = re.compile(r"(^|[._])(student|momentum\w*|discriminator)($|[._])")
PLAIN_RANK = len(_RANKS)
# Tensors only needed for pretraining, by the first component of the name.
_TRAINING_ONLY = re.compile(
    r"mask_token|masked_embed|decoder\w*|projector|predictor|projection_head|momentum\w*|queue\w*|"
    r"n_averaged|crit|criterion|loss\w*|\w*_loss|metrics?|(train|val|test)_\w+|logit_(scale|bias)|"
    r"dino_head|ibot_head|text\w*|token_embedding|transformer|positional_embedding|ln_final"
)


@dataclass(frozen=True)
class Match:
    """A part of a file under the names of a network's state dict."""

    state: State  # the tensors, converted and renamed, including those that the network lacks
    prefix: str  # the prefix removed from the names; ends with a dot unless empty
    layout: WeightLayout | None  # the original layout; None for timm's own naming
    outside: tuple[str, ...]  # names of the file without the prefix
    fitting: int  # tensors that match the network by name and shape, position tables in any size
    named: int  # tensors that match the network by name

    def is_whole(self, body: Mapping[str, Tensor]) -> bool:
        """Return whether every tensor of a network's body is present and fits."""
        return self.fitting == len(body)


def rank_of(path: str) -> int:
    """Return the preference of a network by its key or prefix: 0 is most preferred, the EMA."""
    for rank, (_, pattern) in enumerate(_RANKS):
        if pattern.search(path.lower()):
            return rank
    return PLAIN_RANK + bool(_LAST.search(path.lower()))


def rank_name(path: str) -> str | None:
    """Return "EMA" or "teacher" for such a network by its key or prefix; None for any other."""
    rank = rank_of(path)
    return ("EMA", "teacher")[rank] if rank < PLAIN_RANK else None


def is_training_only(name: str) -> bool:
    """Return whether a tensor, by its name, is only needed for training."""
    return _TRAINING_ONLY.fullmatch(name.partition(".")[0]) is not None


def best_match(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], body: Mapping[str, Tensor]
) -> Match:
    """Return the part of a file that fits a network best.

    `wanted` is the network's state dict, `body` the part of it that a file must have. Of all parts
    that fit completely the most preferred (`rank_of`) is returned, with the shortest prefix; if
    none does, the one with the most fitting tensors.
    """
    tensors = {name: value for name, value in tensors.items() if not name.endswith(_COMPUTED)}
    best: tuple[tuple[int, ...], Match] | None = None
    for prefix in prefixes(tensors, len(body) // 2):
        part = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
        outside = tuple(name for name in tensors if not name.startswith(prefix))
        for layout, state in _conversions(part, wanted):
            named = [name for name in body if name in state]
            fitting = sum(_fits(name, state[name], body[name]) for name in named)
            match = Match(state, prefix, layout, outside, fitting, len(named))
            whole = match.is_whole(body)
            surplus = sum(n not in wanted and not is_training_only(n) for n in state)
            rank = rank_of(prefix) if whole else 0
            known = not whole and layout is not None  # an error names the tool
            order = (whole, -rank, known, fitting, len(named), -surplus, -len(prefix))
            if best is None or order > best[0]:
                best = (order, match)
    assert best is not None  # the empty prefix, without a layout, is always tried
    return best[1]


def prefixes(tensors: Mapping[str, Tensor], least: int) -> Iterator[str]:
    """Yield the dotted prefixes, the empty one first, of at least `least` names."""
    yield ""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
    yield from (prefix for prefix, count in counts.items() if count >= max(least, 1))


def _conversions(
    part: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[tuple[WeightLayout | None, State]]:
    """Yield a state dict unchanged and converted from every layout that it may be in."""
    yield None, {name_in(wanted, name): value for name, value in part.items()}
    for layout in LAYOUTS:
        try:
            if (state := layout.convert(part, wanted)) is not None:
                yield layout, state
        except _CANNOT_CONVERT:
            continue


def _fits(name: str, value: Tensor, wanted: Tensor) -> bool:
    """Return whether a tensor has the network's shape, or is a table that can be resized to it."""
    if value.shape == wanted.shape:
        return True
    return (
        _TABLES.fullmatch(name) is not None
        and value.dim() == wanted.dim()
        and value.shape[-1] == wanted.shape[-1]
    )


def unused_groups(
    match: Match, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return the groups of a file's tensors on which its conversion does not depend.

    Their numbers by the common start of their names (the whole name for a single tensor); empty for
    timm's own names.
    """
    if match.layout is None:
        return {}
    part = {
        name.removeprefix(match.prefix): torch.empty(
            value.shape, dtype=torch.float32, device="meta", requires_grad=True
        )
        for name, value in tensors.items()
        if name.startswith(match.prefix)
    }
    try:
        state = match.layout.convert(part, wanted) or {}
    except _CANNOT_CONVERT:
        return {}
    outputs = [value.sum() for name, value in state.items() if name in wanted]
    outputs = [value for value in outputs if value.requires_grad]
    if not outputs:
        return {}
    grads = torch.autograd.grad(outputs, list(part.values()), allow_unused=True)
    unused = {name for name, grad in zip(part, grads, strict=True) if grad is None}
    found: dict[str, int] = {}
    for depth in range(1, _DEPTH + 1):
        groups: dict[str, list[str]] = {}
        for name in part:
            groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        for begin, inside in groups.items():
            if unused.issuperset(inside):
                unused.difference_update(inside)
                label = inside[0] if len(inside) == 1 else begin
                found[match.prefix + label] = len(inside)
    return found
