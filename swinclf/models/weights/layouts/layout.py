"""One layout as a value: how it is recognised, and how it becomes timm's naming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """The names and shapes in which one tool stores a network."""

    name: str
    """The tool, as a report names it: "Microsoft Swin"."""
    recognises: Callable[[Mapping[str, Tensor]], bool]
    """Whether a state dict, without any prefix, is in this layout. Called often: names only."""
    convert: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], State]
    """(tensors of the file, state dict of the wanted network) -> the tensors in timm's naming.

    What has no counterpart in the network keeps a name that the network has not; it is reported.
    """
    normalisation: str | None = None
    """The colour statistics that every published file of this layout was trained with, by name:
    `imagenet`, `clip` or `half`. None: files differ."""
