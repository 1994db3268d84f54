"""16-bit PNG and PPM, and JPEG 2000 of other than 8 bits, which Pillow does not decode as stored.

Of several 16-bit channels Pillow returns only the upper eight bits. Samples of JPEG 2000 it shifts
to 8 or 16 bits, so white becomes light grey; with several channels of more than 8 bits, rounding
overflows and white becomes black.

Source: the format specification (netpbm, pgm(5) and ppm(5)); JPEG 2000 (ITU-T T.800), annex A.5.1.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from swinclf.data.raster import Raster, bands_of, to_raster

# A decoder of the same width that returns every first, or every second byte; grey with alpha is as
# wide as 8-bit RGBA, which returns all of them.
_HALVES = {
    "RGB;16B": ("RGB", ("RGB;16B", "RGB;16L")),
    "RGBA;16B": ("RGBA", ("RGBA;16B", "RGBA;16L")),
    "LA;16B": ("RGBA", ("RGBA",)),
}
_PPM = re.compile(rb"P([56])" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})" + rb"\s")
_MAX_HEADER = 4096


def read_png_raster(data: bytes, picture: ImageFile.ImageFile) -> Raster | None:
    """Return the samples of an opened PNG of several 16-bit channels; None for any other image."""
    if picture.format != "PNG" or not picture.tile:
        return None
    rawmode = picture.tile[0].args
    rawmode = rawmode[0] if isinstance(rawmode, tuple) else rawmode
    if rawmode not in _HALVES:
        return None
    mode, rawmodes = _HALVES[str(rawmode)]
    transparent = picture.info.get("transparency")
    is_grey = len(rawmodes) == 1

    def bands() -> Iterator[np.ndarray]:
        halves = [_decoded(data, mode, one) for one in rawmodes]
        for box in bands_of(picture.size):
            parts = [np.asarray(half.crop(box)) for half in halves]
            if is_grey:
                parts = [parts[0][..., 0::2], parts[0][..., 1::2]]
            yield parts[0].astype(np.uint16) << 8 | parts[1]

    return Raster(
        size=picture.size,
        kind="uint16",
        mode="L" if is_grey else "RGB",
        bands=bands,
        alpha="straight" if mode == "RGBA" else "",
        transparent=transparent if isinstance(transparent, tuple) and mode == "RGB" else None,
        band_bytes=8 * picture.width * picture.height,
    )


def _decoded(data: bytes, mode: str, rawmode: str) -> Image.Image:
    """Decode a PNG as if it had another mode of the same number of bytes."""
    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as picture:
        picture._mode = mode
        picture.tile = [picture.tile[0]._replace(args=rawmode)]
        picture.info.pop("transparency", None)
        picture.load()
        return picture.copy()


def read_ppm_raster(data: bytes) -> Raster | None:
    """Return the samples of a binary PGM or PPM of more than 8 bits; None for any other file."""
    head = _PPM.match(data[:_MAX_HEADER]) if data[:2] in (b"P5", b"P6") else None
    if head is None:
        return None
    width, height, most = (int(number) for number in head.groups()[1:])
    if not 255 < most < 65536 or width < 1 or height < 1:
        return None
    channels = 1 if head[1] == b"5" else 3
    start = head.end()

    def bands() -> Iterator[np.ndarray]:
        for _, top, _, bottom in bands_of((width, height)):
            count = (bottom - top) * width * channels
            offset = start + 2 * top * width * channels
            if offset + 2 * count > len(data):
                raise ValueError("image file is truncated")
            band = np.frombuffer(data, ">u2", count, offset)
            yield band.reshape(-1, width, channels).astype(np.uint16)

    return Raster(
        size=(width, height),
        kind="uint16",
        mode="L" if channels == 1 else "RGB",
        bands=bands,
        white=None if most == 65535 else float(most),
    )


_SIZE_MARKER = b"\xff\x4f\xff\x51"
_MOST_BITS = 16


def component_bits(data: bytes) -> list[int]:
    """Return the bits per sample of each component; empty if the header cannot be read."""
    start = data.find(_SIZE_MARKER)
    if start < 0 or start + 42 > len(data):
        return []
    count = struct.unpack_from(">H", data, start + 40)[0]
    described = data[start + 42 : start + 42 + 3 * count : 3]
    return [(one & 0x7F) + 1 for one in described]


def check_jpeg2000(picture: Image.Image, data: bytes) -> None:
    """Raise ValueError if Pillow would decode an opened file incorrectly."""
    bits = component_bits(data)
    most = max(bits, default=8)
    if most > _MOST_BITS or (most > 8 and picture.mode != "I;16"):
        channels = f"{len(bits)} x " if len(bits) > 1 else ""
        raise ValueError(
            f"JPEG 2000 of {channels}{most}-bit samples is not supported: "
            "save it as TIFF or PNG of 16 bits"
        )


def correct_jpeg2000(
    picture: ImageFile.ImageFile, data: bytes
) -> tuple[Image.Image, Raster | None]:
    """Return a decoded image, scaled to 8 bits if it has fewer, and the samples of 9 to 16 bits."""
    bits = component_bits(data)
    raster = to_raster(picture)
    if raster is not None and bits and bits[0] < _MOST_BITS:
        return picture, replace(raster, white=float((2 ** bits[0] - 1) << (_MOST_BITS - bits[0])))
    if not bits or min(bits) >= 8 or len(bits) != len(picture.getbands()) or picture.mode == "P":
        return picture, raster
    table: list[int] = []
    for one in bits:
        shift, most = max(0, 8 - one), 2 ** min(8, one) - 1
        table += [round((value >> shift) * 255 / most) for value in range(256)]
    return picture.point(table), None
