"""Removal of metadata from image files before they are decoded.

Decoders that read colour profiles, texts, previews and camera data fail on broken or very large
ones although the pixels are good. Only the orientation is needed: it is read here, with bounded
memory, and damaged metadata is ignored.

Source: PNG 3rd edition (W3C 2025), sec. 5; JPEG (ITU-T T.81), annex B; GIF89a (CompuServe 1990),
sec. 23 to 26; JPEG 2000 (ITU-T T.800), annex I.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from swinclf.data.tiff_tags import ORIENTATION, read_directories

UPRIGHT = 1
MAX_TEXT_BYTES = 1_000_000  # unpacked of all compressed texts of a file to find the orientation
_MOST_INFLATION = 1032  # of the deflate format

_PNG = b"\x89PNG\r\n\x1a\n"
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_JP2_IMAGE = frozenset({b"jP  ", b"ftyp", b"jp2h", b"jp2c"})
_JP2_HEADER = frozenset({b"ihdr", b"bpcc", b"pclr", b"cmap", b"cdef"})
_PNG_IMAGE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
_PNG_XMP = b"XML:com.adobe.xmp"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
_EXIF_HEAD, _XMP_HEAD = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"
_JFIF, _ADOBE = b"JFIF\0", b"Adobe"


def strip_metadata(data: bytes) -> tuple[bytes, int | None]:
    """Return an image file without its metadata, and its EXIF orientation, 1 to 8.

    Files of other formats are unchanged; None where the decoder determines the orientation.
    """
    if data.startswith(_PNG):
        return _without_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _without_jpeg(data)
    if data[:4] == b"GIF8":
        return _without_gif(data), UPRIGHT
    if data.startswith(_JP2):
        return _without_jp2(data), UPRIGHT
    if data[4:8] == b"ftyp":
        return _without_heif_exif(data), None
    return data, None


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation in an EXIF block; None if it has none that can be read."""
    start = 6 if exif.startswith(_EXIF_HEAD) else 0
    with suppress(ValueError, struct.error, OverflowError):
        found = read_directories(exif[start:], 1)[0].number(ORIENTATION)
        return found if 1 <= found <= 8 else None
    return None


def _xmp_orientation(xmp: bytes) -> int | None:
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else None


def _first_of(*orientations: int | None) -> int:
    """Return the first orientation that is known: EXIF, also of 1, overrides XMP."""
    return next((one for one in orientations if one is not None), UPRIGHT)


def _without_png(data: bytes) -> tuple[bytes, int]:
    """Return a PNG with its image only: the default image of an animation."""
    parts, exif, raw_exif, xmp = [_PNG], None, None, None
    budget = MAX_TEXT_BYTES
    is_true_colour = data[25:26] in (b"\x02", b"\x06")  # whose palette is only a suggestion
    for kind, start, end in _png_chunks(data):
        if kind in _PNG_IMAGE and not (kind == b"PLTE" and is_true_colour):
            parts.append(data[start:end])
        elif kind == b"eXIf" and end <= len(data):
            exif = exif_orientation(data[start + 8 : end - 4])
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and end <= len(data):
            key, text, budget = _read_text(kind, data[start + 8 : end - 4], budget)
            if key in _PNG_RAW_EXIF and raw_exif is None:
                raw_exif = _raw_exif_orientation(text)
            elif key == _PNG_XMP and xmp is None:
                xmp = _xmp_orientation(text)
        elif not kind[:1].islower():  # unknown and critical: the decoder reports it
            parts.append(data[start:end])
        if kind == b"IEND":
            break
    return b"".join(parts), _first_of(exif, raw_exif, xmp)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk; the last one may end beyond the file."""
    offset = len(_PNG)
    while offset + 8 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        yield data[offset + 4 : offset + 8], offset, offset + 12 + length
        offset += 12 + length


def _read_text(kind: bytes, body: bytes, budget: int) -> tuple[bytes, bytes, int]:
    """Return the key and the text of a chunk that contains EXIF or XMP; empty for any other.

    The third value is what is left of `budget`, the number of bytes that may be unpacked.
    """
    key, _, rest = body.partition(b"\0")
    if key not in (*_PNG_RAW_EXIF, _PNG_XMP):
        return b"", b"", budget
    is_compressed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        is_compressed = rest[:1] == b"\x01"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if not is_compressed:
        return key, rest[:MAX_TEXT_BYTES], budget
    if budget == 0:  # which zlib takes for no limit
        return b"", b"", 0
    try:
        text = zlib.decompressobj().decompress(rest, budget)
    except zlib.error:  # after an unknown number of bytes
        return b"", b"", max(0, budget - _MOST_INFLATION * len(rest))
    return key, text, budget - len(text)


def _raw_exif_orientation(text: bytes) -> int | None:
    """Return the orientation in EXIF as text: a name, a length and hexadecimal digits, by line."""
    with suppress(ValueError, IndexError):
        return exif_orientation(bytes.fromhex(text.split(b"\n", 3)[3].decode("ascii")))
    return None


def _without_jpeg(data: bytes) -> tuple[bytes, int]:
    """Return a JPEG with its first image and its colour information only."""
    parts, start, offset = [data[:2]], 2, 2
    exif, xmp = None, None
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no length follows
            offset += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):  # start of scan or end of image
            break
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if end < offset + 4:
            break
        body = data[offset + 4 : end]
        if marker == 0xE1 and body.startswith(_EXIF_HEAD) and exif is None:
            exif = exif_orientation(body)
        elif marker == 0xE1 and body.startswith(_XMP_HEAD) and xmp is None:
            xmp = _xmp_orientation(body)
        if _is_jpeg_metadata(marker, body):
            parts.append(data[start:offset])
            start = end
        offset = end
    if start == 2:
        return data, _first_of(exif, xmp)
    return b"".join([*parts, data[start:]]), _first_of(exif, xmp)


def _is_jpeg_metadata(marker: int, body: bytes) -> bool:
    """Return whether a segment has no colour information, or is too short for it."""
    if marker == 0xE0:
        return not (body.startswith(_JFIF) and len(body) >= 14)
    if marker == 0xEE:
        return not (body.startswith(_ADOBE) and len(body) >= 12)
    return 0xE1 <= marker <= 0xEF or marker == 0xFE


def _without_gif(data: bytes) -> bytes:
    """Return a GIF without blocks before the first frame, except its transparency."""
    start = 13 + (3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    parts, offset = [data[:start]], start
    while data[offset : offset + 1] == b"\x21":
        end = offset + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        end += 1
        if data[offset + 1 : offset + 3] == b"\xf9\x04" and end == offset + 8:
            parts.append(data[offset:end])
        offset = end
    return b"".join([*parts, data[offset:]])


def _without_jp2(data: bytes) -> bytes:
    """Return a JPEG 2000 file with only the boxes that are needed for decoding."""
    parts = []
    for kind, start, inner, end in _boxes(data, 0, len(data)):
        if kind == b"jp2h":
            header = [
                data[at:until]
                for name, at, content, until in _boxes(data, inner, end)
                if name in _JP2_HEADER or (name == b"colr" and _is_colour_box(data[content:until]))
            ]
            body = b"".join(header)
            parts.append(struct.pack(">I4s", 8 + len(body), b"jp2h") + body)
        elif kind in _JP2_IMAGE:
            parts.append(data[start:end])
    return b"".join(parts)


def _boxes(data: bytes, offset: int, limit: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (type, start, start of the content, end) of each box; ends are cut at `limit`."""
    while offset + 8 <= limit:
        length, inner = int.from_bytes(data[offset : offset + 4], "big"), offset + 8
        if length == 1:
            length, inner = int.from_bytes(data[offset + 8 : offset + 16], "big"), offset + 16
        end = min(limit, offset + length) if length else limit
        if end < inner:
            return
        yield data[offset + 4 : offset + 8], offset, inner, end
        offset = end


def _without_heif_exif(data: bytes) -> bytes:
    """Return an AVIF or HEIC whose EXIF item is renamed, so that no offset changes.

    The orientation of these files is a separate property, which overrides EXIF.
    Source: ISO/IEC 14496-12, sec. 8.11.6; ISO/IEC 23008-12, sec. 6.5.10 and annex A.
    """
    names = []
    for kind, _, inner, end in _boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        for item, _, start, until in _boxes(data, inner + 4, end):
            if item != b"iinf":
                continue
            first = start + (6 if data[start : start + 1] == b"\0" else 8)
            for entry, _, content, last in _boxes(data, first, until):
                name = content + (8 if data[content : content + 1] == b"\2" else 10)
                if entry == b"infe" and name + 4 <= last and data[name : name + 4] == b"Exif":
                    names.append(name)
    if not names:
        return data
    changed = bytearray(data)
    for name in names:
        changed[name : name + 4] = b"skip"
    return bytes(changed)


def _is_colour_box(body: bytes) -> bool:
    """Return whether a colour specification is complete: an enumerated space, or a profile."""
    return len(body) >= (7 if body[:1] == b"\1" else 3 + 128)
