"""Metadata never makes a good image unreadable: the pixels are those of the file without it."""

from __future__ import annotations

import functools
import io
import struct
import tracemalloc
import types
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from test_images import encoded

from swinclf.data.images import FORMATS, decode_image
from swinclf.data.metadata import exif_orientation, strip_metadata

PIXELS = np.add.outer(np.arange(32) * 3, np.arange(48) * 2)[..., None] + [0, 20, 40]
RGB = Image.fromarray(PIXELS.astype(np.uint8))
NOISE = np.random.default_rng(0).bytes(1_300_000)


def bomb(size=40_000_000):
    """Zeros, compressed."""
    squeeze = zlib.compressobj(9)
    block = bytes(1_000_000)
    parts = [squeeze.compress(block) for _ in range(size // len(block))]
    return b"".join(parts) + squeeze.flush()


BOMB = bomb()
BROKEN_EXIF = [
    b"",
    b"II",
    b"II*\0",
    b"MM\0*\0\0\0\x08\xff\xff",
    b"II*\0\xff\xff\xff\xff",
    b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff",
    b"II*\0\x08\0\0\0\x02\0\x12\x01\x05\0\x01\0\0\0\0\0\0\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0"
    + bytes(4),
    b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\xff\0\0\0\x08\0\0\0",  # a text
    b"garbage",
    NOISE[:60_000],
    bytes(60_000),
]


# PNG


def png_chunk(kind, body, *, broken_sum=False):
    check = zlib.crc32(kind + body) ^ broken_sum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


PNG_CHUNKS = {
    "large profile": png_chunk(b"iCCP", b"a\0\0" + zlib.compress(NOISE)),
    "profile that is a bomb": png_chunk(b"iCCP", b"a\0\0" + BOMB),
    "broken profile": png_chunk(b"iCCP", b"a\0\0" + NOISE[:999]),
    "profile of no method": png_chunk(b"iCCP", b"a"),
    "two profiles": 2 * png_chunk(b"iCCP", b"a\0\x07" + zlib.compress(b"x")),
    "large zTXt": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(NOISE)),
    "zTXt that is a bomb": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "broken zTXt": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + NOISE[:99]),
    "zTXt of another method": png_chunk(b"zTXt", b"Comment\0\x09" + NOISE[:99]),
    "large iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(NOISE)),
    "iTXt that is a bomb": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "broken iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0"),
    "much iTXt": 80 * png_chunk(b"iTXt", b"Comment\0\0\0\0\0" + NOISE[:900_000]),
    "much tEXt": 80 * png_chunk(b"tEXt", b"Comment\0" + NOISE[:900_000]),
    "tEXt without a key": png_chunk(b"tEXt", b""),
    "a wrong sum": png_chunk(b"tEXt", b"Comment\0text", broken_sum=True),
    "short pHYs": png_chunk(b"pHYs", b"\0"),
    "short gAMA": png_chunk(b"gAMA", b"\0"),
    "short cHRM": png_chunk(b"cHRM", b"\0" * 5),
    "short sRGB": png_chunk(b"sRGB", b""),
    "short acTL": png_chunk(b"acTL", b"\0"),
    "acTL of no frames": png_chunk(b"acTL", bytes(8)),
    "short fcTL": png_chunk(b"fcTL", b"\0"),
    "suggested palette": png_chunk(b"PLTE", b"abc") + png_chunk(b"hIST", b"\0\1"),
    "unknown chunk": png_chunk(b"prVt", NOISE),
    **{f"EXIF {n}": png_chunk(b"eXIf", exif) for n, exif in enumerate(BROKEN_EXIF)},
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
@pytest.mark.parametrize("place", ["first", "last"])
def test_png(name, place):
    data = encoded(RGB, "PNG")
    at = 33 if place == "first" else len(data) - 12
    if name == "suggested palette":
        at = 33
    dirty = data[:at] + PNG_CHUNKS[name] + data[at:]
    assert np.array_equal(np.asarray(decode_image(dirty)), np.asarray(RGB))


# JPEG


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body


def in_parts(marker, head, body, most=65_000):
    """A long content in numbered segments, as colour profiles are stored."""
    parts = [body[at : at + most] for at in range(0, len(body), most)]
    return b"".join(
        segment(marker, head + bytes([n % 255 + 1, min(255, len(parts))]) + part)
        for n, part in enumerate(parts)
    )


JPEG_SEGMENTS = {
    "large profile": in_parts(0xE2, b"ICC_PROFILE\0", NOISE),
    "profile of too many parts": in_parts(0xE2, b"ICC_PROFILE\0", NOISE, most=1000),
    "half a profile": segment(0xE2, b"ICC_PROFILE\0"),
    "profile part 0 of 0": segment(0xE2, b"ICC_PROFILE\0\0\0"),
    "broken MPF": segment(0xE2, b"MPF\0" + NOISE[:99]),
    "MPF of another TIFF": segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + NOISE[:99]),
    "empty MPF": segment(0xE2, b"MPF\0"),
    "MPF that points out": segment(
        0xE2,
        b"MPF\0II*\0\x08\0\0\0\x03\0"
        + struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
        + struct.pack("<HHII", 0xB001, 4, 1, 9)
        + struct.pack("<HHII", 0xB002, 7, 144, 0xFFFFFF)
        + bytes(4),
    ),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM"),
    "Photoshop of a wrong length": segment(
        0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff"
    ),
    "Photoshop noise": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\x00" + NOISE[:60_000]),
    "short Adobe": segment(0xEE, b"Adobe\0d"),
    "empty JFIF": segment(0xE0, b"JFIF"),
    "short JFIF": segment(0xE0, b"JFIF\0\1"),
    "large XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + NOISE[:65_000]),
    "XMP in parts": 40 * segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + NOISE[:65_000]),
    "large comments": 40 * segment(0xFE, NOISE[:65_000]),
    "large APPn": b"".join(segment(0xE3 + n % 11, NOISE[:65_000]) for n in range(60)),
    "EXIF in many parts": 30 * segment(0xE1, b"Exif\0\0" + NOISE[:65_000]),
    **{f"EXIF {n}": segment(0xE1, b"Exif\0\0" + exif) for n, exif in enumerate(BROKEN_EXIF)},
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg(name, options):
    data = encoded(RGB, "JPEG", **options)
    start = data.index(b"\xff\xdb")  # after JFIF
    dirty = data[:start] + JPEG_SEGMENTS[name] + data[start:]
    clean = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode_image(dirty)), clean)
    dirty = data[:2] + JPEG_SEGMENTS[name] + data[2:]
    assert np.array_equal(np.asarray(decode_image(dirty)), clean)


# WebP


def riff(kind, body):
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


WEBP_CHUNKS = {
    "large profile": (riff(b"ICCP", NOISE), 0x20),
    "empty profile": (riff(b"ICCP", b""), 0x20),
    "missing profile": (b"", 0x20),
    "missing EXIF": (b"", 0x08),
    "large XMP": (riff(b"XMP ", 3 * NOISE), 0x04),
    "unknown chunk": (riff(b"junk", NOISE), 0),
    **{f"EXIF {n}": (riff(b"EXIF", exif), 0x08) for n, exif in enumerate(BROKEN_EXIF)},
    **{
        f"EXIF {n} with head": (riff(b"EXIF", b"Exif\0\0" + one), 8)
        for n, one in enumerate(BROKEN_EXIF)
    },
}


@pytest.mark.parametrize("name", WEBP_CHUNKS)
@pytest.mark.parametrize("is_alpha", [False, True])
def test_webp(name, is_alpha):
    data = encoded(RGB, "WEBP", lossless=True)
    chunk, flag = WEBP_CHUNKS[name]
    head = struct.pack("<I", flag) + (47).to_bytes(3, "little") + (31).to_bytes(3, "little")
    image = data[12:]
    if is_alpha:
        exif = Image.Exif()
        exif[0x010E] = "x"
        extended = encoded(RGB.convert("RGBA"), "WEBP", lossless=True, exif=exif)
        image, flags = extended[30 : extended.index(b"EXIF")], extended[20]
        head = bytes([flag | flags & 0x10]) + head[1:]
    is_before = chunk[:4] == b"ICCP"
    body = riff(b"VP8X", head) + (chunk + image if is_before else image + chunk)
    dirty = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    assert np.array_equal(np.asarray(decode_image(dirty)), np.asarray(RGB))


# GIF, JPEG 2000, BMP, PNM, ICO


def gif_extension(label, blocks):
    parts = b"".join(bytes([len(one)]) + one for one in blocks)
    return b"\x21" + bytes([label]) + parts + b"\0"


GIF_EXTENSIONS = {
    "large comment": gif_extension(0xFE, 5000 * [NOISE[:255]]),
    "large XMP": gif_extension(0xFF, [b"XMP DataXMP", *(4000 * [NOISE[:255]])]),
    "profile": gif_extension(0xFF, [b"ICCRGBG1012", *(4000 * [NOISE[:255]])]),
    "empty application": gif_extension(0xFF, []),
    "empty loop": gif_extension(0xFF, [b"NETSCAPE2.0"]),
    "short loop": gif_extension(0xFF, [b"NETSCAPE2.0", b"\1"]),
    "empty comment": gif_extension(0xFE, []),
    "plain text": gif_extension(0x01, [b"x" * 12, b"text"]),
    "short control": gif_extension(0xF9, [b"\0"]),
    "empty control": gif_extension(0xF9, []),
    "unknown": gif_extension(0x77, [NOISE[:255]]),
}


@pytest.mark.parametrize("name", GIF_EXTENSIONS)
def test_gif(name):
    picture = RGB.quantize(64)
    data = encoded(picture, "GIF")
    clean = np.asarray(decode_image(data))
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    dirty = data[:at] + GIF_EXTENSIONS[name] + data[at:]
    assert np.array_equal(np.asarray(decode_image(dirty)), clean)


def box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


JP2_BOXES = {
    "uuid": box(b"uuid", NOISE),
    "empty uuid": box(b"uuid", b""),
    "large xml": box(b"xml ", NOISE),
    "EXIF": box(b"uuid", b"JpgTiffExif->JP2" + BROKEN_EXIF[5]),
    "unknown": box(b"junk", NOISE[:999]),
}
JP2_HEADER_BOXES = {
    "large profile": box(b"colr", b"\2\0\0" + NOISE),
    "short colr": box(b"colr", b"\2"),
    "resolution of zero": box(b"res ", box(b"resc", bytes(10))),
    "short resolution": box(b"res ", box(b"resc", bytes(2))),
    "empty resolution": box(b"res ", b""),
    "unknown": box(b"junk", NOISE[:999]),
}


@pytest.mark.parametrize("name", [*JP2_BOXES, *(f"header: {one}" for one in JP2_HEADER_BOXES)])
def test_jpeg_2000(name):
    data = encoded(RGB, "JPEG2000")
    start = data.index(b"jp2h") - 4
    size = struct.unpack_from(">I", data, start)[0]
    if name.startswith("header: "):
        more = JP2_HEADER_BOXES[name.removeprefix("header: ")]
        changed = data[start + 8 : start + size] + more
        dirty = data[:start] + box(b"jp2h", changed) + data[start + size :]
        assert np.array_equal(np.asarray(decode_image(dirty)), np.asarray(RGB))
        return
    for at in (start, start + size):
        dirty = data[:at] + JP2_BOXES[name] + data[at:]
        assert np.array_equal(np.asarray(decode_image(dirty)), np.asarray(RGB))


def long_exif(size=70_000):
    """A good EXIF block of about so many bytes."""
    exif = Image.Exif()
    exif[0x010E] = "x" * size
    return exif.tobytes()


@functools.cache
def heif_bytes(kind, **options):
    """An image in a HEIF container, as a file."""
    buffer = io.BytesIO()
    if kind == "AVIF":
        RGB.save(buffer, kind, quality=90, **options)
    else:
        pytest.importorskip("pillow_heif").from_pillow(RGB).save(buffer, quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("is_all", [False, True])
def test_avif_and_heic(kind, exif, is_all):
    if kind == "HEIC" and "HEIF" not in FORMATS:
        pytest.skip("needs the extra 'heic'")
    clean = np.asarray(decode_image(heif_bytes(kind)))
    good = long_exif()
    data = heif_bytes(kind, exif=good, icc_profile=NOISE, xmp=NOISE)
    assert np.array_equal(np.asarray(decode_image(data)), clean)
    body = good[6:]  # the TIFF; with is_all the four bytes that say where it begins, too
    at = data.index(body[:1000])
    start = at - 10 if is_all else at
    dirty = data[:start] + exif.ljust(at - start + len(body), b"\xff")[: at - start + len(body)]
    dirty += data[len(dirty) :]
    assert len(dirty) == len(data)
    assert np.array_equal(np.asarray(decode_image(dirty)), clean)


# TIFF


def tiff_tag(tag, kind, count, value):
    """An entry of a directory, its value as it is."""
    return struct.pack("<HHI", tag, kind, count) + struct.pack("<I", value)


TIFF_ENTRIES = {
    "profile outside the file": tiff_tag(34675, 7, 1_000_000_000, 8),
    "XMP outside the file": tiff_tag(700, 1, 4_000_000_000, 0xFFFFFFF0),
    "EXIF that is this directory": tiff_tag(34665, 4, 1, 8),
    "EXIF outside the file": tiff_tag(34665, 4, 1, 0xFFFFFFF0),
    "GPS of a wrong type": tiff_tag(34853, 12, 7, 0xFFFFFFF0),
    "SubIFDs outside the file": tiff_tag(330, 4, 100_000_000, 0xFFFFFFF0),
    "Photoshop outside the file": tiff_tag(34377, 1, 4_000_000_000, 8),
    "IPTC as text": tiff_tag(33723, 2, 4_000_000_000, 8),
    "private tag of an unknown type": tiff_tag(65000, 77, 4_000_000_000, 8),
    "private tag of no type": tiff_tag(65001, 0, 0, 0),
    "resolution of nothing": tiff_tag(282, 5, 1, 0xFFFFFFF0),
    "resolution as text": tiff_tag(283, 2, 1, 0),
    "software outside the file": tiff_tag(305, 2, 4_000_000_000, 0xFFFFFFF0),
    "description outside the file": tiff_tag(270, 2, 4_000_000_000, 0xFFFFFFF0),
    "description of a wrong type": tiff_tag(270, 12, 4, 0xFFFFFFF0),
    "page name": tiff_tag(285, 2, 400_000_000, 0),
    "orientation outside the file": tiff_tag(274, 3, 400, 0xFFFFFFF0),
    "orientation of a wrong type": tiff_tag(274, 99, 1, 0),
    "many private tags": b"".join(tiff_tag(60000 + n, 4, 1, n) for n in range(3000)),
    "JPEG tables of another kind": tiff_tag(347, 7, 4_000_000_000, 8),
}


def with_entries(data, more):
    """The same file with a longer directory, at its end."""
    place = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, place)[0]
    body = data[place + 2 : place + 2 + 12 * count] + more
    entries = sorted(body[at : at + 12] for at in range(0, len(body), 12))
    entries.sort(key=lambda one: struct.unpack_from("<H", one)[0])
    data += bytes(len(data) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


@pytest.mark.parametrize("name", TIFF_ENTRIES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("codec", [None, "zlib"])
def test_tiff(name, bits, codec):
    values = np.asarray(RGB) if bits == 8 else np.asarray(RGB).astype(np.uint16) * 257
    buffer = io.BytesIO()
    options = {"software": False, "metadata": None, "resolution": None}
    tifffile.imwrite(buffer, values, photometric="rgb", compression=codec, **options)
    data = buffer.getvalue()
    more = TIFF_ENTRIES[name]
    assert np.array_equal(np.asarray(decode_image(with_entries(data, more))), np.asarray(RGB))


def test_the_next_page_of_a_tiff_may_be_anywhere():
    data = bytearray(encoded(RGB, "TIFF"))
    place = struct.unpack_from("<I", data, 4)[0]
    after = place + 2 + 12 * struct.unpack_from("<H", data, place)[0]
    for pointer in (place, 8, 1, len(data) - 1, 0xFFFFFFFF):
        data[after : after + 4] = struct.pack("<I", pointer)
        assert np.array_equal(np.asarray(decode_image(bytes(data))), np.asarray(RGB)), pointer


# Memory, and the one thing that metadata is read for


def test_a_bomb_in_metadata_is_not_unpacked():
    data = encoded(RGB, "PNG")
    for name in ("profile that is a bomb", "zTXt that is a bomb", "iTXt that is a bomb"):
        dirty = data[:33] + PNG_CHUNKS[name] + data[33:]
        tracemalloc.start()
        decode_image(dirty)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000 + 2 * len(dirty), name


def test_all_compressed_texts_of_a_png_have_one_limit(monkeypatch):
    squeezed = zlib.compress(bytes(999_000), 9)
    damaged = squeezed[:-4] + b"over"
    calls = []

    class Counting:
        def decompress(self, data, most):
            calls.append(most)
            return zlib.decompressobj().decompress(data, most)

    fake = types.SimpleNamespace(error=zlib.error, decompressobj=Counting)
    monkeypatch.setattr("swinclf.data.metadata.zlib", fake)
    data = encoded(RGB, "PNG")
    for text in (squeezed, damaged):
        calls.clear()
        raw = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + text)
        xmp = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text)
        strip_metadata(data[:33] + 100 * (raw + xmp) + data[33:])
        assert calls[0] == 1_000_000
        assert sum(calls[1:]) <= 1000


TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RAW = b"\nexif\n      %d\n%s\n" % (len(TURNED), TURNED.hex().encode())


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"eXIf", TURNED),
        png_chunk(b"eXIf", b"Exif\0\0" + TURNED),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
        png_chunk(b"tEXt", b"Raw profile type APP1\0" + RAW),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_the_orientation_of_a_png(chunk, place):
    data = encoded(RGB, "PNG")
    at = 33 if place == "first" else len(data) - 12
    upright = np.asarray(RGB.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(decode_image(data[:at] + chunk + data[at:])), upright)


@pytest.mark.parametrize(
    "more",
    [
        segment(0xE1, b"Exif\0\0" + TURNED),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        segment(0xE1, b"Exif\0\0" + BROKEN_EXIF[-1]) + segment(0xE1, b"Exif\0\0" + TURNED),
        JPEG_SEGMENTS["large APPn"] + segment(0xE1, b"Exif\0\0" + TURNED),
        b"\xff\xff\xff" + segment(0xE1, b"Exif\0\0" + TURNED),
    ],
)
def test_the_orientation_of_a_jpeg(more):
    data = encoded(RGB, "JPEG")
    clean = np.asarray(Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(decode_image(data[:2] + more + data[2:])), clean)


def extended_webp(flags, chunks):
    image = encoded(RGB, "WEBP", lossless=True)[12:]
    head = struct.pack("<I", flags) + (47).to_bytes(3, "little") + (31).to_bytes(3, "little")
    body = riff(b"VP8X", head) + image + chunks
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("chunk", [riff(b"EXIF", TURNED), riff(b"XMP ", XMP)])
def test_the_orientation_of_a_webp(chunk):
    data = extended_webp(0x08 if chunk.startswith(b"EXIF") else 0x04, chunk)
    upright = np.asarray(RGB.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(decode_image(data)), upright)


UPRIGHT_EXIF = TURNED.replace(b"\x06", b"\x01")
RAW_UPRIGHT = RAW.replace(TURNED.hex().encode(), UPRIGHT_EXIF.hex().encode())
EXIF_AND_XMP = {
    "PNG": [
        png_chunk(b"eXIf", UPRIGHT_EXIF),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    ],
    "PNG with EXIF as text": [
        png_chunk(b"tEXt", b"Raw profile type exif\0" + RAW_UPRIGHT),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    ],
    "JPEG": [
        segment(0xE1, b"Exif\0\0" + UPRIGHT_EXIF),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    ],
    "WEBP": [riff(b"EXIF", UPRIGHT_EXIF), riff(b"XMP ", XMP)],
}


@pytest.mark.parametrize("name", EXIF_AND_XMP)
@pytest.mark.parametrize("step", [1, -1])
def test_upright_in_exif_overrides_xmp(name, step):
    more = b"".join(EXIF_AND_XMP[name][::step])
    if name == "WEBP":
        data = extended_webp(0x0C, more)
    else:
        data = encoded(RGB, name[:4].strip())
        at = 33 if name.startswith("PNG") else 2
        data = data[:at] + more + data[at:]
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        upright = np.asarray(ImageOps.exif_transpose(picture))
    assert upright.shape == PIXELS.shape
    assert np.array_equal(np.asarray(decode_image(data)), upright)


@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_broken_exif_turns_nothing(exif):
    assert exif_orientation(exif) is exif_orientation(b"Exif\0\0" + exif) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "JPEG2000", "BMP"])
def test_a_file_without_metadata_stays_as_it_is(kind):
    data = encoded(RGB, kind)
    assert strip_metadata(data)[0] == data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "JPEG2000", "AVIF"])
def test_what_is_no_whole_file_is_no_crash(kind):
    data = encoded(RGB, kind, **({"exif": TURNED} if kind == "AVIF" else {}))
    for length in range(0, len(data), max(1, len(data) // 60)):
        strip_metadata(data[:length])
