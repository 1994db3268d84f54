"""Definition of a weight layout: its recognition, and its conversion to timm's naming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class WeightLayout:
    """The names and shapes of a tool's files."""

    name: str  # the tool, as in a report: "Microsoft Swin"
    # whether a state dict, without any prefix, is in this layout. Called often: names only
    recognises: Callable[[Mapping[str, Tensor]], bool]
    # (tensors of the file, state dict of the network) -> the tensors in timm's naming. Tensors
    # without a counterpart keep a name that the network lacks, and are reported
    convert: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], State]
    # name of the colour statistics of every published file of this layout: `imagenet`, `clip` or
    # `half`. None: files differ
    normalisation: str | None = None
