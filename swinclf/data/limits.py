"""Limits of decoding: pixels by format, scans of a JPEG, and memory of concurrent decoders.

Chosen so that no file takes more than ten seconds, or the whole program more than two gigabytes,
whatever the file claims; `benchmarks/torture.py images` measures both.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

from PIL import Image, ImageFile

from swinclf.data.thread_pool import deadline_paused
from swinclf.device import trim_heap

MAX_FILE_BYTES = 256 * 1024**2
LARGE_FILE_BYTES = 32 * 1024**2  # larger ones are read one at a time
LONGEST_TURN_S = 15.0
MEMORY_BYTES = 600_000_000  # for all images being decoded; a larger one is decoded alone
MUCH_BYTES = 64_000_000

MAX_PIXELS = 110_000_000  # formats that are always decoded whole
_MAX_PIXELS = {
    "JPEG": 300_000_000,  # decoded at an eighth of its size, if that is enough
    "MPO": 300_000_000,
    "WEBP": 40_000_000,  # these four decoders hold several copies
    "AVIF": 60_000_000,
    "HEIF": 100_000_000,
    "JPEG2000": 25_000_000,
    "ICO": 4_000_000,
    "PNG of 16-bit channels": 60_000_000,  # decoded twice, for the upper and the lower bytes
}
_MAX_SCANNED = 1_500_000_000  # pixels times scans of a JPEG that comes in several
_MAX_COEFFICIENT_BYTES = 700_000_000  # such a JPEG is held whole, whatever size is requested
_MAX_SLOW_PIXELS = 4_000_000  # for decoders written in Python
_MAX_SLOW_BYTES = 32 * 1024**2

# Memory while decoding, bytes per pixel: measured, rounded up, with 4 for the RGB image.
_BYTES_PER_PIXEL = {"JPEG": 8, "MPO": 8, "WEBP": 21, "AVIF": 15, "HEIF": 12, "JPEG2000": 32}
_OTHER_BYTES_PER_PIXEL = 8
_RASTER_BYTES = 64_000_000  # while a band of a million pixels of several channels is converted

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, of every kind
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


class UnreadableImage(Exception):
    """A file that cannot be decoded; the message says why."""


class ExcessiveImage(UnreadableImage):
    """A file that exceeds a limit of this module."""


def why_not_bytes(size: int, most: int | None = None) -> str:
    """Return why a file of this many bytes must not be read; empty if it may."""
    limit = MAX_FILE_BYTES if most is None else most
    return f"{size:,} bytes; the limit is {limit:,}" if size > limit else ""


def check_before_opening(data: bytes, most: int | None = None) -> None:
    """Check a file that a plugin decodes, or allocates memory for, when it opens it.

    `most` and what is raised are as of `check_size`.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        check_size(_webp_size(data), "WEBP", most)
    if data[:4] == b"\x00\x00\x01\x00":
        for size in _icon_sizes(data):
            check_size(size, "ICO", most)


def check_size(size: tuple[int, int], kind: str, most: int | None = None) -> None:
    """Check the (width, height) of an image, px, before it is decoded.

    `kind` is the format in Pillow's terms; empty if it is decoded band by band. `most` is a lower
    limit for all formats, px; None for that of the format alone.

    Raises:
        ExcessiveImage: If it has more pixels.
    """
    limit = _MAX_PIXELS.get(kind, MAX_PIXELS)
    if most is not None and most < limit:
        limit, kind = most, ""
    if size[0] * size[1] > limit:
        named = f" ({kind})" if kind else ""
        raise ExcessiveImage(f"{size[0]} x {size[1]} px; the limit is {limit:,} px{named}")


def check_before_decoding(
    picture: ImageFile.ImageFile, data: bytes, most: int | None = None
) -> int:
    """Check the size and the effort of an opened image; `most` and errors as of `check_size`.

    Returns:
        The bytes of the coefficients of a JPEG in several scans, at whatever size it is decoded;
        0 for other images.
    """
    kind = picture.format or ""
    check_size(picture.size, kind, most)
    pixels = picture.width * picture.height
    if _is_slow(picture) and (pixels > _MAX_SLOW_PIXELS or len(data) > _MAX_SLOW_BYTES):
        raise ExcessiveImage(
            f"{picture.width} x {picture.height} px in {len(data):,} bytes; the limits of its "
            f"slow kind are {_MAX_SLOW_PIXELS:,} px and {_MAX_SLOW_BYTES:,} bytes"
        )
    scans = count_scans(data) if kind in ("JPEG", "MPO") else 1
    coefficient_bytes = 6 * pixels if scans > 1 else 0  # 2 bytes, three components
    if scans * pixels > _MAX_SCANNED or coefficient_bytes > _MAX_COEFFICIENT_BYTES:
        raise ExcessiveImage(
            f"{picture.width} x {picture.height} px in {scans:,} scans: too much to decode"
        )
    return coefficient_bytes


def bytes_of_pixels(picture: ImageFile.ImageFile) -> int:
    """Return the approximate memory for decoding, bytes, after `picture.draft`."""
    kind = picture.format or ""
    return picture.width * picture.height * _BYTES_PER_PIXEL.get(kind, _OTHER_BYTES_PER_PIXEL)


def bytes_of_raster(size: tuple[int, int], band_bytes: int) -> int:
    """Return about how many bytes it takes to convert (width, height) px band by band."""
    return 4 * size[0] * size[1] + band_bytes + _RASTER_BYTES


def count_scans(data: bytes) -> int:
    """Return the number of passes of a decoder over the pixels of a JPEG.

    With more than one, the whole image is held as coefficients.
    """
    scans, components, progressive, several = 0, 0, False, False
    for marker, at in _jpeg_markers(data):
        if marker in _FRAMES:
            progressive, components = (
                marker in _PROGRESSIVE,
                data[at + 9] if len(data) > at + 9 else 0,
            )
        elif marker == _START_OF_SCAN:
            scans += 1
            several = several or progressive or (len(data) > at + 4 and data[at + 4] < components)
            if not several:
                break
    return max(1, scans)


def why_not_jpeg(data: bytes) -> str:
    """Return why a JPEG is not supported; empty if no reason is known."""
    for marker, at in _jpeg_markers(data):
        if marker in _FRAMES:
            bits = data[at + 4] if len(data) > at + 4 else 8
            if marker in _LOSSLESS:
                return f"lossless JPEG of {bits}-bit samples is not supported"
            return f"JPEG of {bits}-bit samples is not supported" if bits != 8 else ""
    return ""


class MemoryBudget:
    """Memory shared by threads: a request that does not fit blocks until enough is released.

    A request of more than `size` bytes takes the whole budget.
    """

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = Condition()

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Reserve a part for the duration of the block."""
        part = min(needed, self._size)
        with self._changed:
            with deadline_paused():
                self._changed.wait_for(lambda: self._free >= part)
            self._free -= part
        if part > MUCH_BYTES:
            trim_heap()  # otherwise memory freed by earlier images adds to the peak
        try:
            yield
        finally:
            with self._changed:
                self._free += part
                self._changed.notify_all()


MEMORY = MemoryBudget(MEMORY_BYTES)
_large_files = Lock()


@contextmanager
def serialize_if_large(size: int) -> Iterator[None]:
    """Serialize reading and decoding of very large files, by their size in bytes, to bound memory.

    The wait is bounded as well: the disk of the file that blocks the others may be gone.
    """
    taken = size > LARGE_FILE_BYTES and _large_files.acquire(timeout=LONGEST_TURN_S)
    try:
        yield
    finally:
        if taken:
            _large_files.release()


def _is_slow(picture: ImageFile.ImageFile) -> bool:
    """Return whether Pillow's decoder is written in Python: a second per million pixels."""
    return any(tile[0] in Image.DECODERS for tile in picture.tile)


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its 0xFF) of a JPEG's segments, up to the end of its first image."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, at = found[1][0], found.end() - 2
        if marker == _END_OF_IMAGE:
            return
        yield marker, at
        position = at + 2
        if marker not in (0x01, 0xD8) and len(data) >= position + 2:
            position += int.from_bytes(data[position : position + 2], "big")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the canvas, px; 0 by 0 if the header is invalid."""
    kind, head = data[12:16], data[20:30]
    if len(head) < 10:
        return 0, 0
    if kind == b"VP8X":
        return (
            int.from_bytes(head[4:7], "little") + 1,
            int.from_bytes(head[7:10], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _icon_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the sizes of the images in a Windows icon by their own headers, px."""
    for entry in range(int.from_bytes(data[4:6], "little")):
        at = int.from_bytes(data[6 + 16 * entry + 12 : 6 + 16 * entry + 16], "little")
        head = data[at : at + 24]
        if head[:4] == b"\x89PNG":
            yield int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        elif len(head) == 24:
            width, height = struct.unpack("<ii", head[4:12])
            yield abs(width), abs(height)
