"""Thumbnails of images for HTML pages: JPEGs, upright and without metadata."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from swinclf.data.images import UnreadableImage, decode_image, image_bytes
from swinclf.data.loader import map_ahead
from swinclf.errors import DataError
from swinclf.preprocess import ValueRange

THUMBNAIL_PX = 128
QUALITY = 75
AHEAD = 32  # thumbnails computed in advance


def thumbnail(
    path: Path, side_px: int = THUMBNAIL_PX, *, ranges: tuple[ValueRange, ...] = ()
) -> bytes | None:
    """Return a JPEG whose longer side is at most `side_px`; None if the image cannot be read."""
    try:
        with image_bytes(path) as data:
            picture = decode_image(data, decode_px=side_px, ranges=ranges)
    except UnreadableImage:
        return None
    picture.thumbnail((side_px, side_px))
    return encode_jpeg(picture)


def thumbnails(
    root: Path,
    files: Sequence[str],
    *,
    workers: int,
    side_px: int = THUMBNAIL_PX,
    ranges: tuple[ValueRange, ...] = (),
) -> Iterator[bytes | None]:
    """Yield the thumbnail of each of `files` below `root`, in order, computed by threads.

    Ends early if the disk is gone.
    """
    with suppress(DataError):
        yield from map_ahead(
            lambda file: thumbnail(root / file, side_px, ranges=ranges),
            files,
            workers=workers,
            ahead=AHEAD,
            late=lambda _file, _reason: None,
        )


def encode_jpeg(picture: Image.Image) -> bytes:
    """Return an RGB image as a small JPEG."""
    buffer = io.BytesIO()
    Image.Image.save(picture, buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
