"""Leaves out of a file what is not its image, before a decoder reads it.

A decoder that reads colour profiles, texts, previews and camera data fails on broken or very large
ones, though the pixels are good. Of all that only the orientation is needed: it is read here, with
a bound on memory, and damaged metadata gives none.

Source: PNG 3rd edition (W3C 2025), sec. 5; JPEG (ITU-T T.81), annex B; WebP (RFC 9649), sec. 2.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from swinclf.data.tiff_tags import ORIENTATION, is_tiff, read_directories

UPRIGHT = 1
MAX_TEXT_BYTES = 1_000_000  # of a compressed text that is read for the orientation

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_IMAGE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
_PNG_XMP = b"XML:com.adobe.xmp"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
_EXIF_HEAD, _XMP_HEAD = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"
_JFIF, _ADOBE = b"JFIF\0", b"Adobe"


def without_metadata(data: bytes) -> tuple[bytes, int | None]:
    """Return a file without its metadata, and its orientation.

    Args:
        data: The whole file.

    Returns:
        The file, of formats that are not known here as it is; and 1 to 8 as EXIF has it, None where
        the decoder is to say.
    """
    if data.startswith(_PNG):
        return _without_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _without_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _without_webp(data)
    return data, None


def exif_orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block; 1, upright, where none can be read."""
    start = 6 if exif.startswith(_EXIF_HEAD) else 0
    block = exif[start:]
    if not is_tiff(block):
        return UPRIGHT
    with suppress(ValueError, struct.error, OverflowError):
        found = read_directories(block, 1)[0].number(ORIENTATION, UPRIGHT)
        return found if 1 <= found <= 8 else UPRIGHT
    return UPRIGHT


def _xmp_orientation(xmp: bytes) -> int:
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else UPRIGHT


def _without_png(data: bytes) -> tuple[bytes, int]:
    """A PNG of its image alone: of an animation its default image."""
    parts, exif, text = [_PNG], UPRIGHT, UPRIGHT
    is_true_colour = data[25:26] in (b"\x02", b"\x06")  # a palette there is but a suggestion
    seen_data = False
    for kind, start, end in _png_chunks(data):
        if kind == b"IEND" and end > len(data):
            break
        seen_data = seen_data or kind == b"IDAT"
        if kind in _PNG_IMAGE and not (kind == b"PLTE" and is_true_colour):
            parts.append(data[start:end])
        elif kind == b"eXIf" and end <= len(data):
            exif = exif_orientation(data[start + 8 : end - 4])
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and text == UPRIGHT and end <= len(data):
            text = _text_orientation(kind, data[start + 8 : end - 4])
        elif not kind[:1].islower():  # unknown, and needed: the decoder shall say so
            parts.append(data[start:end])
        if kind == b"IEND":
            break
    return b"".join(parts), exif if exif != UPRIGHT else text


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk; the last one may end beyond the file."""
    place = len(_PNG)
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], place, place + 12 + length
        place += 12 + length


def _text_orientation(kind: bytes, body: bytes) -> int:
    """The orientation in a text chunk that carries EXIF or XMP."""
    key, _, rest = body.partition(b"\0")
    if key not in (*_PNG_RAW_EXIF, _PNG_XMP):
        return UPRIGHT
    is_compressed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        is_compressed = rest[:1] == b"\x01"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if is_compressed:
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_TEXT_BYTES)
        except zlib.error:
            return UPRIGHT
    if key == _PNG_XMP:
        return _xmp_orientation(rest[:MAX_TEXT_BYTES])
    with suppress(ValueError):  # a name, a length and hexadecimal digits, a line each
        return exif_orientation(bytes.fromhex(rest.split(b"\n", 3)[3].decode("ascii")))
    return UPRIGHT


def _without_jpeg(data: bytes) -> tuple[bytes, int]:
    """A JPEG of its first image, and of what says how its colours are meant."""
    parts, start, place = [data[:2]], 2, 2
    exif, xmp = UPRIGHT, UPRIGHT
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no length follows
            place += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):  # the image itself follows, or nothing
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if end < place + 4:
            break
        body = data[place + 4 : end]
        if marker == 0xE1 and body.startswith(_EXIF_HEAD) and exif == UPRIGHT:
            exif = exif_orientation(body)
        elif marker == 0xE1 and body.startswith(_XMP_HEAD) and xmp == UPRIGHT:
            xmp = _xmp_orientation(body)
        if _is_jpeg_metadata(marker, body):
            parts.append(data[start:place])
            start = end
        place = end
    if start == 2:
        return data, exif if exif != UPRIGHT else xmp
    return b"".join([*parts, data[start:]]), exif if exif != UPRIGHT else xmp


def _is_jpeg_metadata(marker: int, body: bytes) -> bool:
    """Whether a segment says nothing of the pixels or their colours, or is too short to."""
    if marker == 0xE0:
        return not (body.startswith(_JFIF) and len(body) >= 14)
    if marker == 0xEE:
        return not (body.startswith(_ADOBE) and len(body) >= 12)
    return 0xE1 <= marker <= 0xEF or marker == 0xFE


def _without_webp(data: bytes) -> tuple[bytes, int | None]:
    """A WebP of its frames alone, if it is of the kind that can have more."""
    if data[12:16] != b"VP8X" or len(data) < 30:
        return data, None
    orientation, parts, place = UPRIGHT, [], 12
    limit = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while place + 8 <= limit:
        kind = data[place : place + 4]
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + length + length % 2
        if kind == b"EXIF":
            orientation = exif_orientation(data[place + 8 : place + 8 + length])
        elif kind == b"XMP " and orientation == UPRIGHT:
            orientation = _xmp_orientation(data[place + 8 : min(end, place + MAX_TEXT_BYTES)])
        elif kind not in (b"ICCP", b"XMP ") or end > limit:
            parts.append(data[place:end])
        place = end
    body = bytearray(b"".join(parts))
    body[8] &= ~0b0010_1100  # profile, EXIF, XMP
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, orientation
