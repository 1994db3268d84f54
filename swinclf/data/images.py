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
from swinclf.data.high_bit_depth import png_raster, ppm_raster
from swinclf.data.jpeg2000 import corrected, corrected_raster, why_not_jpeg2000
from swinclf.data.metadata import UPRIGHT, without_metadata
from swinclf.data.raster import Raster, raster_of, raster_to_rgb, to_rgb
from swinclf.data.tiff import open_tiff
from swinclf.data.tiff_tags import is_tiff
from swinclf.preprocess import ValueRange

Result = TypeVar("Result")

REVISION = 2  # of what files are decoded to: what was computed from another is not used again
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
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NO_PICTURE = Image.new("L", (1, 1))


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
    return _read(path, limits.MAX_FILE_BYTES)


def _read(path: Path, most: int) -> bytes:
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
            return file.read(most)  # it may be growing
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableImage(getattr(error, "strerror", None) or str(error)) from error


def read_head(path: Path, size: int = 64) -> bytes:
    """Return the first bytes of a file, as `read_bytes` would.

    Raises:
        UnreadableImage: As `read_bytes`.
    """
    return _read(path, size)


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


def decode_image(
    data: bytes, *, decode_px: int | None = None, ranges: tuple[ValueRange, ...] = ()
) -> Image.Image:
    """Decodes a picture, turns it upright and makes it 8-bit RGB.

    Args:
        data: The whole file.
        decode_px: The shorter side that is needed, px: a JPEG may be decoded at 1/2, 1/4 or 1/8 of
            its size, a very large picture of another format is made smaller, never below this.
            None decodes every pixel.
        ranges: Which values of more than 8 bits are black and white (`data.value_range`).

    Returns:
        An RGB picture; the first frame of an animation.

    Raises:
        UnreadableImage: If the bytes are no picture of a known format, broken, too large, or of a
            layout that is not decoded.
            Pillow raises a dozen kinds of exception for broken files; every one of them ends here.
    """
    return use_image(data, lambda picture, _: picture, decode_px=decode_px, ranges=ranges)


def use_image(
    data: bytes,
    use: Callable[[Image.Image, Header], Result],
    *,
    decode_px: int | None = None,
    ranges: tuple[ValueRange, ...] = (),
) -> Result:
    """What `use` makes of a picture, while memory for it is set aside; else as `decode_image`.

    Threads whose pictures do not fit into `limits.ROOM` together wait for one another.
    """
    with _named_reasons(data), _opened(data, decode_px) as image:
        upright = _to_rgb_of_size(image, ranges, decode_px)
        if image.orientation != UPRIGHT:
            upright = upright.transpose(_TURNS[image.orientation])
        # Some readers turn the picture themselves, so the tag alone does not tell.
        size = image.size
        if (size[0] - size[1]) * (upright.width - upright.height) < 0:
            size = size[::-1]
        return use(upright, Header(size, image.orientation))


def measure_values(data: bytes) -> ValueRange | None:
    """Return the sample type of an image and the smallest and largest value in it.

    Args:
        data: The whole file.

    Returns:
        None of an image of 8 bits, or one that declares its range itself.

    Raises:
        UnreadableImage: As `decode_image`.
    """
    with _named_reasons(data):
        if is_tiff(data) and open_tiff(data).is_pillows:  # of 8 bits
            return None
    with _named_reasons(data), _opened(data, None) as image:
        raster = image.raster or raster_of(image.picture)
        if raster is None or not raster.is_scaled_by_dataset:
            return None
        return ValueRange(raster.kind, *raster.extremes())


@dataclass(frozen=True)
class _Opened:
    """An image that can be made RGB: of Pillow, or with samples that Pillow has no mode for."""

    picture: Image.Image
    raster: Raster | None
    size: tuple[int, int]
    orientation: int


@contextmanager
def _opened(data: bytes, decode_px: int | None) -> Iterator[_Opened]:
    """An image that has been decoded, or will be band by band, with memory set aside for it."""
    if reason := limits.why_not_open(data):
        raise UnreadableImage(reason)
    orientation, raster = None, ppm_raster(data)
    if is_tiff(data):
        tiff = open_tiff(data)
        orientation = tiff.orientation if tiff.orientation in _TURNS else UPRIGHT
        if tiff.is_pillows:
            if reason := limits.why_not_size(tiff.size, "TIFF"):
                raise UnreadableImage(reason)
            data = tiff.for_pillow()
        else:
            raster = tiff.raster()
    else:
        data, orientation = without_metadata(data)
    if raster is not None:
        if reason := limits.why_not_size(raster.size, ""):
            raise UnreadableImage(reason)
        with limits.ROOM.taken(limits.bytes_of_raster(raster.size, raster.band_bytes)):
            yield _Opened(_NO_PICTURE, raster, raster.size, orientation or UPRIGHT)
        return
    with _identify(data) as picture:
        is_jpeg2000 = picture.format == "JPEG2000"
        reason = limits.why_not_decode(picture, data)
        if reason := reason or (why_not_jpeg2000(picture, data) if is_jpeg2000 else ""):
            raise UnreadableImage(reason)
        size = picture.size
        if decode_px is not None:
            picture.draft(None, (decode_px, decode_px))
        raster = png_raster(data, picture)
        if raster and (reason := limits.why_not_size(size, "PNG of 16-bit channels")):
            raise UnreadableImage(reason)
        needed = limits.bytes_to_decode(picture, data) + (raster.band_bytes if raster else 0)
        with limits.ROOM.taken(needed):
            if raster is None:
                picture.load()
            turn = orientation or _orientation(picture)
            turn = turn if turn in _TURNS else UPRIGHT
            if is_jpeg2000:
                fixed = corrected(picture, data)
                yield _Opened(fixed, corrected_raster(fixed, data), size, turn)
            else:
                yield _Opened(_without_false_alpha(picture, data), raster, size, turn)


def _without_false_alpha(picture: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """A TGA of 32 bits that says that none of them are alpha: without the channel."""
    if picture.format == "TGA" and picture.mode == "RGBA" and not data[17] & 0x0F:
        return picture.convert("RGB")
    return picture


@contextmanager
def _named_reasons(data: bytes) -> Iterator[None]:
    """Turns whatever a decoder raises into `UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(_unidentified(data)) from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise UnreadableImage(f"{reason.splitlines()[0][:200]}") from error


def _to_rgb_of_size(
    image: _Opened, ranges: tuple[ValueRange, ...], decode_px: int | None
) -> Image.Image:
    """`to_rgb`; of a large picture strip by strip, and in a size nearer to the one needed."""
    picture = image.picture
    width, height = image.raster.size if image.raster else picture.size
    is_large = width * height > LARGE_PIXELS
    factor = max(1, min(width, height) // decode_px) if decode_px and is_large else 1
    raster = image.raster or raster_of(picture)
    if raster is not None:
        return raster_to_rgb(raster, ranges, factor=factor)
    if not is_large or (
        factor == 1 and picture.mode == "RGB" and "transparency" not in picture.info
    ):
        return to_rgb(picture)
    rgb = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top, strip in _strips(picture, factor):
        rgb.paste(Image.Image.reduce(to_rgb(strip), factor), (0, top // factor))
    return rgb


def _strips(picture: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Strips of a picture with their tops, each a multiple of `factor` high but for the last."""
    rows = factor * max(1, STRIP_PIXELS // (picture.width * factor))
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(picture.height, top + rows))
        yield top, picture.crop(box)


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
    if data.startswith(b"\xff\xd8\xff") and (reason := limits.unusual_jpeg(data)):
        return reason
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
