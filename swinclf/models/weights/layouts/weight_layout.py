"""Definition of a weight layout: its recognition, and its conversion to timm's naming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class WeightLayout:
    """The names and shapes of a tool's files."""

    name: str
    """The tool, as in a report: "Microsoft Swin"."""
    recognises: Callable[[Mapping[str, Tensor]], bool]
    """Whether a state dict, without any prefix, is in this layout. Called often: names only."""
    convert: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], State]
    """(tensors of the file, state dict of the network) -> the tensors in timm's naming.

    Tensors without a counterpart keep a name that the network lacks, and are reported.
    """
    normalisation: str | None = None
    """Name of the colour statistics of every published file of this layout: `imagenet`, `clip` or
    `half`. None: files differ."""
