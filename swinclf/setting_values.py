"""The value of one setting, checked against its type and its bounds.

Knows no setting by name; each problem is an `OutOfRange` that says what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from swinclf.preprocess import format_colours, parse_colours

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class OutOfRange(ValueError):
    """A value that a setting cannot have: what it can be, and what it is."""

    def __init__(self, name: str, wanted: str, value: object) -> None:
        super().__init__(f"{name} is {wanted}, not {value!r}")
        self.name, self.wanted, self.value = name, wanted, value


def check_value(name: str, value: object, wanted: Any, about: Mapping[str, Any]) -> object:
    """Return a value in its setting's type and within its bounds.

    Args:
        name: The setting, for the error.
        value: As it was given.
        wanted: The setting's type.
        about: Its `low`, `high`, `above` and `colours`, as in the table of settings.

    Raises:
        OutOfRange: Saying what is allowed.
    """
    if about.get("colours"):
        return _colours(name, value, *about["colours"])
    if get_origin(wanted) is tuple:
        return _words(name, value)
    kind = next(kind for kind in get_args(wanted) or (wanted,) if kind is not type(None))
    if issubclass(kind, StrEnum):
        if str(value) not in [str(member) for member in kind]:
            raise OutOfRange(name, f"one of {', '.join(kind)}", value)
        return kind(str(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise OutOfRange(name, "a number of usual size", "a larger one") from None
    if kind is str and isinstance(value, Path):
        value = str(value)
    if type(value) is not kind:
        raise OutOfRange(name, _KINDS[kind], value)
    _check_bounds(name, value, about)
    return value


def _check_bounds(name: str, value: Any, about: Mapping[str, Any]) -> None:
    low, high, above = about.get("low"), about.get("high"), about.get("above")
    bounds = ""
    # Written so that NaN, which compares as false, is refused as well.
    if above is not None and not above < value < math.inf:
        bounds = f"more than {above:g}, and finite"
    elif (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
    if bounds:
        raise OutOfRange(name, bounds, value)


def _colours(name: str, value: object, low: float, high: float) -> str:
    """Return the text of three numbers; one stands for all, a list (of a file) is joined."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        colours = parse_colours(text)
    except ValueError:
        example = "three numbers with commas between, as 0.485,0.456,0.406"
        raise OutOfRange(name, example, value) from None
    if not all(low <= colour <= high for colour in colours):
        scale = " (of pixel values from 0 to 1, not to 255)" if max(colours) > high else ""
        raise OutOfRange(name, f"three numbers from {low:g} to {high:g}{scale}", value)
    return format_colours(colours)


def _words(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise OutOfRange(name, "a list of words", value)
    without = [word for word in value if "=" not in word]
    if without:
        raise OutOfRange(name, "KEY=VALUE", without[0])
    return tuple(value)
