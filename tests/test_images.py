"""The careful reader: every kind of picture people have, and every way in which a file is none."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import threading
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from swinclf.data import images, limits
from swinclf.data.images import (
    EXTENSIONS,
    FORMATS,
    UnreadableImage,
    content_digest,
    decode_image,
    has_image_name,
    read_bytes,
)

GRADIENT = np.arange(48 * 32 * 3, dtype=np.uint32).reshape(32, 48, 3) * 255 // (48 * 32 * 3)
RGB = Image.fromarray(GRADIENT.astype(np.uint8))
GREY = Image.fromarray(np.tile(np.linspace(0, 255, 48).round().astype(np.uint8), (32, 1)))


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(data, **options):
    picture = decode_image(data, **options)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def reason_of(data, **options):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, **options)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def close(data, wanted, *, within):
    """Whether the decoded picture lies near another one."""
    difference = np.abs(pixels_of(data) - np.asarray(wanted.convert("RGB")).astype(int))
    return difference.mean() <= within


# Formats


LOSSLESS = ["PNG", "BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "QOI"]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_come_through_exactly(kind):
    assert np.array_equal(pixels_of(encoded(RGB, kind)), np.asarray(RGB))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 95}),
        ("JPEG2000", {}),
        ("GIF", {}),
        ("ICO", {"sizes": [(48, 32)]}),
    ],
)
def test_other_formats_come_near(kind, options):
    assert close(encoded(RGB, kind, **options), RGB, within=6)


def test_every_format_that_is_allowed_has_been_tried_here():
    tried = {*LOSSLESS, "JPEG", "WEBP", "AVIF", "JPEG2000", "GIF", "ICO"}
    assert set(FORMATS) - {"HEIF"} == tried
    assert "EPS" not in FORMATS


def test_heic_is_read_or_says_what_to_install(monkeypatch):
    heic = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heic.from_pillow(RGB).save(buffer, quality=95)
    if "HEIF" in FORMATS:
        assert close(buffer.getvalue(), RGB, within=6)
    monkeypatch.setattr(images, "FORMATS", tuple(one for one in FORMATS if one != "HEIF"))
    assert "pip install" in reason_of(buffer.getvalue())


def test_the_wrong_extension_does_not_matter(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(RGB, "PNG"))
    assert np.array_equal(pixels_of(read_bytes(path)), np.asarray(RGB))


@pytest.mark.parametrize(
    ("name", "is_image"),
    [
        ("a.jpg", True),
        ("A.JPG", True),
        ("a.b.TiFf", True),
        (os.fsdecode(b"\xff.png"), True),
        (".jpg", False),
        ("jpg", False),
        ("a.jpg.txt", False),
        ("a.", False),
        ("a jpg", False),
        ("Thumbs.db", False),
    ],
)
def test_what_is_named_like_an_image(name, is_image):
    assert has_image_name(name) is is_image


def test_extensions_are_lower_case_and_without_a_dot():
    assert all(one == one.lower().strip(".") for one in EXTENSIONS)


# Modes


def test_grey():
    assert np.array_equal(pixels_of(encoded(GREY, "PNG")), np.asarray(GREY.convert("RGB")))
    assert close(encoded(GREY, "JPEG", quality=95), GREY, within=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(kind):
    wide = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
    assert np.array_equal(pixels_of(encoded(wide, kind)), np.asarray(GREY.convert("RGB")))


def test_grey_of_16_bits_big_endian():
    wide = np.asarray(GREY).astype(np.uint16) * 257
    header = b"P5 48 32 65535\n"  # PGM: the most significant byte first
    assert np.array_equal(
        pixels_of(header + wide.astype(">u2").tobytes()), np.asarray(GREY.convert("RGB"))
    )


def test_integers_of_32_bits():
    wide = Image.fromarray(np.asarray(GREY).astype(np.int32) * 257)
    assert np.array_equal(pixels_of(encoded(wide, "TIFF")), np.asarray(GREY.convert("RGB")))
    huge = Image.fromarray(np.asarray(GREY).astype(np.int32) * 1_000_000 - 500)
    assert np.array_equal(pixels_of(encoded(huge, "TIFF")), np.asarray(GREY.convert("RGB")))


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 40.0])
def test_floats(scale):
    picture = Image.fromarray((np.asarray(GREY) * scale).astype(np.float32))
    assert np.array_equal(pixels_of(encoded(picture, "TIFF")), np.asarray(GREY.convert("RGB")))


def test_floats_that_are_no_numbers():
    values = (np.asarray(GREY) / 255).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = pixels_of(encoded(Image.fromarray(values), "TIFF"))
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert np.array_equal(pixels[1:], np.asarray(GREY.convert("RGB"))[1:])
    nothing = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    assert np.unique(pixels_of(encoded(nothing, "TIFF"))).tolist() == [0]


def test_one_bit():
    picture = GREY.point(lambda value: 255 * (value > 100)).convert("1")
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        assert np.array_equal(pixels_of(encoded(picture, kind)), np.asarray(picture.convert("RGB")))


def test_palette():
    picture = RGB.quantize(16)
    assert np.array_equal(pixels_of(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))


def with_alpha(mode):
    """The left half opaque, the right half of another colour and wholly transparent."""
    picture = Image.new("RGBA", (4, 2), (10, 200, 30, 255))
    picture.paste((90, 0, 0, 0), (2, 0, 4, 2))
    return picture.convert(mode)


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("RGBA", "TIFF"), ("LA", "PNG")])
def test_alpha_lies_on_white(mode, kind):
    pixels = pixels_of(encoded(with_alpha(mode), kind))
    opaque = np.asarray(with_alpha(mode).convert("RGB"))[0, 0]
    assert np.array_equal(pixels[0, 0], opaque)
    assert np.array_equal(pixels[0, 3], [255, 255, 255])


def test_half_transparent_is_half_white():
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert np.unique(pixels_of(encoded(half, "PNG"))).tolist() == [127]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_with_transparency(transparency):
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([10, 200, 30, 90, 0, 0])
    picture.paste(1, (2, 0, 4, 2))
    pixels = pixels_of(encoded(picture, "PNG", transparency=transparency))
    assert pixels[0, 0].tolist() == [10, 200, 30]
    assert pixels[0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 8, 7)), ("L", 9), ("1", 0)])
def test_one_transparent_colour(mode, colour):
    picture = Image.new(mode, (4, 2), colour)
    picture.paste(255 if mode != "RGB" else (255, 0, 0), (0, 0, 2, 2))
    pixels = pixels_of(encoded(picture, "PNG", transparency=colour))
    assert pixels[0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("is_large", [False, True])
def test_one_transparent_grey_of_few_bits(bits, is_large, monkeypatch):
    """A PNG of one row with every value: only the transparent one becomes white."""
    if is_large:
        monkeypatch.setattr(images, "LARGE_PIXELS", 1)
    count = 2**bits
    packed = sum(value << bits * (count - 1 - value) for value in range(count))
    row = b"\0" + packed.to_bytes(bits * count // 8 or 1, "big")
    if bits == 1:
        row = b"\0\x40"  # 0, 1
    for transparent in {0, 1, count - 2}:
        chunks = {
            b"IHDR": struct.pack(">IIBBBBB", count, 1, bits, 0, 0, 0, 0),
            b"tRNS": struct.pack(">H", transparent),
            b"IDAT": zlib.compress(row),
            b"IEND": b"",
        }
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks.items()
        )
        wanted = [255 if n == transparent else n * 255 // (count - 1) for n in range(count)]
        assert pixels_of(data)[0, :, 0].tolist() == wanted


def test_grey_of_16_bits_with_a_transparent_value():
    wide = Image.fromarray(np.full((2, 2), 2570, np.uint16))
    data = encoded(wide, "PNG", transparency=1)
    assert np.unique(pixels_of(data)).tolist() == [10]


def test_cmyk_jpeg():
    data = encoded(RGB.convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "CMYK"
    assert close(data, RGB, within=4)


def test_ycbcr_and_lab():
    assert close(encoded(RGB.convert("YCbCr"), "TIFF"), RGB, within=3)
    white = Image.new("LAB", (2, 2), (255, 128, 128))
    assert pixels_of(encoded(white, "TIFF")).min() >= 254


# Animations: their first frame


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_the_first_frame_of_several(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels_of(data) - [255, 0, 0]).max() <= 3


def test_a_transparent_animation():
    first, second = with_alpha("RGBA"), Image.new("RGBA", (4, 2), (0, 0, 255, 255))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert pixels_of(data)[0, 3].tolist() == [255, 255, 255]


def test_a_picture_with_a_preview_behind_it():
    small = RGB.resize((24, 16))
    data = encoded(RGB, "MPO", save_all=True, append_images=[small], quality=95)
    assert pixels_of(data).shape == (32, 48, 3)
    assert close(data, RGB, within=4)
    large = RGB.resize((480, 320))
    data = encoded(large, "MPO", save_all=True, append_images=[small])
    assert decode_image(data, decode_px=100).size == (160 * 3 // 2, 160)


# Orientation


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright_to_the_pixel(orientation, kind):
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # what the tag undoes by turning to the right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = RGB if turned is None else RGB.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif, **options)
    assert np.array_equal(pixels_of(data), np.asarray(RGB))


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_orientation_of_a_photograph(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    large = RGB.resize((480, 320))
    data = encoded(large.transpose(Image.Transpose.ROTATE_90), kind, exif=exif, quality=95)
    assert close(data, large, within=3)
    assert decode_image(data, decode_px=40).size[0] > decode_image(data, decode_px=40).size[1]


def test_orientation_of_16_bits():
    exif = Image.Exif()
    exif[0x0112] = 3
    wide = Image.fromarray(np.asarray(GREY.rotate(180)).astype(np.uint16) * 257)
    assert np.array_equal(
        pixels_of(encoded(wide, "PNG", exif=exif)), np.asarray(GREY.convert("RGB"))
    )


def test_an_orientation_that_does_not_exist_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(pixels_of(encoded(RGB, "PNG", exif=exif)), np.asarray(RGB))


# Smaller decoding


@pytest.mark.parametrize("size", [(799, 601), (601, 799), (512, 4096), (1024, 1024), (130, 90)])
@pytest.mark.parametrize("decode_px", [1, 64, 100, 512, 2000])
def test_a_jpeg_is_never_decoded_below_what_is_asked(size, decode_px):
    data = encoded(RGB.resize(size), "JPEG")
    decoded = decode_image(data, decode_px=decode_px)
    assert min(decoded.size) >= min(decode_px, *size)
    assert abs(decoded.width / decoded.height - size[0] / size[1]) < 0.05 * size[0] / size[1]
    if min(size) >= 8 * decode_px:
        assert min(decoded.size) < min(size) / 7


def test_without_a_wish_every_pixel_is_decoded():
    data = encoded(RGB.resize((1600, 1200)), "JPEG")
    assert decode_image(data).size == (1600, 1200)
    assert decode_image(encoded(RGB.resize((1600, 1200)), "PNG"), decode_px=8).size == (1600, 1200)


def test_a_smaller_decoding_shows_the_same_picture():
    large = RGB.resize((1600, 1064))
    decoded = decode_image(encoded(large, "JPEG", quality=95), decode_px=200)
    difference = np.asarray(decoded).astype(int) - np.asarray(large.resize(decoded.size))
    assert np.abs(difference).mean() < 3


# What is no picture, or a broken one


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


def jpeg_of_size(width, height):
    """A small JPEG whose header claims another size."""
    data = encoded(RGB, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello, I am a text\n" * 20, "not an image of a known format"),
        (bytes(5000), "not an image (only zeros)"),
        (b"\xff\xd8\xff", ""),
        (b"no", "not an image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
        (b"GIF89a", ""),
        (b"%PDF-1.4\n" * 10, "not an image of a known format"),
        (encoded(RGB, "PNG")[:8], ""),
    ],
)
def test_what_is_no_picture(data, reason):
    assert reason in reason_of(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "AVIF", "PPM", "TGA"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_never_half_a_picture(kind, part):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    reason_of(data[: int(part * len(data))])


def test_a_damaged_png_is_noticed():
    data = bytearray(encoded(RGB, "PNG"))
    data[len(data) // 2] ^= 0xFF
    reason_of(bytes(data))


def test_postscript_never_reaches_its_interpreter(monkeypatch, tmp_path):
    def never(*_, **__):
        raise AssertionError("another program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    monkeypatch.setattr(subprocess, "Popen", never)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(RGB, "EPS"))
    with Image.open(path) as picture, pytest.raises(AssertionError, match="another program"):
        picture.load()  # what Pillow does when nobody stops it
    assert reason_of(read_bytes(path)) == "not an image of a known format"


@pytest.mark.parametrize("size", [(60_000, 60_000), (20_000, 15_001), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size):
    assert f"the limit is {limits.MAX_PIXELS:,} px" in reason_of(png_header(*size))


def test_the_limit_is_this_module_s_own_and_a_camera_of_200_megapixels_passes():
    limit = "the limit is 300,000,000 px"
    assert limit in reason_of(jpeg_of_size(20_000, 15_001), decode_px=512)
    assert decode_image(jpeg_of_size(16_320, 12_240), decode_px=512).size == (2040, 1530)


def test_nothing_that_pillow_raises_escapes(monkeypatch):
    for error in (RuntimeError("a\nb"), SyntaxError(), NotImplementedError("x"), KeyError(1)):

        def broken(*_, error=error):
            raise error

        monkeypatch.setattr(Image.Image, "getexif", broken)
        assert pixels_of(encoded(RGB, "PNG")).shape == (32, 48, 3)
        monkeypatch.setattr(images, "to_rgb", broken)
        reason_of(encoded(RGB, "PNG"))
        monkeypatch.undo()


def test_odd_sizes():
    for size in ((1, 1), (1, 500), (500, 1)):
        assert decode_image(encoded(RGB.resize(size), "PNG")).size == size


# Files


def file_reason(path):
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(path)
    return str(caught.value)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    assert file_reason(tmp_path / "empty.png") == "the file is empty"
    assert file_reason(tmp_path / "gone.png") == "No such file or directory"
    assert file_reason(tmp_path) in ("Is a directory", "Permission denied")
    assert "name too long" in file_reason(tmp_path / ("x" * 300))
    assert file_reason(tmp_path / "nul\x00.png")
    assert file_reason("/dev/zero") == "not a regular file"
    (tmp_path / "large.png").write_bytes(bytes(101))
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 100)
    assert file_reason(tmp_path / "large.png") == "101 bytes; the limit is 100"


def test_pipes_and_sockets_do_not_hang(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    reasons = []

    def read_both():
        reasons.extend(file_reason(tmp_path / name) for name in ("pipe.jpg", "socket.jpg"))

    thread = threading.Thread(target=read_both, daemon=True)  # so that a hang is a failure
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert reasons[0] == "not a regular file"
    assert reasons[1]


def test_names_of_any_bytes_are_opened(tmp_path):
    data = encoded(RGB, "PNG")
    for name in ("a b.png", "a\nb.png", "🌹.png", "وردة.png", os.fsdecode(b"\xff.png"), "x" * 255):
        (tmp_path / name).write_bytes(data)
        assert read_bytes(tmp_path / name) == data


def test_the_digest_is_of_the_content_alone():
    assert content_digest(b"a") == content_digest(b"a") != content_digest(b"b")
    assert len(content_digest(b"")) == 16
