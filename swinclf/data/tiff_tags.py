"""TIFF tags, each read only when needed, so that broken ones do no harm.

Reads classic TIFF and BigTIFF of both byte orders, and writes minimal directories for decoders.

Source: TIFF 6.0 (Adobe 1992); the BigTIFF design (libtiff).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SUBFILE_TYPE, FILL_ORDER, DESCRIPTION, ORIENTATION = 254, 266, 270, 274
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES = 273, 277, 278, 279
PLANAR, PAGE_NUMBER, PREDICTOR, PALETTE = 284, 297, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES = 322, 323, 324, 325
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, DEPTH = 332, 338, 339, 32997
YCBCR_COEFFICIENTS, YCBCR_SUBSAMPLING, BLACK_WHITE = 529, 530, 532

_PREFIXES = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_TYPES = {
    **{1: "u1", 2: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4"},
    **{11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"},
}
_RATIONALS = {5: "u4", 10: "i4"}
_MAX_TAGS = 4096


@dataclass(frozen=True)
class Directory:
    """The tags of one page: type, count and offset of the values, by number."""

    data: bytes
    order: str  # byte order, < or >
    tags: Mapping[int, tuple[int, int, int]]  # the entries of the directory

    def __contains__(self, tag: int) -> bool:
        """Return whether a tag is present."""
        return tag in self.tags

    def numbers(self, tag: int, default: Sequence[float] = ()) -> np.ndarray:
        """Return the values of a numeric tag.

        Raises:
            ValueError: If they are outside the file, or not numbers.
        """
        if tag not in self.tags:
            return np.asarray(default)
        kind, count, offset = self.tags[tag]
        if kind in _RATIONALS:
            pairs = self._read(_RATIONALS[kind], 2 * count, offset).reshape(-1, 2).astype(float)
            return np.asarray(pairs[:, 0] / np.maximum(pairs[:, 1], 1))
        name = _TYPES.get(kind)
        if name is None:
            raise ValueError(f"TIFF tag {tag} of unknown type {kind}")
        return self._read(name, count, offset)

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        values = self.numbers(tag, (default,))
        return int(values[0]) if len(values) else default

    def text(self, tag: int) -> str:
        """Return a text; empty if it is missing or cannot be read."""
        kind, count, offset = self.tags.get(tag, (0, 0, 0))
        if kind not in (1, 2, 7):
            return ""
        return self.data[offset : offset + count].partition(b"\0")[0].decode("utf-8", "replace")

    def _read(self, name: str, count: int, offset: int) -> np.ndarray:
        kind = np.dtype(self.order + name)
        if offset + count * kind.itemsize > len(self.data):
            raise ValueError("a TIFF tag is outside the file")
        return np.frombuffer(self.data, kind, count, offset)


def is_tiff(data: bytes) -> bool:
    """Return whether a file has the signature of a TIFF."""
    return data[:4] in _PREFIXES


def read_directories(data: bytes, most: int) -> list[Directory]:
    """Return the directories of the first `most` pages of a file, or of the TIFF in an EXIF block.

    Raises:
        ValueError: If there is none.
    """
    if not is_tiff(data) or len(data) < 8:
        raise ValueError("not a TIFF")
    order = "<" if data[:2] == b"II" else ">"
    is_big = b"+" in data[:4]
    offset = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
    pages: list[Directory] = []
    visited: set[int] = set()
    while offset and offset not in visited and len(pages) < most:
        visited.add(offset)
        try:
            tags, offset = _read_tags(data, offset, order, is_big=is_big)
        except struct.error:
            break
        pages.append(Directory(data, order, tags))
    if not pages:
        raise ValueError("a TIFF without a directory")
    return pages


def _read_tags(
    data: bytes, offset: int, order: str, *, is_big: bool
) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Return the tags of the directory at an offset, and the offset of the next one."""
    head, entry, pointer = ("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I")
    count = struct.unpack_from(order + head, data, offset)[0]
    offset += struct.calcsize(order + head)
    inline = struct.calcsize(order + pointer)
    tags: dict[int, tuple[int, int, int]] = {}
    for _ in range(min(count, _MAX_TAGS)):
        tag, kind, values = struct.unpack_from(order + entry, data, offset)
        at = offset + struct.calcsize(order + entry)
        if values * _size_of(kind) > inline:
            at = struct.unpack_from(order + pointer, data, at)[0]
        tags.setdefault(tag, (kind, values, at))
        offset += struct.calcsize(order + entry) + inline
    following = data[offset : offset + inline] if count <= _MAX_TAGS else b""
    return tags, int.from_bytes(following, "little" if order == "<" else "big")


def _size_of(kind: int) -> int:
    if kind in _RATIONALS:
        return 8
    name = _TYPES.get(kind)
    return np.dtype(name).itemsize if name else 1


def replace_directory(
    data: bytes, order: str, tags: Mapping[int, np.ndarray | Sequence[int]]
) -> bytes:
    """Return a classic TIFF of one page: the same file with another directory.

    The first 8 bytes of `data` are overwritten; `order` is its byte order, < or >. Values of tags
    are integers, or bytes as uint8.
    """
    parts, offset = [data[8:]], len(data)
    entries = b""
    for tag, values in sorted(tags.items()):
        array = np.asarray(values)
        kind, name = {1: (7, "u1"), 2: (3, "u2")}.get(array.dtype.itemsize, (4, "u4"))
        encoded = array.astype(order + name).tobytes()
        entries += struct.pack(order + "HHI", tag, kind, array.size)
        if len(encoded) <= 4:
            entries += encoded.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", offset)
            parts.append(encoded + b"\0" * (len(encoded) % 2))
            offset += len(parts[-1])
    if offset % 2:
        parts.append(b"\0")
        offset += 1
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", offset)
    directory = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return b"".join([head, *parts, directory])
