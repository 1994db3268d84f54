"""One pass over a dataset's files: what is kept of each picture, a few hundred bytes.

Decodes every file to its end, because nothing less tells whether it is whole, but a JPEG at a part
of its size: the rest of the pixels is not needed.
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
    read_bytes,
    reading,
    use_image,
)
from swinclf.data.loader import map_ahead
from swinclf.data_quality.fingerprints import CROPS, LENGTH, SIDE, fingerprints, small_grey
from swinclf.preprocess import ValueRange
from swinclf.reporter import Reporter

AHEAD = 64  # files read in advance of the one being noted down


@dataclass(frozen=True)
class Facts:
    """What one pass has seen; a row each image, in the order they were given.

    Attributes:
        images: The files.
        errors: Why a file could not be read; empty where it could.
        digests: Of the content; empty where the file could not be read.
        sizes: (N, 2) int32: width and height, px, of the upright picture; 0 where unreadable.
        orientations: (N,) uint8: the EXIF tag, 1 where there is none.
        spreads: (N,) float32: standard deviation of grey over the small picture, of 255.
        prints: (N, crops, numbers) float32 fingerprints.
        ranges: Which values of more than 8 bits were black and white.
    """

    images: Sequence[ImageFile]
    errors: list[str]
    digests: list[bytes]
    sizes: np.ndarray
    orientations: np.ndarray
    spreads: np.ndarray
    prints: np.ndarray
    ranges: tuple[ValueRange, ...] = ()

    @property
    def readable(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([not error for error in self.errors], dtype=bool)


@dataclass(frozen=True, slots=True)
class _One:
    digest: bytes
    size: tuple[int, int]
    orientation: int
    spread: float
    prints: np.ndarray


def read_facts(
    root: Path,
    images: Sequence[ImageFile],
    *,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...] = (),
) -> Facts:
    """Reads every file once.

    Args:
        root: What the images' paths are relative to.
        images: The files.
        workers: Threads that read; 0 reads here.
        report: Told of progress.
        ranges: Which values of more than 8 bits are black and white.
    """
    count = len(images)
    facts = Facts(
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
        look = partial(_look, ranges=ranges)
        looks = map_ahead(look, paths, workers=workers, ahead=AHEAD, late=lambda _, reason: reason)
        for row, one in enumerate(looks):
            advance(1)
            if isinstance(one, str):
                facts.errors[row] = one
                continue
            facts.digests[row] = one.digest
            facts.sizes[row] = one.size
            facts.orientations[row] = one.orientation
            facts.spreads[row] = one.spread
            facts.prints[row] = one.prints
    return facts


def _look(path: Path, *, ranges: tuple[ValueRange, ...]) -> _One | str:
    """What is to be known of one file, or why it cannot be read."""

    def note(picture: Image.Image, header: Header) -> _One:
        grey = small_grey(picture)
        spread = float(grey.std())
        digest = content_digest(data)
        return _One(digest, header.size, header.orientation, spread, fingerprints(grey))

    try:
        with reading(path):
            data = read_bytes(path)
            return use_image(data, note, decode_px=SIDE, ranges=ranges)
    except UnreadableImage as error:
        return str(error)
