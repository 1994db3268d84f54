"""The tensors of a file, fitted to what a network's own state dict holds.

Knows nothing of where files come from or of runs. The networks may be this package's or timm's;
both call their parameters alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from swinclf.errors import WeightsError
from swinclf.models.weights.layouts import LAYOUTS
from swinclf.models.weights.layouts.google import GOOGLE
from swinclf.models.weights.layouts.layout import State
from swinclf.models.weights.resize import resize_bias_table, resize_positions

# The classification head; all of it is taken or none. `attn_pool` is a pooling that some published
# weights bring for a network without it.
_HEAD = ("head.", "head_dist.", "pre_logits.", "attn_pool.")
# Computed from the window, stored by some: never read.
_COMPUTED = ("relative_position_index", "attn_mask", "relative_coords_table")
_TWO_NAMES = ((r"\.gamma_(\d)$", r".ls\1.gamma"), (r"^head\.(weight|bias)$", r"head.fc.\1"))
_SHOWN = 4  # differences that an error names one by one


@dataclass(frozen=True)
class AdaptedWeights:
    """Weights that fit a network exactly."""

    state: State
    """Every entry of the network's state dict: `load_state_dict(state, strict=True)` succeeds."""
    head_loaded: bool
    """Whether the head is the file's; otherwise it is the network's as it was."""
    resized: list[str] = field(default_factory=list)
    """Position tables that were resized to the network's image size or window."""


def adapt(
    state: Mapping[str, Tensor],
    model: nn.Module,
    *,
    allow_other_head: bool,
    grid: tuple[int, int] | None = None,
) -> AdaptedWeights:
    """Fit the tensors of a file to a network, or say what does not fit.

    Args:
        state: What read_state_dict returned, in any of the layouts.
        model: A network of this package or of timm.
        allow_other_head: Whether a head of other classes, or none, is left out instead of refused.
        grid: Patches down and across that the file's position table is for; None: the network's
            where the count agrees, otherwise as many down as across.

    Raises:
        WeightsError: If a tensor is missing, left over or of another shape; both sides are named.
    """
    wanted = dict(model.state_dict())
    state = {name: value for name, value in state.items() if not name.endswith(_COMPUTED)}
    layout = next((one for one in LAYOUTS if one.recognises(state)), None)
    try:
        found = layout.convert(state, wanted) if layout else state
        found = _named_as(wanted, found)
    except (KeyError, IndexError, RuntimeError, TypeError) as error:
        raise _refusal([f"{type(error).__name__}: {error}"]) from error
    head_loaded = _same(found, wanted, head=True)
    if allow_other_head and not head_loaded:
        found = {name: value for name, value in found.items() if not name.startswith(_HEAD)}
        found |= {name: value for name, value in wanted.items() if name.startswith(_HEAD)}
    resized = []
    for name in sorted(found.keys() & wanted.keys()):
        try:
            value = _resized(
                name, found[name], wanted[name], model, grid, smooth=layout is not GOOGLE
            )
        except (ValueError, IndexError, RuntimeError) as error:
            raise _refusal([f"{name}: {error}"]) from error
        if value is not found[name]:
            resized.append(name)
        found[name] = value
    if not _same(found, wanted):
        raise _refusal(_differences(found, wanted))
    return AdaptedWeights({name: found[name] for name in wanted}, head_loaded, resized)


def _same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, head: bool = False) -> bool:
    """Return whether both sides have the same names and shapes, in their heads only or in all."""
    shapes = (
        {name: value.shape for name, value in side.items() if name.startswith(_HEAD) or not head}
        for side in (found, wanted)
    )
    return next(shapes) == next(shapes)


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Say of each tensor that differs what either side has."""
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        if name not in found:
            lines.append(f"{name}: the network has {_shape(wanted[name])}, the file has none")
        elif name not in wanted:
            lines.append(f"{name}: the file has {_shape(found[name])}, the network has none")
        elif found[name].shape != wanted[name].shape:
            sides = f"the network has {_shape(wanted[name])}, the file {_shape(found[name])}"
            lines.append(f"{name}: {sides}")
    return lines


def _shape(value: Tensor) -> str:
    """Write a shape as 3 x 4."""
    return " x ".join(map(str, value.shape)) or "a single number"


def _refusal(lines: list[str]) -> WeightsError:
    """Return the error that names the first differences and counts the others."""
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return WeightsError(
        "weights with exactly the tensors of the network",
        found="; ".join(lines[:_SHOWN]) + more,
        hint="the model, image size and classes that the file was made for",
    )


def _resized(
    name: str,
    value: Tensor,
    wanted: Tensor,
    model: nn.Module,
    grid: tuple[int, int] | None,
    *,
    smooth: bool,
) -> Tensor:
    """Return a position table in the network's size; every other tensor as it is."""
    if name == "pos_embed":
        embed: Any = model.get_submodule("patch_embed")
        own = tuple(embed.grid_size)
        if value.shape == wanted.shape and grid in (None, own) or value.dim() != 3:
            return value
        prefix = 0 if getattr(model, "no_embed_class", False) else _prefix_tokens(model)
        return resize_positions(value, own, prefix, old_grid=grid, smooth=smooth)
    if name.endswith("relative_position_bias_table") and value.shape[0] != wanted.shape[0]:
        attention: Any = model.get_submodule(name.rpartition(".")[0])
        return resize_bias_table(value, tuple(attention.window_size), wanted.shape[0])
    return value


def _prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens the network has before the patches."""
    return int(getattr(model, "num_prefix_tokens", 0))


def _named_as(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> State:
    """Rename what timm itself names in two ways: layer scale, and the last layer of the head."""
    found = {}
    for name, value in state.items():
        for pattern, other in _TWO_NAMES:
            renamed = re.sub(pattern, other, name)
            if renamed in wanted and name not in wanted:
                name = renamed
        found[name] = value
    return found
