"""The pictures of a page as text inside it, the most important first, within a budget of bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from swinclf.reporting.html import data_uri

PICTURE_CHARS = 12_000_000  # of all thumbnails together, as they stand in the page

# Paths of images -> a JPEG for each, in order; None for one that cannot be read. Asked once, and
# not read to its end where the budget is spent.
Thumbnails = Callable[[Sequence[str]], Iterator[bytes | None]]


def embed(
    uses: Sequence[str], thumbnails: Thumbnails, *, budget: int = PICTURE_CHARS
) -> dict[str, str]:
    """Make the pictures of a page.

    Args:
        uses: Paths of the images in the order of their importance, one for each place where the
            page shows it: a picture that stands in two places costs twice.
        thumbnails: Makes them.
        budget: Most characters of all places together.

    Returns:
        Path -> data URI. An image that could not be read is missing, and so are all from the
        first on that would have gone beyond the budget.
    """
    places = Counter(uses)
    uris: dict[str, str] = {}
    spent = 0
    for path, jpeg in zip(places, thumbnails(list(places)), strict=False):
        if jpeg is None:
            continue
        uri = data_uri(jpeg, "jpeg")
        spent += len(uri) * places[path]
        if spent > budget:
            break
        uris[path] = uri
    return uris
