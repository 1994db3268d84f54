"""Every layout of a TIFF, written by another program: the right pixels, or a refusal that names it.

The expected pixels are computed from the samples with NumPy alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
import tifffile
from PIL import Image

from swinclf.data.images import UnreadableImage, decode_image

EVERY = 23  # one layout in so many, others for each type of sample; 1 tries all of them
HEIGHT, WIDTH = 29, 37
RNG = np.random.default_rng(0)

# (numpy type, bits a sample): what is stored
UNSIGNED = [("u1", 1), ("u1", 2), ("u1", 4), ("u1", 6), ("u1", 8)] + [
    ("u2", 10),
    ("u2", 12),
    ("u2", 14),
    ("u2", 16),
    ("u4", 32),
    ("u8", 64),
]
SIGNED = [("i1", 8), ("i2", 16), ("i4", 32), ("i8", 64)]
FLOATS = [("f2", 16), ("f4", 32), ("f8", 64)]
LOSSLESS = ["none", "lzw", "deflate", "packbits", "zstd", "lzma"]
STORED = [{"rowsperstrip": HEIGHT}, {"rowsperstrip": 5}, {"tile": (16, 32)}]


def samples_of(kind, bits, channels):
    """(H, W, C) noise over the whole of a type; floats in [0, 1]."""
    shape = (HEIGHT, WIDTH, channels)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        values = RNG.random(shape).astype(dtype)
        values[0, 0], values[0, 1] = 0, 1
        return values
    low, high = (0, 2**bits) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    values = (
        RNG.integers(low, high, shape, dtype=dtype, endpoint=False)
        if bits < 64
        else (
            RNG.integers(
                np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True
            )
        )
    )
    values[0, 0], values[0, 1] = np.array(low).astype(dtype), np.array(high - 1).astype(dtype)
    return values


def to_uint8(values, bits):
    """What black to white of a type is in 8 bits."""
    if values.dtype.kind == "f":
        return np.round(values.astype(np.float64) * 255)
    low = 0 if values.dtype.kind == "u" else -(2 ** (bits - 1))
    return np.round((values.astype(np.float64) - low) * 255 / float(2**bits - 1))


def written(values, **options):
    """The bytes of a TIFF."""
    buffer = io.BytesIO()
    compression = options.pop("compression", "none")
    planar = options.get("planarconfig") == "separate"
    if options.get("bitspersample") == 8 * values.dtype.itemsize:
        options.pop("bitspersample")
    pixels = np.moveaxis(values, -1, 0) if planar else values
    if values.shape[-1] == 1:
        pixels = values[..., 0]
        options.pop("planarconfig", None)
    with tifffile.TiffWriter(
        buffer, byteorder=options.pop("byteorder", "<"), bigtiff=options.pop("bigtiff", False)
    ) as file:
        file.write(
            pixels,
            compression=None if compression == "none" else compression,
            metadata=None,
            **options,
        )
    return buffer.getvalue()


def pixels_of(data):
    return np.asarray(decode_image(data)).astype(int)


def check(data, expected, note, *, within=0):
    """Compares; a refusal is an error here."""
    found = pixels_of(data)
    difference = np.abs(found - np.broadcast_to(expected, found.shape))
    assert difference.max() <= within, note


def layouts(bits, channels, kind="u1"):
    """Every way of storing the same samples."""
    planar = ["contig", "separate"] if channels > 1 else ["contig"]
    predicted = 3 if np.dtype(kind).kind == "f" else 2
    number = zlib.crc32(f"{kind}{bits}{channels}".encode())
    for order, codec, stored, config in product("<>", LOSSLESS, STORED, planar):
        for predictor in (False, predicted) if codec in ("lzw", "deflate", "zstd") else (False,):
            if bits not in (8, 16, 32, 64) and (codec != "none" or order == ">"):
                continue  # the other program does not write them
            number += 1
            if number % EVERY:
                continue
            yield {
                "byteorder": order,
                "compression": codec,
                "planarconfig": config,
                "predictor": predictor,
                **stored,
            }


def refused(data):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data)
    return str(caught.value)


WHOLE = [("u1", 8), ("u2", 16), ("u4", 32), ("u8", 64), *SIGNED, *FLOATS]


def on_white(colours, alpha):
    """Colours in 0 to 255 over white, alpha in [0, 1]."""
    return colours * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("kind", "bits"), UNSIGNED + SIGNED + FLOATS)
def test_grey(kind, bits, inverted):
    values = samples_of(kind, bits, 1)
    expected = 255 - to_uint8(values, bits) if inverted else to_uint8(values, bits)
    meaning = "miniswhite" if inverted else "minisblack"
    for options in layouts(bits, 1, kind):
        data = written(values, photometric=meaning, bitspersample=bits, **options)
        check(data, expected, options)


@pytest.mark.parametrize(("kind", "bits"), [*WHOLE, ("u2", 12), ("u1", 4)])
def test_rgb(kind, bits):
    values = samples_of(kind, bits, 3)
    for options in layouts(bits, 3, kind):
        data = written(values, photometric="rgb", bitspersample=bits, **options)
        check(data, to_uint8(values, bits), options)


@pytest.mark.parametrize(("kind", "bits"), [("u1", 8), ("u2", 16), ("u4", 32), ("f4", 32)])
@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_channel_that_is_no_colour(kind, bits, extra, colours):
    values = samples_of(kind, bits, colours + 1)
    if extra == "assocalpha":  # a colour is never brighter than its alpha
        values[..., :colours] = np.minimum(values[..., :colours], values[..., colours:])
    eight = to_uint8(values, bits)
    alpha = eight[..., colours:] / 255
    expected = {
        "unspecified": eight[..., :colours],
        "assocalpha": eight[..., :colours] + 255 * (1 - alpha),
        "unassalpha": on_white(eight[..., :colours], alpha),
    }[extra]
    for options in layouts(bits, colours + 1, kind):
        data = written(
            values,
            photometric="rgb" if colours == 3 else "minisblack",
            extrasamples=[extra],
            **options,
        )
        if colours == 1 and extra == "unspecified":
            assert "2 channels" in refused(data)
        else:
            check(data, expected, (options, extra), within=3 if extra == "assocalpha" else 1)


@pytest.mark.parametrize(("kind", "bits"), [("u1", 8), ("u2", 16)])
def test_cmyk(kind, bits):
    values = samples_of(kind, bits, 4)
    ink = to_uint8(values, bits) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    for options in layouts(bits, 4, kind):
        check(written(values, photometric="separated", **options), expected, options, within=1)


def test_ycbcr():
    values = samples_of("u1", 8, 3)
    y, cb, cr = np.moveaxis(values.astype(float), -1, 0)
    expected = np.stack(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ],
        axis=-1,
    ).clip(0, 255)
    for options in layouts(8, 3):
        data = written(values, photometric="ycbcr", subsampling=(1, 1), **options)
        check(data, expected, options, within=1)


def with_tag(data, tag, value):
    """The same file (little-endian, classic) with another value of a tag of one short number."""
    at = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("scale", [1, 256, 257])
def test_palette(bits, scale):
    table = RNG.integers(0, 256, (3, 2**bits), dtype=np.uint16)
    table[:, 0] = 255
    values = samples_of("u1" if bits <= 8 else "u2", bits, 1)
    expected = np.moveaxis(table, 0, -1)[values[..., 0]]
    tag = (320, 3, 3 * 2**bits, (table * scale).astype(np.uint16).ravel().tolist(), True)
    for options in layouts(bits, 1):
        data = written(
            values,
            photometric="minisblack",
            bitspersample=bits,
            extratags=[tag],
            **{**options, "byteorder": "<"},
        )
        check(with_tag(data, 262, 3), expected, options)


SMOOTH = np.stack(
    [np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH) * k) for k in (1, 2, 3)], axis=-1
).astype(np.uint8)


@pytest.mark.parametrize("stored", [{}, {"rowsperstrip": 16}, {"tile": (16, 32)}])
@pytest.mark.parametrize("colour", ["minisblack", "miniswhite", "rgb", "ycbcr"])
def test_jpeg(stored, colour):
    values = SMOOTH if colour in ("rgb", "ycbcr") else SMOOTH[..., :1]
    arguments = {"level": 98}
    if colour in ("rgb", "ycbcr"):
        arguments["outcolorspace"] = colour
    data = written(
        values,
        photometric="rgb" if values.shape[-1] == 3 else colour,
        compression="jpeg",
        compressionargs=arguments,
        subsampling=(1, 1),
        **stored,
    )
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].photometric.name.lower() == colour
    expected = 255 - values.astype(int) if colour == "miniswhite" else values
    check(data, expected, colour, within=6)


def test_cmyk_in_jpeg():
    values = np.dstack([SMOOTH, SMOOTH[..., :1]])
    ink = values / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    for stored in ({}, {"rowsperstrip": 8}, {"tile": (16, 32)}):
        options = {"compression": "jpeg", "compressionargs": {"level": 98}, **stored}
        check(written(values, photometric="separated", **options), expected, stored, within=4)


def test_jpeg_with_fewer_colours_than_pixels():
    for rows in (8, 16, HEIGHT):
        data = written(
            SMOOTH,
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": 98},
            rowsperstrip=rows,
        )
        check(data, SMOOTH, rows, within=6)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("codec", ["group3", "group4", "tiff_lzw", None])
def test_one_bit_of_pillow(inverted, codec):
    values = RNG.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    buffer = io.BytesIO()
    tags = {262: 0} if inverted else {}
    Image.fromarray(values).save(buffer, "TIFF", compression=codec, tiffinfo=tags)
    check(buffer.getvalue(), 255 * values[..., None], codec)


@pytest.mark.parametrize(("kind", "bits"), [("u1", 1), ("u1", 4), ("u1", 8), ("u2", 16)])
@pytest.mark.parametrize("codec", ["none", "lzw"])
def test_bits_of_a_byte_from_right_to_left(kind, bits, codec):
    values = samples_of(kind, bits, 1)
    if bits < 8 and codec != "none":
        return
    data = written(values, photometric="minisblack", bitspersample=bits, compression=codec)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    turned = bytearray(data)
    for start, size in pieces:
        piece = np.frombuffer(data, np.uint8, size, start)
        turned[start : start + size] = np.packbits(np.unpackbits(piece)[::-1])[::-1].tobytes()
    again = with_fill_order(bytes(turned))
    check(again, to_uint8(values, bits), (kind, codec))


def with_fill_order(data):
    """The same file with FillOrder 2 instead of its ResolutionUnit."""
    at = data.index(struct.pack("<HHI", 296, 3, 1))
    entries = struct.unpack_from("<H", data, 8)[0]
    body = [data[10 + 12 * n : 22 + 12 * n] for n in range(entries)]
    assert data[at : at + 12] in body
    body.remove(data[at : at + 12])
    body.append(struct.pack("<HHIHH", 266, 3, 1, 2, 0))
    return (
        data[:10]
        + b"".join(sorted(body, key=lambda one: one[:2][::-1]))
        + data[10 + 12 * entries :]
    )


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("order", "<>")
def test_big_tiff(kind, order):
    values = samples_of(kind, 8 * np.dtype(kind).itemsize, 3)
    for options in ({"rowsperstrip": 5}, {"tile": (16, 16)}):
        data = written(values, photometric="rgb", bigtiff=True, byteorder=order, **options)
        check(data, to_uint8(values, 8 * np.dtype(kind).itemsize), options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_orientation(kind, orientation):
    values = samples_of(kind, 8 * np.dtype(kind).itemsize, 3)
    expected = to_uint8(values, 8 * np.dtype(kind).itemsize)
    upright = {
        1: expected,
        2: expected[:, ::-1],
        3: expected[::-1, ::-1],
        4: expected[::-1],
        5: expected.swapaxes(0, 1),
        6: expected.swapaxes(0, 1)[:, ::-1],
        7: expected[::-1, ::-1].swapaxes(0, 1),
        8: expected.swapaxes(0, 1)[::-1],
    }[orientation]
    data = written(values, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    assert np.array_equal(pixels_of(data), upright)


@pytest.mark.parametrize("decode_px", [None, 9])
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_band_by_band_is_the_same_image(monkeypatch, kind, decode_px):
    values = samples_of(kind, 8 * np.dtype(kind).itemsize, 3)
    files = [
        written(values, photometric="rgb", **options)
        for options in layouts(8 * np.dtype(kind).itemsize, 3, kind)
    ]
    whole = pixels_of(files[0])
    for name in ("tiff.BAND_PIXELS", "raster.BAND_PIXELS", "images.LARGE_PIXELS"):
        monkeypatch.setattr(f"swinclf.data.{name}", 100)
    monkeypatch.setattr("swinclf.data.tiff.BAND_BYTES", 700)
    for data in files:
        found = np.asarray(decode_image(data, decode_px=decode_px)).astype(int)
        if decode_px is None:
            assert np.array_equal(found, whole)
        else:
            assert found.shape == (10, 13, 3)
            smaller = whole[:27, :36].reshape(9, 3, 12, 3, 3).mean(axis=(1, 3))
            assert np.abs(found[:9, :12] - smaller).max() <= 1


def test_one_strip_of_many_bytes_is_refused(monkeypatch):
    values = samples_of("u2", 16, 3)
    monkeypatch.setattr("swinclf.data.tiff.MAX_STRIP_BYTES", 5000)
    small = written(values, photometric="rgb", compression="deflate", rowsperstrip=5)
    assert np.array_equal(pixels_of(small), to_uint8(values, 16))
    large = written(values, photometric="rgb", compression="deflate", rowsperstrip=HEIGHT)
    assert "6,438 bytes in one strip or row of tiles; the limit is 5,000" in refused(large)
    monkeypatch.setattr("swinclf.data.tiff.BAND_BYTES", 1000)  # without compression it is cut
    plain = written(values, photometric="rgb", rowsperstrip=HEIGHT)
    assert np.array_equal(pixels_of(plain), to_uint8(values, 16))


def with_long_tag(data, tag, value):
    """The same file (little-endian, classic) with another value of a tag of one long number."""
    at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("codec", ["none", "deflate"])
def test_a_bomb_is_refused_by_its_header(kind, codec):
    data = written(samples_of(kind, 8, 1), photometric="minisblack", compression=codec)
    for tag in (256, 257):
        data = with_long_tag(data, tag, 60_000)
    reason = refused(data)
    assert "the limit is 110,000,000 px" in reason or "strip" in reason or "too early" in reason


@pytest.mark.parametrize("codec", ["none", "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("stored", STORED)
def test_a_truncated_file_is_never_half_an_image(codec, stored):
    values = samples_of("u2", 16, 3)
    data = written(values, photometric="rgb", compression=codec, **stored)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        end = max(
            map(sum, zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
        )
    for cut in (end - 1, end - 40, end // 2):
        refused(data[:cut])


# What is refused, and by what name


@pytest.mark.parametrize("tag", [279, 325])
def test_a_strip_or_tile_that_is_too_short_is_not_filled_with_the_next_one(tag):
    stored = {"rowsperstrip": 5} if tag == 279 else {"tile": (16, 16)}
    data = bytearray(written(samples_of("u2", 16, 1), photometric="minisblack", **stored))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        sizes = file.pages[0].tags[tag]
        first, kind, start = sizes.value[0], sizes.dtype.name, sizes.valueoffset
    struct.pack_into("<H" if kind == "SHORT" else "<I", data, start, first - 2)
    with pytest.raises(UnreadableImage, match="image data ends too early"):
        decode_image(bytes(data))


def stacked(values, **options):
    """An array of several planes, each a page."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


PLANES = RNG.integers(0, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stacked(PLANES, photometric="minisblack"), "array of shape [3, 29, 37] stored as pages"),
        (stacked(PLANES, photometric="minisblack", metadata=None), "3 grey pages of one size"),
        (
            stacked(PLANES[:2], photometric="minisblack", imagej=True, metadata={"axes": "CYX"}),
            "2 channels stored as pages",
        ),
        (
            stacked(PLANES, photometric="minisblack", ome=True, metadata={"axes": "CYX"}),
            "3 channels stored as pages",
        ),
        (
            stacked(np.moveaxis(PLANES, 0, -1), photometric="minisblack", planarconfig="contig"),
            "TIFF of 3 x 8-bit uint MinIsBlack: it is not known which of the 3 channels",
        ),
        (
            stacked(PLANES, photometric="minisblack", planarconfig="separate"),
            "MinIsBlack, planar: it is not known which of the 3 channels",
        ),
        (
            stacked(RNG.random((5, HEIGHT, WIDTH)).astype("f4"), photometric="rgb"),
            "which of the 5 channels",
        ),
        (stacked(PLANES[0].astype("c8"), photometric="minisblack"), "64-bit complex float"),
        (stacked(PLANES[0], photometric="cfa"), "CFA"),
        (
            stacked(PLANES, photometric="rgb", planarconfig="separate", compression="jpeg"),
            "JPEG compression of this layout",
        ),
        (stacked(SMOOTH, photometric="rgb", compression="webp"), "compression 50001"),
        (stacked(PLANES[0], photometric="minisblack", compression="jpeg2000"), "compression 34712"),
        (stacked(PLANES[0], photometric="minisblack", compression="lerc"), "compression 34887"),
        (
            stacked(
                PLANES, photometric="minisblack", volumetric=True, tile=(2, 16, 16), metadata=None
            ),
            "a volume",
        ),
    ],
)
def test_refused_by_name(data, reason):
    assert reason in refused(data)


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_the_first_frame_of_a_series(axes):
    data = stacked(PLANES, photometric="minisblack", metadata={"axes": axes})
    check(data, PLANES[0][..., None], axes)
    data = stacked(PLANES, photometric="minisblack", imagej=True, metadata={"axes": axes})
    check(data, PLANES[0][..., None], axes)


def test_the_first_page_of_a_document():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, page in enumerate(PLANES):
            tag = (297, 3, 2, (number, 3), True)
            file.write(page, photometric="minisblack", metadata=None, extratags=[tag])
    check(buffer.getvalue(), PLANES[0][..., None], "document")


def test_a_thumbnail_before_the_image():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(PLANES[0, :8, :8], photometric="minisblack", metadata=None, subfiletype=1)
        file.write(PLANES[1], photometric="minisblack", metadata=None)
    check(buffer.getvalue(), PLANES[1][..., None], "thumbnail")
