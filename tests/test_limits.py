"""What a picture may take: refused by its header, bounded in memory, whoever else is decoding."""

from __future__ import annotations

import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image
from test_images import encoded

from swinclf.data import images, limits, raster
from swinclf.data.images import UnreadableImage, decode_image
from swinclf.data.limits import MemoryBudget, count_scans

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def reason_of(data):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, decode_px=64)
    return str(caught.value)


def webp_canvas(width, height):
    """An extended WebP that claims a canvas: its plugin allocates one as soon as it is opened."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def icon(picture_bytes):
    """A Windows icon, which its plugin decodes as soon as it is opened."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture_bytes), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + picture_bytes


def with_size(jpeg, width, height):
    """The same JPEG, claiming another size in every frame header."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = jpeg.find(marker)
        if at >= 0:
            jpeg = jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]
    return jpeg


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (webp_canvas(10_000, 5_000), "40,000,000 px (WEBP)"),
        (icon(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 9000, 9000)), "(ICO)"),
        (icon(struct.pack("<IiiHHIIIIII", 40, 9000, 18000, 1, 32, *[0] * 6)), "(ICO)"),
    ],
)
def test_what_would_be_decoded_by_opening_it_is_not_opened(monkeypatch, data, limit):
    monkeypatch.setattr(images, "_identify", lambda _: pytest.fail("it was opened"))
    assert limit in reason_of(data)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\x00\x00"}])
def test_the_size_of_a_webp_is_read_from_its_header(monkeypatch, options):
    data = encoded(NOISE, "WEBP", **options)
    assert decode_image(data).size == NOISE.size
    monkeypatch.setitem(limits._MAX_PIXELS, "WEBP", 64 * 48 - 1)
    assert reason_of(data).startswith("64 x 48 px")


def test_scans_of_a_jpeg_are_counted():
    baseline, progressive = encoded(NOISE, "JPEG"), encoded(NOISE, "JPEG", progressive=True)
    assert count_scans(baseline) == 1
    assert count_scans(progressive) == 10
    thumbnail_in_metadata = baseline[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(progressive))
    assert count_scans(thumbnail_in_metadata + progressive + baseline[2:]) == 1
    assert count_scans(baseline + progressive) == 1  # what comes after the picture is another one
    for cut in range(0, len(progressive), 97):
        assert 1 <= count_scans(progressive[:cut]) <= 10


def test_a_jpeg_of_very_many_scans_is_refused():
    progressive = encoded(NOISE, "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    many = progressive[:last] + 5000 * progressive[last:-2] + progressive[-2:]
    assert "px in 5,009 scans" in reason_of(with_size(many, 3000, 2000))
    assert "px in 10 scans" in reason_of(with_size(progressive, 16_000, 12_000))
    assert decode_image(with_size(encoded(NOISE, "JPEG"), 16_000, 12_000), decode_px=64)


def test_decoders_written_in_python_get_small_pictures_only():
    assert decode_image(encoded(NOISE, "QOI")).size == NOISE.size
    header = b"qoif" + struct.pack(">IIBB", 3000, 2000, 3, 0)
    assert "slow kind" in reason_of(header + bytes(8))
    assert "slow kind" in reason_of(b"P3 3000 2000 255\n" + b"1 " * 9)
    assert "slow kind" in reason_of(b"P6 3000 2000 100\n" + b"1 " * 9)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "I;16", "F", "1"])
@pytest.mark.parametrize("decode_px", [None, 500, 16, 7])
def test_strip_by_strip_is_the_same_picture(monkeypatch, mode, decode_px):
    grey = np.asarray(NOISE.convert("L"))
    special = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32) * 40}
    picture = Image.fromarray(special[mode]) if mode in special else NOISE.convert(mode)
    kind = "PNG" if mode not in ("CMYK", "F") else "TIFF"
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture, kind, exif=exif)
    whole = decode_image(data)
    assert whole.size == (48, 64)
    monkeypatch.setattr(images, "LARGE_PIXELS", 100)
    monkeypatch.setattr(raster, "BAND_PIXELS", 300)
    factor = max(1, 48 // decode_px) if decode_px else 1
    small = decode_image(data, decode_px=decode_px)
    assert min(small.size) >= min(decode_px or 48, 48)
    wanted = np.asarray(whole.reduce(factor)).astype(int)
    if factor == 1:
        assert np.array_equal(np.asarray(small), wanted)
    else:  # the last row and column may be averages of other pixels, as it is turned afterwards
        height, width = (wanted.shape[0] // 2, wanted.shape[1] // 2)
        found = np.asarray(small).astype(int)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted)[:height, width:].mean() < 30


def test_those_who_need_more_than_is_free_wait():
    room, order = MemoryBudget(100), []
    started = threading.Event()

    def large():
        with room.reserve(70):
            order.append("large in")
            started.set()
            time.sleep(0.2)
            order.append("large out")

    def small(part, name):
        with room.reserve(part):
            order.append(name)

    threads = [threading.Thread(target=large)]
    threads[0].start()
    assert started.wait(10)
    small(30, "fits beside it")
    threads += [threading.Thread(target=small, args=(40, "waits")) for _ in range(3)]
    threads.append(threading.Thread(target=small, args=(10**9, "needs all")))
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert order[:3] == ["large in", "fits beside it", "large out"]
    assert sorted(order[3:]) == ["needs all", "waits", "waits", "waits"]


def test_room_is_given_back_after_a_failure(monkeypatch):
    room = MemoryBudget(1000)
    monkeypatch.setattr(limits, "MEMORY", room)

    def broken(*_):
        raise MemoryError

    for _ in range(3):
        with pytest.raises(UnreadableImage, match="MemoryError"):
            images.use_image(encoded(NOISE, "PNG"), broken)
    assert room._free == 1000
