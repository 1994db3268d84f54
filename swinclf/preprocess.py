"""The preprocessing of a network's input: a plain value, stored with the weights.

Only `data.transforms` applies it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Colours = tuple[float, float, float]  # red, green, blue
MEASURED = "data"  # as a setting of mean or std: measured on the training images
MAX_SIDE = 8192  # px


class Fit(StrEnum):
    """How an image of another aspect ratio is fitted to the network's input."""

    CROP = "crop"  # scale the shorter side and crop the centre, as published weights are evaluated
    PAD = "pad"  # scale the longer side and pad with the mean colour
    SQUASH = "squash"  # scale both sides, without the aspect ratio


FIT_OF_CROP_MODE = {"center": Fit.CROP, "border": Fit.PAD, "squash": Fit.SQUASH}  # as timm names it


class Interpolation(StrEnum):
    """The resampling filter, by Pillow's names."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True)
class ValueRange:
    """The range of values in a dataset for a sample type of more than 8 bits."""

    kind: str  # NumPy's name of the type, such as uint16
    low: float  # the value that becomes black
    high: float  # the value that becomes white


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The preprocessing of one network."""

    height: int  # height of the network's input, px
    width: int  # width of the network's input, px
    interpolation: Interpolation
    mean: Colours  # red, green, blue subtracted after scaling to [0, 1]
    std: Colours  # red, green, blue divided by, > 0
    # with `fit` crop, the share of the scaled image's side that is cropped, in (0, 1]
    crop_pct: float
    fit: Fit  # how images of another aspect ratio are fitted
    # value ranges of the training images for each sample type of more than 8 bits; may be empty
    ranges: tuple[ValueRange, ...] = ()

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(height, width), px, that an image is scaled to before the centre crop."""
        return math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)

    @property
    def decode_px(self) -> int:
        """The minimum of the shorter side that a decoder has to deliver, px.

        Twice the scaled size: a JPEG decoder that scales (1/2, 1/4, 1/8) saves most of the time of
        a large photograph, and twice the size is enough for the resampling filter.
        """
        return 2 * max(self.scaled_size)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> Preprocess:
        """Return the preprocessing of a data config of timm."""
        _, height, width = config["input_size"]
        return cls(
            height=height,
            width=width,
            interpolation=Interpolation(config["interpolation"]),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            crop_pct=float(config["crop_pct"]),
            fit=FIT_OF_CROP_MODE.get(config["crop_mode"], Fit.CROP),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `ranges` only if there are any."""
        values = asdict(self)
        del values["ranges"]
        if self.ranges:
            values["ranges"] = {one.kind: [one.low, one.high] for one in self.ranges}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Return the inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: If a field is missing or invalid.
        """
        mean, std = _triple("mean", values["mean"]), _triple("std", values["std"])
        if min(std) <= 0:
            raise ValueError(f"std must be three numbers above 0. Received: {std}")
        crop_pct = float(values["crop_pct"])
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1. Received: {crop_pct}")
        return cls(
            height=_side("height", values["height"]),
            width=_side("width", values["width"]),
            interpolation=Interpolation(values["interpolation"]),
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            fit=Fit(values["fit"]),
            ranges=parse_ranges(values.get("ranges", {})),
        )


def parse_colours(text: str) -> Colours:
    """Return the three numbers of a text such as "0.485,0.456,0.406", or one for all three colours.

    They are separated by commas or spaces.

    Raises:
        ValueError: If it is something else.
    """
    numbers = [float(word) for word in text.replace(",", " ").split()]
    return _triple("text", numbers * 3 if len(numbers) == 1 else numbers)


def format_colours(colours: Colours) -> str:
    """Return the inverse of `parse_colours`, such as "0.485,0.456,0.406"."""
    return ",".join(repr(colour).removesuffix(".0") for colour in colours)


def parse_ranges(values: Mapping[str, Any]) -> tuple[ValueRange, ...]:
    """Return the value ranges of {kind: [low, high]}, as in `to_dict`.

    Raises:
        TypeError, ValueError: If they are invalid.
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
        raise ValueError(f"{name} must be three numbers. Received: {values!r}")
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"{name} must be three finite numbers. Received: {values!r}")
    return red, green, blue


def _side(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise ValueError(f"{name} must be an integer from 1 to {MAX_SIDE}. Received: {value!r}")
    return value
