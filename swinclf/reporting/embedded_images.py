"""Thumbnails embedded in an HTML page, in order of importance, within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from swinclf.reporting.html import data_uri

MAX_CHARS = 12_000_000  # of all data URIs in a page

# Paths of images -> a JPEG for each, in order; None for one that cannot be read. Called once, and
# not exhausted if the budget is spent.
Thumbnails = Callable[[Sequence[str]], Iterator[bytes | None]]


def embed(
    uses: Sequence[str], thumbnails: Thumbnails, *, budget: int = MAX_CHARS
) -> dict[str, str]:
    """Return the data URIs of a page's thumbnails by path, up to a budget in characters.

    Args:
        uses: Paths of the images in order of importance, once for each use: a thumbnail that the
            page shows twice costs twice.
        thumbnails: Makes the JPEGs.
        budget: Largest number of characters in the page.

    Returns:
        Unreadable images are missing, and so are all from the first one that would have exceeded
        the budget.
    """
    counts = Counter(uses)
    uris: dict[str, str] = {}
    spent = 0
    for path, jpeg in zip(counts, thumbnails(list(counts)), strict=False):
        if jpeg is None:
            continue
        uri = data_uri(jpeg, "jpeg")
        spent += len(uri) * counts[path]
        if spent > budget:
            break
        uris[path] = uri
    return uris
