"""Adaptation of a file's tensors to a network's state dict.

The networks may be this package's or timm's, which use the same parameter names.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from swinclf.errors import WeightsError
from swinclf.models.embedded import COUNTER
from swinclf.models.freeze import classifier_names
from swinclf.models.weights.differences import tensor_mismatch_error
from swinclf.models.weights.layouts.google import GOOGLE
from swinclf.models.weights.layouts.weight_layout import State
from swinclf.models.weights.match import Match, best_match, is_training_only, unused_groups

# Hidden layers of a head: loaded if the file has them, otherwise new like the classifier.
_HIDDEN = re.compile(r"(head\.)?pre_logits\.")


@dataclass(frozen=True)
class AdaptedWeights:
    """Weights that fit a network exactly."""

    # every entry of the network's state dict: `load_state_dict(state, strict=True)` succeeds
    state: State
    head_loaded: bool  # whether the head is the file's; otherwise it is the network's own
    # position tables that were resized to the network's image size or window
    resized: list[str] = field(default_factory=list)
    match: Match | None = None  # the part of the file that the tensors are from, and its layout
    loaded: int = 0  # number of the file's tensors that were loaded
    # tensors of the file that only its training needs, or of a pooling that the network lacks
    left_out: tuple[str, ...] = ()
    # the classifier of the file, left out if `head_loaded` is false
    file_head: Mapping[str, Tensor] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()  # hidden layers of the network's head that the file lacks
    # groups of tensors that the conversion of the layout ignored, with their numbers
    unused: Mapping[str, int] = field(default_factory=dict)
    # original shapes of the tables in `resized`
    old_shapes: Mapping[str, torch.Size] = field(default_factory=dict)


def adapt_first(
    states: Sequence[Mapping[str, Tensor]], model: nn.Module
) -> tuple[AdaptedWeights, int]:
    """Adapt the first of several state dicts that has all of a network's body, else the closest.

    A head of other classes is left out.

    Args:
        states: Tensors of a file, in any of the layouts, under any prefix.
        model: A network of this package or of timm.

    Returns:
        The weights, and the index of their state dict.

    Raises:
        WeightsError: If a tensor is missing, left over, of another shape, quantised or not finite;
            both sides are named.
    """
    wanted = dict(model.state_dict())
    head = classifier_names(model) & wanted.keys()
    body = {
        name: value
        for name, value in wanted.items()
        if name not in head and not _HIDDEN.match(name) and not name.endswith(COUNTER)
    }
    chosen: tuple[Match, int] | None = None
    for index, state in enumerate(states):
        match = best_match(state, wanted, body)
        if chosen is None or (match.fitting, match.named) > (chosen[0].fitting, chosen[0].named):
            chosen = match, index
        if match.is_whole(body):
            break
    match, index = chosen or (best_match({}, wanted, body), 0)
    adapted = _fit(match, wanted, head, model)
    unused = unused_groups(match, states[index], wanted) if states else {}
    return replace(adapted, unused=unused), index


def _fit(
    match: Match, wanted: Mapping[str, Tensor], head: set[str], model: nn.Module
) -> AdaptedWeights:
    """Adapt one part of a file to a network, accounting for every tensor of both."""
    found = _with_head_named(match.state, wanted, head)
    file_head = {n: v for n, v in found.items() if n in head or _is_surplus_head(n, wanted)}
    shapes = {name: value.shape for name, value in file_head.items()}
    head_loaded = bool(head) and shapes == {name: wanted[name].shape for name in head}
    own: State = {n: v for n, v in wanted.items() if n.endswith(COUNTER) and n not in found}
    if not head_loaded:
        found = {name: value for name, value in found.items() if name not in file_head}
        own |= {name: wanted[name] for name in head}
    fresh = tuple(name for name in wanted if _HIDDEN.match(name))
    if any(name in found for name in fresh):
        fresh = ()
    own |= {name: wanted[name] for name in fresh}
    left_out = tuple(name for name in found if name not in wanted and _may_leave_out(name, wanted))
    found = {name: value for name, value in found.items() if name not in left_out}
    old_shapes = {name: value.shape for name, value in found.items()}
    resized = []
    for name in sorted(found.keys() & wanted.keys()):
        _check_kind(name, found[name], wanted[name])
        try:
            smooth = match.layout is not GOOGLE
            value = _resized(name, found[name], wanted[name], model, smooth=smooth)
        except (ValueError, IndexError, RuntimeError) as error:
            raise tensor_mismatch_error(
                match, found, {**wanted}, own, reason=f"{name}: {error}"
            ) from error
        if value is not found[name]:
            resized.append(name)
        found[name] = value
    loaded = len(found)
    found |= own
    if {n: v.shape for n, v in found.items()} != {n: v.shape for n, v in wanted.items()}:
        raise tensor_mismatch_error(match, found, wanted, own)
    for name in found.keys() - own.keys():
        _check_finite(name, found[name])
    return AdaptedWeights(
        {name: found[name] for name in wanted},
        head_loaded,
        resized,
        match,
        loaded,
        (*left_out, *match.outside),
        file_head,
        fresh,
        old_shapes={name: old_shapes[name] for name in resized},
    )


def _with_head_named(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], head: set[str]
) -> State:
    """Rename the last layer of a file's head to the network's name, if each has only one."""
    weights = [name for name in head if name.endswith(".weight")]
    theirs = [
        name
        for name in state
        if name.endswith(".weight") and state[name].dim() == 2 and _is_surplus_head(name, wanted)
    ]
    if len(weights) != 1 or len(theirs) != 1 or any(name in state for name in head):
        return dict(state)
    old, new = (name.removesuffix("weight") for name in (theirs[0], weights[0]))
    return {
        new + name.removeprefix(old) if name.startswith(old) else name: value
        for name, value in state.items()
    }


def _is_surplus_head(name: str, wanted: Mapping[str, Tensor]) -> bool:
    return name not in wanted and is_classifier_name(name)


def _may_leave_out(name: str, wanted: Mapping[str, Tensor]) -> bool:
    """Return whether a tensor that the network lacks does not affect its features.

    Attention pooling is absent from published networks with another pooling.
    """
    if name.startswith("attn_pool."):
        return not any(one.startswith("attn_pool.") for one in wanted)
    return is_training_only(name)


def _check_kind(name: str, value: Tensor, wanted: Tensor) -> None:
    """Refuse integer tensors for floating-point parameters: they are quantised."""
    if wanted.is_floating_point() and not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise WeightsError(
            "weights in floating point (float16, bfloat16, float32 or float64)",
            found=f"{name} is quantised: {kind}, which needs the scales of the tool that wrote it",
            hint="the file before it was quantised, or one saved as float16 by that tool",
        )


def _check_finite(name: str, value: Tensor) -> None:
    if not value.is_floating_point() or value.is_meta:
        return
    value = value if value.dtype.itemsize >= 2 else value.float()
    if value.sum().isfinite():
        return
    bad = value.numel() - int(value.isfinite().sum())
    if bad:
        kind = "NaN" if value.isnan().any() else "infinite"
        raise WeightsError(
            "weights that are finite numbers",
            found=f"{name} holds {bad:,} of {value.numel():,} values that are not ({kind})",
            hint="an earlier checkpoint: the training that wrote this one had diverged",
        )


def _resized(
    name: str,
    value: Tensor,
    wanted: Tensor,
    model: nn.Module,
    *,
    smooth: bool,
) -> Tensor:
    """Return a position table resized to the network; any other tensor unchanged.

    Google's files are resized bilinearly without anti-aliasing: not `smooth`.
    """
    if value.shape == wanted.shape or value.dim() != wanted.dim():
        return value
    if name == "pos_embed" and value.dim() == 3:
        embed: Any = model.get_submodule("patch_embed")
        grid = list(getattr(embed, "grid_size", None) or ())
        has_prefix = not getattr(model, "no_embed_class", False)
        prefix = int(getattr(model, "num_prefix_tokens", 0)) if has_prefix else 0
        if len(grid) != 2:
            return value
        count = value.shape[1] - prefix
        side = math.isqrt(max(count, 0))
        if side * side != count:
            raise ValueError(f"{count} positions make no grid of {side} x {side}")
        from timm.layers import resample_abs_pos_embed  # not at the top: it takes two seconds

        mode = "bicubic" if smooth else "bilinear"
        resized: Tensor = resample_abs_pos_embed(
            value, grid, num_prefix_tokens=prefix, interpolation=mode, antialias=smooth
        )
        return resized
    if name.endswith("relative_position_bias_table") and value.shape[0] != wanted.shape[0]:
        attention: Any = model.get_submodule(name.rpartition(".")[0])
        window = getattr(attention, "window_size", None)
        if window is None:
            return value
        from timm.layers import resize_rel_pos_bias_table

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm, on its own indexing
            table: Tensor = resize_rel_pos_bias_table(value, tuple(window), tuple(wanted.shape))
        return table
    return value


# Names of classifiers in files of other tools; a norm among them belongs to the body.
_CLASSIFIER = re.compile(
    r"(head|heads|head_dist|fc|classifier|cls_head|cls_classifier|distillation_classifier|"
    r"linear_head|last_layer|logits|pre_logits)(\.(?!.*norm).*)?"
)


def is_classifier_name(name: str) -> bool:
    """Return whether a tensor of a file is named like part of a classifier."""
    return _CLASSIFIER.fullmatch(name) is not None
