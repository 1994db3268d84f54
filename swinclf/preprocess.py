"""How a picture becomes what the network sees: one value, stored with the weights.

A pure value without an opinion on libraries; `data.transforms` is the only place that carries it
out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Colours = tuple[float, float, float]  # red, green, blue
MAX_SIDE = 8192  # px; what is larger is no size of a network's input


class Fit(StrEnum):
    """What is done with a picture whose sides are not in the network's proportion."""

    CROP = "crop"  # scale the shorter side, cut the middle out: as published weights were scored
    PAD = "pad"  # scale the longer side, fill the rest with the mean colour: nothing is cut off
    SQUASH = "squash"  # scale both sides to fit: nothing is cut off, proportions are lost


class Interpolation(StrEnum):
    """How pixels are resampled, in Pillow's terms."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True)
class ValueRange:
    """Which values a dataset uses of a sample type of more than 8 bits.

    Attributes:
        kind: NumPy's name of the type, such as uint16.
        low: What becomes black.
        high: What becomes white.
    """

    kind: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The preprocessing of one network.

    Attributes:
        height: Rows the network sees, px.
        width: Columns the network sees, px.
        interpolation: How pixels are resampled.
        mean: Red, green, blue subtracted after scaling to [0, 1].
        std: Red, green, blue divided by, > 0.
        crop_pct: With `fit` crop, the part of the scaled picture's side that is kept, in (0, 1].
        fit: What is done with other proportions.
        ranges: The values that the training images use, of each sample type of more than 8 bits
            that was among them; () for none, and in models that were stored without.
    """

    height: int
    width: int
    interpolation: Interpolation
    mean: Colours
    std: Colours
    crop_pct: float
    fit: Fit
    ranges: tuple[ValueRange, ...] = ()

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(height, width), px, that a picture is scaled to cover before the middle is cut out."""
        return math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)

    @property
    def decode_px(self) -> int:
        """The shorter side that a decoder must at least deliver, px.

        Twice what resampling ends at: a JPEG decoder that scales by itself (1/2, 1/4, 1/8) saves
        most of the time of a large photograph, and from twice the size the resampling filter still
        sees what it needs.
        """
        return 2 * max(self.scaled_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; `ranges` only where there are any."""
        values = asdict(self)
        del values["ranges"]
        if self.ranges:
            values["ranges"] = {one.kind: [one.low, one.high] for one in self.ranges}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: If a field is missing or has no meaning.
        """
        mean, std = _triple("mean", values["mean"]), _triple("std", values["std"])
        if min(std) <= 0:
            raise ValueError(f"std is three numbers above 0. Received: {std}")
        crop_pct = float(values["crop_pct"])
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct is above 0 and at most 1. Received: {crop_pct}")
        return cls(
            height=_side("height", values["height"]),
            width=_side("width", values["width"]),
            interpolation=Interpolation(values["interpolation"]),
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            fit=Fit(values["fit"]),
            ranges=ranges_from(values.get("ranges", {})),
        )


def read_colours(text: str) -> Colours:
    """Return the three numbers of a text such as "0.485,0.456,0.406".

    Args:
        text: Three numbers with commas or spaces between them, or one for all three colours.

    Raises:
        ValueError: If they are none.
    """
    numbers = [float(word) for word in text.replace(",", " ").split()]
    return _triple("text", numbers * 3 if len(numbers) == 1 else numbers)


def write_colours(colours: Colours) -> str:
    """Return the inverse of `read_colours`, such as "0.485,0.456,0.406"."""
    return ",".join(repr(colour).removesuffix(".0") for colour in colours)


def ranges_from(values: Mapping[str, Any]) -> tuple[ValueRange, ...]:
    """Return the ranges that `to_dict` gives as {kind: [low, high]}.

    Raises:
        TypeError, ValueError: If that has no meaning.
    """
    ranges = []
    for kind, (low, high) in values.items():
        one = ValueRange(str(kind), float(low), float(high))
        if not -math.inf < one.low < one.high < math.inf:
            raise ValueError(f"value range of {kind} from {low} to {high}")
        ranges.append(one)
    return tuple(ranges)


def _triple(name: str, values: Any) -> Colours:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{name} is three numbers. Received: {values!r}")
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"{name} is three finite numbers. Received: {values!r}")
    return red, green, blue


def _side(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise ValueError(f"{name} is a whole number from 1 to {MAX_SIDE}. Received: {value!r}")
    return value
