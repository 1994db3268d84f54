"""The HTML page of `predict`: thumbnails that can be filtered and sorted by label and confidence.

One file of bounded size, without paths of this machine: of each image, its path below the folder
that all of them are in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swinclf.files import write_text
from swinclf.reporting.html import Thumbnails, embed, names_below, page_template

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
    files = [row.path for row in shown] + [file for file, _ in unreadable]
    names = dict(zip(files, names_below(files), strict=True))
    page = page_template("reporting", "prediction_page.html.jinja").render(
        rows=shown,
        uris=uris,
        names=names,
        labels=sorted(Counter(row.label for row in shown).items()),
        left_out=len(rows) - len(shown),
        unreadable=[(names[file], why) for file, why in unreadable[:MAX_UNREADABLE]],
        unreadable_count=len(unreadable),
        count=len(rows) + len(unreadable),
        model=model,
        is_ordered=is_ordered,
    )
    write_text(path, page)
