"""The value of one setting, checked against its type and its bounds.

Knows no setting by name; each problem is a ValueError that says what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from swinclf.preprocess import read_colours, write_colours


def check_value(name: str, value: object, wanted: Any, about: Mapping[str, Any]) -> object:
    """Return a value in its setting's type and within its bounds.

    Args:
        name: The setting, for the error.
        value: As it was given.
        wanted: The setting's type.
        about: Its `low`, `high` and `colours`, as in the table of settings.

    Raises:
        ValueError: Saying what is allowed.
    """
    if about.get("colours"):
        return _colours(name, value, *about["colours"])
    if get_origin(wanted) is tuple:
        return _words(name, value)
    kind = next(kind for kind in get_args(wanted) or (wanted,) if kind is not type(None))
    if issubclass(kind, StrEnum):
        if str(value) not in [str(member) for member in kind]:
            raise ValueError(f"{name} is one of {', '.join(kind)}, not {value!r}")
        return kind(str(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} is a float, not a number of that size") from None
    if kind is str and isinstance(value, Path):
        value = str(value)
    if type(value) is not kind:
        raise ValueError(f"{name} is a {kind.__name__}, not {value!r}")
    _check_bounds(name, value, about.get("low"), about.get("high"))
    return value


def _check_bounds(name: str, value: Any, low: float | None, high: float | None) -> None:
    too_low, too_high = low is not None and not value >= low, high is not None and not value <= high
    if too_low or too_high:  # written so that NaN, which compares as false, is refused as well
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} is {bounds}, not {value!r}")


def _colours(name: str, value: object, low: float, high: float) -> str:
    """Return the text of three numbers; one stands for all, a list (of a file) is joined."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        colours = read_colours(text)
    except ValueError:
        example = "three numbers with commas between, as 0.485,0.456,0.406"
        raise ValueError(f"{name} is {example}, not {value!r}") from None
    if not all(low <= colour <= high for colour in colours):
        scale = " (of pixel values from 0 to 1, not to 255)" if max(colours) > high else ""
        raise ValueError(f"{name} is three numbers from {low:g} to {high:g}{scale}, not {value!r}")
    return write_colours(colours)


def _words(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{name} is a list of words, not {value!r}")
    without = [word for word in value if "=" not in word]
    if without:
        raise ValueError(f"{name} is KEY=VALUE, not {without[0]!r}")
    return tuple(value)
