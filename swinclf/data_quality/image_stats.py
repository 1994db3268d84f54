"""Statistics of every image of a dataset, a few hundred bytes each, in one pass over the files.

Decodes every file completely, to detect truncation, but a JPEG at a reduced size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from swinclf.data.folder import ImageFile
from swinclf.data.images import (
    Header,
    UnreadableImage,
    content_digest,
    image_bytes,
    use_image,
)
from swinclf.data.loader import evenly_spaced, map_ahead
from swinclf.data_quality.fingerprints import CROPS, LENGTH, SIDE, fingerprints, small_grey
from swinclf.preprocess import ValueRange
from swinclf.reporter import Reporter

AHEAD = 64  # files read in advance
MEASURED = 32  # images for the median size


@dataclass(frozen=True)
class ImageStats:
    """Statistics of the images; row i is `images[i]`."""

    images: Sequence[ImageFile]
    errors: list[str]  # why a file cannot be read; empty if it can
    digests: list[bytes]  # of the content; empty for an unreadable file
    sizes: np.ndarray  # (N, 2) int32: width and height, px, of the upright image; 0 if unreadable
    orientations: np.ndarray  # (N,) uint8: the EXIF tag, 1 without one
    spreads: np.ndarray  # (N,) float32: standard deviation of the grey values, which are up to 255
    prints: np.ndarray  # (N, crops, numbers) float32 fingerprints
    ranges: tuple[ValueRange, ...] = ()  # black and white points of images of more than 8 bits

    @property
    def readable(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([not error for error in self.errors], dtype=bool)


# digest, size, orientation, spread and fingerprints of an image
_Record = tuple[bytes, tuple[int, int], int, float, np.ndarray]


def read_image_stats(
    root: Path,
    images: Sequence[ImageFile],
    *,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...] = (),
) -> ImageStats:
    """Read every file once, in `workers` threads; 0 reads in this thread."""
    count = len(images)
    stats = ImageStats(
        images=images,
        errors=[""] * count,
        digests=[b""] * count,
        sizes=np.zeros((count, 2), dtype=np.int32),
        orientations=np.ones(count, dtype=np.uint8),
        spreads=np.zeros(count, dtype=np.float32),
        prints=np.zeros((count, len(CROPS), LENGTH), dtype=np.float32),
        ranges=ranges,
    )
    paths = (root / image.path for image in images)
    with report.track("reading", count) as advance:
        read = partial(_read_one, ranges=ranges)
        results = map_ahead(
            read, paths, workers=workers, ahead=AHEAD, late=lambda _, reason: reason
        )
        for row, one in enumerate(results):
            advance(1)
            if isinstance(one, str):
                stats.errors[row] = one
                continue
            stats.digests[row], stats.sizes[row], stats.orientations[row] = one[:3]
            stats.spreads[row], stats.prints[row] = one[3:]
    return stats


def median_side_px(paths: Sequence[Path]) -> float | None:
    """Return the median shorter side of some images, spread evenly; None if none can be read.

    Raises:
        DataError: If the disk is gone.
    """

    def measure(path: Path) -> int | None:
        try:
            with image_bytes(path) as data:
                return use_image(data, lambda _, header: min(header.size), decode_px=SIDE)
        except UnreadableImage:
            return None

    chosen = evenly_spaced(paths, MEASURED)
    found = map_ahead(measure, chosen, workers=0, ahead=1, late=lambda _path, _reason: None)
    sides = [side for side in found if side is not None]
    return float(np.median(sides)) if sides else None


def _read_one(path: Path, *, ranges: tuple[ValueRange, ...]) -> _Record | str:

    def note(picture: Image.Image, header: Header) -> _Record:
        grey, digest = small_grey(picture), content_digest(data)
        return digest, header.size, header.orientation, float(grey.std()), fingerprints(grey)

    try:
        with image_bytes(path) as data:
            return use_image(data, note, decode_px=SIDE, ranges=ranges)
    except UnreadableImage as error:
        return str(error)
