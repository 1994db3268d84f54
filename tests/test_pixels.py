"""Formats with many ways to store samples: the pixels are those that were written, or a refusal.

The files are written here by hand, or by another library than the one that reads them.
"""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest

from swinclf.data.images import UnreadableImage, decode_image, measure_values

HEIGHT, WIDTH = 24, 40
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3))
ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH))
ON_WHITE = COLOURS * (ALPHA / 255)[..., None] + 255 * (1 - (ALPHA / 255))[..., None]


def pixels_of(data):
    return np.asarray(decode_image(data)).astype(int)


def refused(data):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data)
    return str(caught.value)


def scaled(values, bits):
    """Samples of so many bits, scaled to 8."""
    return values * (255.0 / (2**bits - 1))


def assert_near(data, expected, within=1.0):
    expected = expected if np.ndim(expected) == 3 else np.asarray(expected)[..., None]
    assert np.abs(pixels_of(data) - expected).max() <= within


# BMP


def bmp(rows, bits, *, masks=(), compression=None, header=40, is_upright=False, colours=b""):
    """A bitmap of rows of packed pixels."""
    encoded = b"".join(row.tobytes().ljust(-(-row.nbytes // 4) * 4, b"\0") for row in rows)
    compression = (3 if masks else 0) if compression is None else compression
    height = -HEIGHT if is_upright else HEIGHT
    head = struct.pack(
        "<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(encoded), 0, 0, 0, 0
    )
    table = struct.pack(f"<{len(masks)}I", *masks)
    if header > 40:
        head += table.ljust(header - 40, b"\0")
        table = b""
    start = 14 + len(head) + len(table) + len(colours)
    size = start + len(encoded)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, start) + head + table + colours + encoded


def packed(kind, *channels):
    """Channels as (values, bits, shift) in one integer."""
    total = sum(values.astype(np.int64) << shift for values, _, shift in channels)
    return total.astype(kind)


def reduced(bits):
    """Colours of fewer bits."""
    return [COLOURS[..., n] >> (8 - one) for n, one in enumerate(bits)]


@pytest.mark.parametrize("is_upright", [False, True])
@pytest.mark.parametrize(
    ("bits", "shifts", "masks"),
    [
        ((5, 6, 5), (11, 5, 0), (0xF800, 0x07E0, 0x001F)),
        ((5, 5, 5), (10, 5, 0), (0x7C00, 0x03E0, 0x001F)),
        ((5, 5, 5), (10, 5, 0), ()),
    ],
)
def test_bmp_of_16_bits(bits, shifts, masks, is_upright):
    channels = list(zip(reduced(bits), bits, shifts, strict=True))
    rows = packed("<u2", *channels)
    expected = np.stack([scaled(values, one) for values, one, _ in channels], axis=-1)
    ordered = rows if is_upright else rows[::-1]
    assert_near(bmp(ordered, 16, masks=masks, is_upright=is_upright), expected)


@pytest.mark.parametrize("header", [40, 108, 124])
@pytest.mark.parametrize("masks", [(), (0xFF0000, 0xFF00, 0xFF), (0xFF000000, 0xFF0000, 0xFF00)])
def test_bmp_of_32_bits(header, masks):
    shifts = [one.bit_length() - 8 for one in masks or (0xFF0000, 0xFF00, 0xFF)]
    channels = [(COLOURS[..., n], 8, shift) for n, shift in enumerate(shifts)]
    rows = packed("<u4", *channels)[::-1]
    assert_near(
        bmp(rows, 32, masks=(*masks, 0) if header > 40 and masks else masks, header=header), COLOURS
    )


def test_bmp_of_32_bits_whose_last_byte_means_nothing():
    channels = [(COLOURS[..., n], 8, shift) for n, shift in enumerate((16, 8, 0))]
    rows = packed("<u4", *channels, (ALPHA, 8, 24))[::-1]
    assert_near(bmp(rows, 32), COLOURS)


def test_bmp_with_alpha():
    channels = [(COLOURS[..., n], 8, shift) for n, shift in enumerate((16, 8, 0))]
    rows = packed("<u4", *channels, (ALPHA, 8, 24))[::-1]
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    assert_near(bmp(rows, 32, masks=masks, header=124), ON_WHITE)


@pytest.mark.parametrize("masks", [(0xF00, 0xF0, 0xF), (0x3FF00000, 0xFFC00, 0x3FF)])
def test_bmp_of_other_bit_fields_is_refused(masks):
    bits = 32 if masks[0] > 0xFFFF else 16
    rows = np.zeros((HEIGHT, WIDTH), f"<u{bits // 8}")
    assert "BMP bitfields" in refused(bmp(rows, bits, masks=masks))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits):
    table = RNG.integers(0, 256, (2**bits, 4), dtype=np.uint8)
    values = COLOURS[..., 0] >> (8 - bits)
    spread = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(spread.reshape(HEIGHT, -1), axis=-1)[::-1]
    assert_near(bmp(rows, bits, colours=table.tobytes()), table[values][..., 2::-1])


# TGA


def tga(kind, bits, rows, description, *, colours=b""):
    """A Targa file."""
    head = struct.pack(
        "<BBBHHBHHHHBB",
        *(0, bool(colours), kind, 0, len(colours) // 3, 24 if colours else 0),
        *(0, 0, WIDTH, HEIGHT, bits, description),
    )
    return head + colours + rows.tobytes()


BGR = COLOURS[..., ::-1].astype(np.uint8)
BGRA = np.dstack([BGR, ALPHA.astype(np.uint8)])


def test_tga():
    assert_near(tga(2, 24, BGR, 0x20), COLOURS)
    assert_near(tga(2, 24, BGR[::-1], 0x00), COLOURS)
    assert_near(tga(2, 32, BGRA, 0x28), ON_WHITE)
    assert_near(tga(2, 32, BGRA, 0x20), COLOURS)  # no bit of the fourth byte is alpha
    assert_near(tga(3, 8, BGR[..., 0], 0x20), COLOURS[..., 2])
    table = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    data = tga(1, 8, BGR[..., 0], 0x20, colours=table.tobytes())
    assert_near(data, table[BGR[..., 0]][..., ::-1])


# PNM


@pytest.mark.parametrize("most", [1, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_text", [False, True])
def test_pnm(most, channels, is_text):
    values = RNG.integers(0, most, (HEIGHT, WIDTH, channels), endpoint=True)
    number = {1: (5, 2), 3: (6, 3)}[channels][is_text]
    head = b"P%d\n# a comment\n%d %d\n%d\n" % (number, WIDTH, HEIGHT, most)
    kind = np.uint8 if most < 256 else ">u2"
    text = b" ".join(b"%d" % value for value in values.ravel())
    data = head + (text if is_text else values.astype(kind).tobytes())
    assert_near(data, values * (255.0 / most))
    if not is_text and most > 255:
        assert "truncated" in refused(data[:-1])


# JPEG 2000, by OpenJPEG through another library


def jpeg_2000(values, bits, **options):
    return imagecodecs.jpeg2k_encode(
        values, level=0, reversible=True, bitspersample=bits, codecformat="jp2", **options
    )


@pytest.mark.parametrize("bits", [1, 4, 7, 8, 10, 12, 15, 16])
def test_grey_jpeg_2000(bits):
    values = RNG.integers(0, 2**bits, (HEIGHT, WIDTH), dtype=np.uint8 if bits <= 8 else np.uint16)
    data = jpeg_2000(values, bits)
    assert_near(data, scaled(values, bits), within=0.51)
    assert (measure_values(data) is None) is (bits < 16)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_jpeg_2000(bits, channels):
    values = RNG.integers(0, 2**bits, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    values[..., 3:] = 2**bits - 1
    assert_near(jpeg_2000(values, bits), scaled(values[..., :3], bits))


@pytest.mark.parametrize("kind", ["i1", "i2"])
def test_signed_jpeg_2000(kind):
    limits = np.iinfo(kind)
    values = RNG.integers(limits.min, limits.max, (HEIGHT, WIDTH), dtype=kind, endpoint=True)
    expected = scaled(values.astype(int) - limits.min, limits.bits)
    assert_near(jpeg_2000(values, limits.bits), expected, within=0.51)


@pytest.mark.parametrize(("bits", "channels"), [(16, 3), (12, 3), (16, 4), (20, 1), (9, 1)])
def test_jpeg_2000_that_would_turn_white_into_black_is_refused(bits, channels):
    kind = np.uint16 if bits <= 16 else np.uint32
    values = np.full((HEIGHT, WIDTH, channels), 2**bits - 1, kind)
    data = jpeg_2000(values if channels > 1 else values[..., 0], bits)
    assert f"{bits}-bit samples is not supported" in refused(data)


# JPEG and AVIF

BLOCKS = np.kron(RNG.integers(0, 256, (3, 5, 4)), np.ones((8, 8, 1))).astype(np.uint8)


def test_jpeg_of_other_colours():
    rgb = np.ascontiguousarray(BLOCKS[..., :3])
    for options in ({"outcolorspace": "rgb"}, {"subsampling": "444"}):
        data = imagecodecs.jpeg8_encode(rgb, level=99, colorspace="rgb", **options)
        assert_near(data, rgb, within=4)
    ink = 255 - BLOCKS.astype(float)  # as Adobe has it: inverted, and so says the marker
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    for space, within in (("cmyk", 1), ("ycck", 60)):  # YCC has no room for some of the colours
        data = imagecodecs.jpeg8_encode(BLOCKS, level=99, colorspace="cmyk", outcolorspace=space)
        assert b"Adobe" in data
        assert_near(data, expected, within=within)
        assert np.abs(pixels_of(data) - expected).mean() < 4


def test_jpeg_of_more_bits_is_refused_by_name():
    values = RNG.integers(0, 4096, (HEIGHT, WIDTH), dtype=np.uint16)
    data = imagecodecs.jpeg8_encode(values, level=99, bitspersample=12)
    assert refused(data) == "JPEG of 12-bit samples is not supported"
    data = imagecodecs.ljpeg_encode(values, bitspersample=12)
    assert refused(data) == "lossless JPEG of 12-bit samples is not supported"


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif(bits):
    ramp = np.add.outer(np.arange(HEIGHT) * 20, np.arange(WIDTH) * 15) / 1045
    values = np.round(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1) * (2**bits - 1))
    kind = np.uint8 if bits == 8 else np.uint16
    data = imagecodecs.avif_encode(values.astype(kind), level=98, bitspersample=bits)
    assert_near(data, scaled(values, bits), within=4)


def test_qoi_and_webp_of_another_library():
    pixels = COLOURS.astype(np.uint8)
    assert_near(imagecodecs.qoi_encode(pixels), COLOURS, within=0)
    assert_near(imagecodecs.webp_encode(pixels, lossless=True), COLOURS, within=0)
    assert_near(imagecodecs.png_encode(pixels), COLOURS, within=0)
