"""Selection of state dicts from the content of a file: in wrappers and modules, best first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinclf.models.weights.layouts.weight_layout import State
from swinclf.models.weights.match import rank_name, rank_of
from swinclf.models.weights.torch_files import module_state
from swinclf.unpickle import Placeholder, array_of

_DEPTH = 8  # of nested wrappers
# Tensors of a training that do not belong to a network.
_NOT_WEIGHTS = re.compile(
    r"optim\w*|\w*optimizer\w*|lr_schedulers?|schedulers?|scaler|amp|rng\w*|callbacks|loops|hooks|"
    r"buffers_names|param_shapes|criterion|\w*loss"
)


@dataclass(frozen=True)
class WeightsCheckpoint:
    """One state dict of a weights file, with its metadata."""

    tensors: Mapping[str, Tensor]  # by their names in the file
    source: Path  # the file, or the index of shards
    notes: tuple[str, ...] = ()  # phrases on the selection for the report: "EMA"
    files: tuple[Path, ...] = ()  # all files of the tensors


def select(content: Any) -> list[tuple[State, tuple[str, ...]]]:
    """Return all state dicts in the content of a file, each with notes on its selection.

    `content` is nested dicts with tensors, arrays or placeholders of modules. The averaged
    weights (EMA) come first, as in timm, then a teacher's, then unmarked ones, then a student's;
    among equals those with more tensors.
    """
    found = list(_state_dicts(content, (), _DEPTH, set()))
    most = max((len(state) for _, state in found), default=0)
    few = {id(state) for _, state in found if 4 * len(state) < most}  # counters, averages of losses
    found.sort(key=lambda one: (id(one[1]) in few, rank_of(".".join(one[0])), -len(one[1])))
    return [(state, _notes(path)) for path, state in found]


def _notes(path: tuple[str, ...]) -> tuple[str, ...]:
    name = rank_name(".".join(path))
    return (name,) if name else ()


def _state_dicts(
    content: Any, path: tuple[str, ...], depth: int, seen: set[int]
) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yield the state dicts, any dicts with tensors, inside wrappers."""
    if depth == 0 or id(content) in seen:
        return
    seen.add(id(content))
    children: Mapping[Any, Any] = {}
    if isinstance(content, Placeholder):
        state = module_state(content)
        if state is not None:
            if state:
                yield path, state
            return
        attributes = content.state if isinstance(content.state, dict) else {}
        children = {**attributes, **content.entries}
    elif isinstance(content, Mapping):
        children = content
    tensors = {str(key): _tensor(value) for key, value in children.items()}
    state = {key: value for key, value in tensors.items() if value is not None}
    if state:
        yield path, state
    for key, value in children.items():
        is_wrapper = isinstance(value, Mapping | Placeholder)
        if is_wrapper and not _NOT_WEIGHTS.fullmatch(str(key).lower()):
            yield from _state_dicts(value, (*path, str(key)), depth - 1, seen)


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor, also for an array; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    array = array_of(value) if isinstance(value, Placeholder) else None
    return None if array is None else torch.from_numpy(array)
