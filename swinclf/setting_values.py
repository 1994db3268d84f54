"""Validation of one setting's value against its type and bounds.

Knows no setting by name; errors are `SettingValueError`s with the allowed values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from swinclf.preprocess import MEASURED, format_colours, parse_colours

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class SettingValueError(ValueError):
    """An invalid value of a setting, with the allowed values."""

    def __init__(self, name: str, allowed: str, value: object) -> None:
        super().__init__(f"{name} is {allowed}, not {value!r}")
        self.name, self.allowed, self.value = name, allowed, value


def check_value(name: str, value: object, type_hint: Any, about: Mapping[str, Any]) -> object:
    """Return a value converted to its setting's type, within its bounds.

    `about` has its `low`, `high`, `above` and `colours`, as in the table of settings; `name` is for
    the error.

    Raises:
        SettingValueError: If it is invalid.
    """
    if about.get("colours"):
        return _colours(name, value, *about["colours"])
    if get_origin(type_hint) is tuple:
        return _words(name, value)
    kind = next(kind for kind in get_args(type_hint) or (type_hint,) if kind is not type(None))
    if issubclass(kind, StrEnum):
        if str(value) not in [str(member) for member in kind]:
            raise SettingValueError(name, f"one of {', '.join(kind)}", value)
        return kind(str(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise SettingValueError(name, "a number within float range", "a larger one") from None
    if kind is str and isinstance(value, Path):
        value = str(value)
    if type(value) is not kind:
        raise SettingValueError(name, _KINDS[kind], value)
    _check_bounds(name, value, about)
    return value


def _check_bounds(name: str, value: Any, about: Mapping[str, Any]) -> None:
    low, high, above = about.get("low"), about.get("high"), about.get("above")
    bounds = ""
    # Written so that NaN, which compares as false, is rejected as well.
    if above is not None and not above < value < math.inf:
        bounds = f"more than {above:g}, and finite"
    elif (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
    if bounds:
        raise SettingValueError(name, bounds, value)


def _colours(name: str, value: object, low: float, high: float) -> str:
    """Return three numbers as text, from a text, a list, or one number for all; or `data`."""
    if value == MEASURED:
        return MEASURED
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        colours = parse_colours(text)
    except ValueError:
        example = "data, or three numbers separated by commas, such as 0.485,0.456,0.406"
        raise SettingValueError(name, example, value) from None
    if not all(low <= colour <= high for colour in colours):
        scale = " (for pixel values from 0 to 1, not to 255)" if max(colours) > high else ""
        raise SettingValueError(name, f"three numbers from {low:g} to {high:g}{scale}", value)
    return format_colours(colours)


def _words(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise SettingValueError(name, "a list of words", value)
    without = [word for word in value if "=" not in word]
    if without:
        raise SettingValueError(name, "KEY=VALUE", without[0])
    return tuple(value)
