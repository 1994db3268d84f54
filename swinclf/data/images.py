"""The one careful reader: bytes of a file -> an upright RGB picture, or the reason why not.

Every command reads every image through this module. It decodes fully, because nothing less tells
whether a file is whole; it reads regular files only, within the limits of `data.limits`; it lets
Pillow try the formats named here and no others (PostScript, for one, would start another program).
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from PIL import (  # the plugins register themselves: without them Pillow knows five formats
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
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

from swinclf.data import limits

Result = TypeVar("Result")

ALPHA_COLOUR = (255, 255, 255)  # what shines through transparent pixels
LARGE_PIXELS = 8_000_000  # above this a picture is made RGB strip by strip, and smaller on the way
STRIP_PIXELS = 1_000_000

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
UPRIGHT = 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UINT16_TO_8 = np.round(np.arange(65536) / 257).astype(np.uint8)


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
    """The content of a regular file of at most `limits.MAX_FILE_BYTES`.

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
            if status.st_size > limits.MAX_FILE_BYTES:
                raise UnreadableImage(
                    f"{status.st_size:,} bytes; the limit is {limits.MAX_FILE_BYTES:,}"
                )
            return file.read(limits.MAX_FILE_BYTES)  # it may be growing
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableImage(getattr(error, "strerror", None) or str(error)) from error


def content_digest(data: bytes) -> bytes:
    """16 bytes that stand for an image's content: equal for equal files, whatever their names."""
    return hashlib.blake2b(data, digest_size=16).digest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around reading and decoding a file: very large ones take turns (`limits.turn_to_read`)."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError):  # `read_bytes` says what is the matter
        size = 0
    with limits.turn_to_read(size):
        yield


def decode_image(data: bytes, *, decode_px: int | None = None) -> Image.Image:
    """Decodes a picture, turns it upright and makes it 8-bit RGB.

    Args:
        data: The whole file.
        decode_px: The shorter side that is needed, px: a JPEG may be decoded at 1/2, 1/4 or 1/8 of
            its size, a very large picture of another format is made smaller, never below this.
            None decodes every pixel.

    Returns:
        An RGB picture; the first frame of an animation.

    Raises:
        UnreadableImage: If the bytes are no picture of a known format, broken, or too large.
            Pillow raises a dozen kinds of exception for broken files; every one of them ends here.
    """
    return use_image(data, lambda picture, _: picture, decode_px=decode_px)


def use_image(
    data: bytes, use: Callable[[Image.Image, Header], Result], *, decode_px: int | None = None
) -> Result:
    """What `use` makes of a picture, while memory for it is set aside; else as `decode_image`.

    Threads whose pictures do not fit into `limits.ROOM` together wait for one another.
    """
    try:
        if reason := limits.why_not_open(data):
            raise UnreadableImage(reason)
        with _identify(data) as picture:
            if reason := limits.why_not_decode(picture, data):
                raise UnreadableImage(reason)
            size = picture.size
            if decode_px is not None:
                picture.draft(None, (decode_px, decode_px))
            with limits.ROOM.taken(limits.bytes_to_decode(picture, data)):
                picture.load()
                orientation = _orientation(picture)
                upright = _to_rgb_of_size(picture, decode_px)
                if orientation != UPRIGHT:
                    upright = upright.transpose(_TURNS[orientation])
                # Some readers turn the picture themselves, so the tag alone does not tell.
                if (size[0] - size[1]) * (upright.width - upright.height) < 0:
                    size = size[::-1]
                return use(upright, Header(size, orientation))
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
    return _to_rgb(picture, _span(picture))


def _to_rgb(picture: Image.Image, span: tuple[float, float]) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return Image.fromarray(_eight_bits(np.asarray(picture), *span)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        ground = Image.new("RGBA", with_alpha.size, (*ALPHA_COLOUR, 255))
        return Image.alpha_composite(ground, with_alpha).convert("RGB")
    return picture.convert("RGB")


def _to_rgb_of_size(picture: Image.Image, decode_px: int | None) -> Image.Image:
    """`to_rgb`; of a large picture strip by strip, and in a size nearer to the one needed."""
    width, height = picture.size
    if width * height <= LARGE_PIXELS:
        return to_rgb(picture)
    factor = max(1, min(width, height) // decode_px) if decode_px else 1
    if factor == 1 and picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    rgb = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    span = _span(picture)
    for top, strip in _strips(picture, factor):
        rgb.paste(Image.Image.reduce(_to_rgb(strip, span), factor), (0, top // factor))
    return rgb


def _strips(picture: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Strips of a picture with their tops, each a multiple of `factor` high but for the last."""
    rows = factor * max(1, STRIP_PIXELS // (picture.width * factor))
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(picture.height, top + rows))
        yield top, picture.crop(box)


def _span(picture: Image.Image) -> tuple[float, float]:
    """What is black and what is white in a picture of integers or floats.

    The format's own range where there is one, else the picture's; of other modes anything.
    """
    if picture.mode not in ("I", "F"):
        return 0.0, 65535.0
    low, high = float("inf"), float("-inf")
    for _, strip in _strips(picture, 1):
        values = np.asarray(strip)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        return 0.0, 1.0
    if picture.mode == "F":  # floats: [0, 1] by custom, anything else by its own range
        return (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    return (0.0, 65535.0) if low >= 0 and high <= 65535 else (low, high)


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


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values -> uint8, `low` to black and `high` to white.

    Infinities become black and white, what is no number becomes black.
    """
    if values.dtype.itemsize == 2:
        return np.take(_UINT16_TO_8, values)
    pixels = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    scaled = (pixels - low) / max(high - low, 1e-12)
    return np.round(255.0 * scaled).astype(np.uint8)


def _orientation(picture: Image.Image) -> int:
    """The EXIF tag for how a picture is to be turned; 1, upright, where none can be read."""
    try:
        tag = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF raises anything; the pixels are good all the same
        return UPRIGHT
    return tag if tag in _TURNS else UPRIGHT


def _unidentified(data: bytes) -> str:
    if (
        "HEIF" not in FORMATS
        and data[4:8] == b"ftyp"
        and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1")
    ):
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


def _silence_decoders() -> None:
    """Keeps decoders from talking on standard error: what is wrong with a file, its row says.

    libtiff, which Pillow links to, prints by itself unless it is told not to.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError, TypeError):  # linked in another way
        libtiff = ctypes.CDLL(PIL._imaging.__file__)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


_open_heic()
_silence_decoders()
