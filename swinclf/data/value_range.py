"""Value ranges of a dataset's sample types of more than 8 bits, measured over all its images.

Cameras of 10 to 14 bits write 16-bit files, and 32-bit integers or floats never use their whole
range. Scaled by the range of its type such an image is nearly black; scaled by its own, it loses
its brightness. So one range is measured over the training images and stored with the model.

Unsigned integers, and signed ones without negative values, are scaled from 0 to the next power of
two minus one; other integers and floats from the smallest to the largest value, but floats within
[0, 1] whose largest value exceeds 0.5 from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from swinclf.data.images import HEAD_BYTES, UnreadableImage, image_bytes, measure_values, read_bytes
from swinclf.data.loader import evenly_spaced, map_ahead
from swinclf.data.tiff_tags import is_tiff
from swinclf.preprocess import ValueRange

MOST_HEADS = 4096  # files whose headers are read, evenly over all
MOST_IMAGES = 256  # of those with more than 8 bits, evenly, that are decoded
AHEAD = 32

_BITS_OF_PNG = 24  # offset of the bit depth
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


def measure_ranges(
    files: Sequence[Path],
    *,
    workers: int,
    takes: Callable[[bytes], bool] = lambda _: True,
) -> tuple[ValueRange, ...]:
    """Return the value ranges of a dataset's training images, measured on a deterministic sample.

    Unreadable images, and those for whose bytes `takes` is false, are ignored.

    Returns:
        A range for each sample type of more than 8 bits, sorted; none for 16-bit integers that use
        all of their bits, which are scaled by them in any case.

    Raises:
        DataError: If the disk is gone.
    """

    def is_wide(file: Path) -> bool:
        try:
            return may_have_more_bits(read_bytes(file, HEAD_BYTES))
        except UnreadableImage:
            return False

    def measure(file: Path) -> ValueRange | None:
        try:
            with image_bytes(file) as data:
                return measure_values(data) if takes(data) else None
        except UnreadableImage:
            return None

    heads = evenly_spaced(files, MOST_HEADS)
    flags = map_ahead(is_wide, heads, workers=workers, ahead=AHEAD, late=lambda _f, _why: False)
    wide = [file for file, flag in zip(heads, flags, strict=True) if flag]
    chosen = evenly_spaced(wide, MOST_IMAGES)
    measured = map_ahead(measure, chosen, workers=workers, ahead=AHEAD, late=lambda _f, _why: None)
    return merge_ranges(one for one in measured if one is not None)


def may_have_more_bits(head: bytes) -> bool:
    """Return whether a file, by its first bytes, may hold more than 8 bits per sample."""
    if head.startswith(b"\x89PNG"):
        return head[_BITS_OF_PNG : _BITS_OF_PNG + 1] == b"\x10"
    return is_tiff(head) or head.startswith((*_JPEG_2000, b"P5", b"P6"))


def merge_ranges(measured: Iterable[ValueRange]) -> tuple[ValueRange, ...]:
    """Return one range for each sample type from those of images, by the rule of this module."""
    found: dict[str, tuple[float, float]] = {}
    for one in measured:
        low, high = found.get(one.kind, (one.low, one.high))
        found[one.kind] = min(low, one.low), max(high, one.high)
    ranges = (_by_rule(kind, *found[kind]) for kind in sorted(found))
    return tuple(one for one in ranges if one is not None)


def describe_range(one: ValueRange) -> str:
    """Return a message with a range."""
    if one.kind == "uint16":
        return f"16-bit images use 0 to {one.high:,.0f} of 65,535: scaled by that range"
    if one.kind.startswith("float"):
        return f"{one.kind} images use {one.low:.6g} to {one.high:.6g}: scaled by that range"
    return f"{one.kind} images use {one.low:,.0f} to {one.high:,.0f}: scaled by that range"


def _by_rule(kind: str, low: float, high: float) -> ValueRange | None:
    """Return the range of a sample type; None if there is nothing to scale by."""
    if kind.startswith("float"):
        if low >= 0 and 0.5 < high <= 1:
            low, high = 0.0, 1.0
    elif low >= 0:
        low, high = 0.0, float(2 ** int(high).bit_length() - 1)
    if low >= high or (kind, high) == ("uint16", 65535.0):
        return None
    return ValueRange(kind, low, high)
