"""The HTML page of `predict`: thumbnails that can be filtered and sorted by label and confidence.

One file of bounded size, without paths of this machine: of each image, its path below the folder
that all of them are in.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swinclf import __version__
from swinclf.files import write_text
from swinclf.reporting.html import Thumbnails, embed, page_template

MAX_IMAGES, MAX_UNREADABLE = 2000, 100


@dataclass(frozen=True, slots=True)
class PageRow:
    """One image of the page."""

    path: str
    label: str
    probability: float  # of the most likely class, in [0, 1]
    others: str = ""  # the other likely classes, in words
    is_unknown: bool = False  # whether the prediction was rejected


def write_prediction_page(
    path: Path,
    rows: Sequence[PageRow],
    unreadable: Sequence[tuple[str, str]],
    *,
    model: str,
    thumbnails: Thumbnails,
    is_ordered: bool = False,
) -> None:
    """Write the page. Of too many images it has the least confident ones, and says so.

    `unreadable` has a path and a reason each; `is_ordered` is whether the order of `rows` is their
    order of importance.
    """
    shown = list(rows) if is_ordered else sorted(rows, key=lambda row: row.probability)
    uris = embed([row.path for row in shown[:MAX_IMAGES]], thumbnails)
    shown = [row for row in shown[:MAX_IMAGES] if row.path in uris]
    top = _common_folder([row.path for row in shown] + [file for file, _ in unreadable])
    page = page_template("reporting", "prediction_page.html.jinja").render(
        rows=shown,
        uris=uris,
        names={row.path: os.path.relpath(row.path, top) for row in shown},
        labels=sorted(Counter(row.label for row in shown).items()),
        left_out=len(rows) - len(shown),
        unreadable=[(os.path.relpath(file, top), why) for file, why in unreadable[:MAX_UNREADABLE]],
        unreadable_count=len(unreadable),
        count=len(rows) + len(unreadable),
        model=model,
        is_ordered=is_ordered,
        version=__version__,
    )
    write_text(path, page)


def _common_folder(files: Sequence[str]) -> str:
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}  # noqa: PTH100, PTH120
    try:
        return os.path.commonpath(folders) if folders else os.curdir
    except ValueError:  # on several drives
        return os.curdir
