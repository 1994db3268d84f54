"""JPEG 2000 of other than 8 bits: corrects what Pillow returns, or refuses the file.

Pillow shifts samples to 8 or 16 bits, so white becomes light grey; with several channels of more
than 8 bits, rounding overflows and white becomes black.

Source: JPEG 2000 (ITU-T T.800), annex A.5.1.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from PIL import Image, ImageFile

from swinclf.data.raster import Raster, to_raster

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


def why_not_jpeg2000(picture: Image.Image, data: bytes) -> str:
    """Return why Pillow would decode an opened file incorrectly; empty if it does not."""
    bits = component_bits(data)
    most = max(bits, default=8)
    if most > _MOST_BITS or (most > 8 and picture.mode != "I;16"):
        channels = f"{len(bits)} x " if len(bits) > 1 else ""
        return (
            f"JPEG 2000 of {channels}{most}-bit samples is not supported: "
            "save it as TIFF or PNG of 16 bits"
        )
    return ""


def correct_jpeg2000_raster(picture: Image.Image, data: bytes) -> Raster | None:
    """Return decoded grey of 9 to 16 bits with its white value; None for any other image."""
    raster = to_raster(picture)
    bits = component_bits(data)
    if raster is None or not bits or bits[0] == _MOST_BITS:
        return raster
    return replace(raster, white=float((2 ** bits[0] - 1) << (_MOST_BITS - bits[0])))


def correct_jpeg2000(picture: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Return a decoded image of fewer than 8 bits per sample, scaled to 8; any other unchanged."""
    bits = component_bits(data)
    if not bits or min(bits) >= 8 or len(bits) != len(picture.getbands()) or picture.mode == "P":
        return picture
    table: list[int] = []
    for one in bits:
        shift, most = max(0, 8 - one), 2 ** min(8, one) - 1
        table += [round((value >> shift) * 255 / most) for value in range(256)]
    return picture.point(table)
