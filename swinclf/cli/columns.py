"""Text in columns: aligned by display width, and elided to the width of the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence

from rich.cells import cell_len

SEPARATOR = "  "
NARROWEST = 6  # columns of an elided cell


def output_width() -> int | None:
    """Return the columns of the terminal that standard output is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def elide(text: str, width: int) -> str:
    """Return a line with an ellipsis in its middle if it is wider than `width` columns.

    >>> elide("sunflowers/IMG_20260711.jpg", 15)
    'sunflow…711.jpg'
    """
    if cell_len(text) <= width:
        return text
    head, tail = width // 2, width - width // 2 - 1
    start = next(n for n in range(len(text), -1, -1) if cell_len(text[:n]) <= head)
    end = next(n for n in range(len(text) + 1) if cell_len(text[n:]) <= tail)
    return f"{text[:start]}…{text[end:]}"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a line elided or filled with spaces to exactly `width` columns."""
    text = elide(text, width)
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def align_columns(
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    elided: Collection[int] = (),
    right: Collection[int] = (),
) -> list[str]:
    """Return rows of cells, as many in each, as lines with aligned columns.

    `width` is the number of columns available, None for no limit. `elided` are the indices of the
    columns that are shortened to fit, the widest first; `right` the indices of those aligned on the
    right.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + len(SEPARATOR) * (len(widths) - 1) - width if width else 0
    while excess > 0 and elided:
        widest = max(elided, key=lambda column: widths[column])
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
        excess -= 1
    return [
        SEPARATOR.join(
            pad(cell, widths[column], right=column in right) for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]
