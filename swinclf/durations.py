"""Durations as text: "14 min" for people, "10m" as an option."""

from __future__ import annotations

import re

_UNITS_S = {"s": 1, "m": 60, "h": 3600}


def duration_text(seconds: float) -> str:
    """Return a duration in words, to two digits or so.

    >>> [duration_text(seconds) for seconds in (0.04, 1.26, 57, 840, 4800)]
    ['0.0 s', '1.3 s', '57 s', '14 min', '1 h 20 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 89.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 10m, 1h or 1h30m.

    Raises:
        ValueError: If it is none, or zero.

    >>> [parse_duration(text) for text in ("90s", "10m", "1h30m", "0.5h")]
    [90.0, 600.0, 5400.0, 1800.0]
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text.strip().lower())
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text.strip().lower() or not seconds:
        raise ValueError(text)
    return seconds
