"""The one careful reader: bytes of a file -> an upright RGB picture, or the reason why not.

Every command reads every image through this module. It decodes fully, because nothing less tells
whether a file is whole; it reads regular files only, within stated limits; it lets Pillow try the
formats named here and no others (PostScript, for one, would start another program).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import (  # the plugins register themselves: without them Pillow knows five formats
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    QoiImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

MAX_FILE_BYTES = 512 * 1024**2
MAX_PIXELS = 300_000_000  # before any pixel is decoded; a camera of 200 megapixels passes
ALPHA_COLOUR = (255, 255, 255)  # what shines through transparent pixels

# fmt: off
EXTENSIONS = frozenset((  # one kind a line
    "jpg", "jpeg", "jpe", "jfif", "mpo",
    "png", "apng",
    "webp", "bmp", "dib", "gif", "avif", "avifs",
    "tif", "tiff",
    "jp2", "j2k", "jpx",
    "ppm", "pgm", "pbm", "pnm",
    "tga", "ico", "pcx", "qoi",
    "heic", "heif",
))
# fmt: on
_PLUGINS = (
    AvifImagePlugin.AvifImageFile,
    BmpImagePlugin.BmpImageFile,
    BmpImagePlugin.DibImageFile,
    GifImagePlugin.GifImageFile,
    IcoImagePlugin.IcoImageFile,
    Jpeg2KImagePlugin.Jpeg2KImageFile,
    JpegImagePlugin.JpegImageFile,
    MpoImagePlugin.MpoImageFile,
    PcxImagePlugin.PcxImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    QoiImagePlugin.QoiImageFile,
    TgaImagePlugin.TgaImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)
FORMATS = tuple(plugin.format for plugin in _PLUGINS if plugin.format in Image.OPEN)


class UnreadableImage(Exception):
    """A file that gives no picture; the text says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about its picture.

    Attributes:
        size: Width and height of the upright picture, px, at full size.
        orientation: The EXIF tag, 1 to 8; 1 is upright, and stands for none.
    """

    size: tuple[int, int]
    orientation: int


def has_image_name(name: str) -> bool:
    """Whether a file's name ends like a picture's, in either case."""
    stem, _, extension = name.rpartition(".")
    return bool(stem) and extension.lower() in EXTENSIONS


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most `MAX_FILE_BYTES`.

    Raises:
        UnreadableImage: If there is no such file, it may not be read, is empty, too large, or no
            regular file (a pipe, a device, a socket): those are found out without waiting for them.
    """
    try:
        handle = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("not a regular file")
            if status.st_size == 0:
                raise UnreadableImage("the file is empty")
            if status.st_size > MAX_FILE_BYTES:
                raise UnreadableImage(f"{status.st_size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableImage(getattr(error, "strerror", None) or str(error)) from error


def content_digest(data: bytes) -> bytes:
    """16 bytes that stand for an image's content: equal for equal files, whatever their names."""
    return hashlib.blake2b(data, digest_size=16).digest()


def decode_image(data: bytes, *, decode_px: int | None = None) -> Image.Image:
    """Decodes a picture, turns it upright and makes it 8-bit RGB.

    Args:
        data: The whole file.
        decode_px: The shorter side that is needed, px: a JPEG may be decoded at 1/2, 1/4 or 1/8 of
            its size, never below this. None decodes every pixel.

    Returns:
        An RGB picture; the first frame of an animation.

    Raises:
        UnreadableImage: If the bytes are no picture of a known format, broken, or too large.
            Pillow raises a dozen kinds of exception for broken files; every one of them ends here.
    """
    return decode_with_header(data, decode_px=decode_px)[0]


def decode_with_header(data: bytes, *, decode_px: int | None = None) -> tuple[Image.Image, Header]:
    """As `decode_image`, and what the file says about the picture."""
    try:
        with _identify(data) as picture:
            size = picture.size
            if picture.width * picture.height > MAX_PIXELS:
                raise UnreadableImage(
                    f"{picture.width} x {picture.height} px; the limit is {MAX_PIXELS:,} px"
                )
            if decode_px is not None:
                picture.draft(None, (decode_px, decode_px))
            picture.load()
            orientation = _orientation(picture)
            upright = _upright(picture)
            # Some readers turn the picture themselves, so the tag alone does not tell.
            if (size[0] - size[1]) * (upright.width - upright.height) < 0:
                size = size[::-1]
            return to_rgb(upright), Header(size, orientation)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(_unidentified(data)) from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise UnreadableImage(f"{reason.splitlines()[0][:200]}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB from whatever mode a picture has.

    Grey of 16 or more bits is scaled to 8 (a plain conversion would clip it to white);
    transparency is laid over `ALPHA_COLOUR`.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return Image.fromarray(_eight_bits(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        ground = Image.new("RGBA", with_alpha.size, (*ALPHA_COLOUR, 255))
        return Image.alpha_composite(ground, with_alpha).convert("RGB")
    return picture.convert("RGB")


def _identify(data: bytes) -> ImageFile.ImageFile:
    """Reads a picture's header, by the first of `FORMATS` that knows it.

    As `Image.open`, but for its limit of pixels: that is one number for the whole process, below
    what cameras have, and the limit here is this module's own.

    Raises:
        UnidentifiedImageError: If none of the formats knows it.
    """
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # how plugins say no
            accepted = accepts is None or accepts(data[:16])
            if accepted and not isinstance(accepted, str):  # a text: Pillow was built without it
                return factory(io.BytesIO(data), "")
    raise UnidentifiedImageError


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values -> uint8: by the format's own range where there is one, else by the picture's.

    Infinities become black and white, what is no number becomes black.
    """
    pixels = values.astype(np.float64)
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f":  # floats: [0, 1] by custom, anything else by its own range
        low, high = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    pixels = np.nan_to_num(pixels, nan=low, posinf=high, neginf=low)
    scaled = (pixels - low) / max(high - low, 1e-12)
    return np.round(255.0 * scaled).astype(np.uint8)


def _upright(picture: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF tag says; a tag that cannot be read turns nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # broken EXIF raises anything; the pixels are good all the same
        return picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF tag for how a picture is to be turned; 1, upright, where none can be read."""
    try:
        tag = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as for `_upright`
        return 1
    return tag if tag in range(1, 9) else 1


def _unidentified(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1"):
        return "HEIC pictures need: pip install 'swinclf[heic]'"
    if not data[:4096].strip(b"\x00"):
        return "not a picture (nothing but zeros)"
    return "not a picture of a known format"


def _open_heic() -> None:
    """Lets Pillow open HEIC, the format of phones, where the optional extra is installed."""
    global FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()
    FORMATS = (*FORMATS, "HEIF")


_open_heic()
