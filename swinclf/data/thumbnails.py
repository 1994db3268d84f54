"""Small copies of images: JPEGs for a page, upright and without metadata; squares to compare."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from swinclf.data.images import UnreadableImage, decode_image, read_bytes
from swinclf.data.loader import LoadedImage, load_image, map_ahead, not_loaded
from swinclf.errors import DataError
from swinclf.preprocess import ValueRange

THUMBNAIL_PX = 128
QUALITY = 75
AHEAD = 32  # thumbnails that are made before they are asked for


def thumbnail(
    path: Path, side_px: int = THUMBNAIL_PX, *, ranges: tuple[ValueRange, ...] = ()
) -> bytes | None:
    """A JPEG of the whole picture, its longer side at most `side_px`; None if it cannot be read."""
    try:
        picture = decode_image(read_bytes(path), decode_px=side_px, ranges=ranges)
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
    """`thumbnail` of each of `files` below `root`, in order, made by threads a little ahead.

    Ends early where the disk is gone: a page goes without its pictures then.
    """
    with suppress(DataError):
        yield from map_ahead(
            lambda file: thumbnail(root / file, side_px, ranges=ranges),
            files,
            workers=workers,
            ahead=AHEAD,
            late=lambda _file, _reason: None,
        )


def small_squares(
    root: Path,
    files: Sequence[str],
    *,
    side_px: int,
    workers: int,
    ranges: tuple[ValueRange, ...] = (),
) -> Iterator[np.ndarray]:
    """The middle square of each picture, made small, in order.

    Args:
        root: What the files' paths are relative to.
        files: Images.
        side_px: Of the squares.
        workers: Threads.
        ranges: Which values of more than 8 bits are black and white.

    Yields:
        (side_px, side_px, 3) uint8; black where a file can no longer be read.

    Raises:
        DataError: If the disk is gone.
    """

    def load(file: str) -> tuple[str, LoadedImage]:
        small = partial(middle_square, side_px=side_px)
        return file, load_image(root / file, small, 2 * side_px, ranges=ranges, digest=False)

    loaded = map_ahead(
        load,
        files,
        workers=workers,
        ahead=AHEAD,
        late=not_loaded,
    )
    for _, one in loaded:
        yield np.zeros((side_px, side_px, 3), np.uint8) if one.pixels is None else one.pixels


def middle_square(picture: Image.Image, side_px: int) -> np.ndarray:
    """The middle square of an RGB picture, made small: (side_px, side_px, 3) uint8."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((side_px, side_px), Image.Resampling.BICUBIC, box))


def encode_jpeg(picture: Image.Image) -> bytes:
    """An RGB picture as a small JPEG."""
    buffer = io.BytesIO()
    Image.Image.save(picture, buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
