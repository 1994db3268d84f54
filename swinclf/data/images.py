"""The image reader of all commands: bytes of a file -> an upright RGB image, or an error.

Decodes completely, to detect truncation; reads regular files only, within the limits of
`data.limits`; lets Pillow try only the formats named here (PostScript, for one, would start
another program).
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
from typing import Any, TypeVar

import PIL
from PIL import (  # noqa: F401 - the plugins register themselves: without, Pillow has five formats
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
from swinclf.data.cifar import read_packed
from swinclf.data.high_bit_depth import (
    check_jpeg2000,
    correct_jpeg2000,
    read_png_raster,
    read_ppm_raster,
)
from swinclf.data.limits import ExcessiveImage as ExcessiveImage
from swinclf.data.limits import UnreadableImage as UnreadableImage
from swinclf.data.metadata import UPRIGHT, strip_metadata
from swinclf.data.raster import Raster, bands_of, raster_to_rgb, to_raster, to_rgb
from swinclf.data.tiff import open_tiff
from swinclf.data.tiff_tags import is_tiff
from swinclf.preprocess import ValueRange

Result = TypeVar("Result")

REVISION = 3  # of the decoder; invalidates caches when decoded pixels change
LARGE_PIXELS = 8_000_000  # larger images are converted and reduced strip by strip
HEAD_BYTES = 64  # enough to recognise a format

# fmt: off
EXTENSIONS = frozenset((  # a format per line
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
# In the order in which they are tried, without those of which this Pillow has no codec.
FORMATS: tuple[str, ...] = tuple(
    name
    for name in (
        *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG2000", "JPEG", "MPO"),
        *("PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"),
    )
    if name in Image.OPEN
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnknownFormat(UnreadableImage):
    """A file in none of the formats that can be decoded here."""


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata of an image."""

    size: tuple[int, int]  # width and height of the upright image, px, at full size
    orientation: int  # the EXIF tag, 1 to 8; 1 is upright, also without a tag


def has_image_name(name: str) -> bool:
    """Return whether a file name has the extension of an image, in either case."""
    stem, _, extension = name.rpartition(".")
    return bool(stem) and extension.lower() in EXTENSIONS


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """Return the content of a regular file of at most `limits.MAX_FILE_BYTES`.

    With `most`, only its first bytes, of a file of any size.

    Raises:
        UnreadableImage: If the file is missing, not permitted, empty, too large, or not regular
            (a pipe, a device, a socket), which is detected without blocking.
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
            if most is None and (reason := limits.why_not_bytes(status.st_size)):
                raise ExcessiveImage(reason)
            return file.read(most or limits.MAX_FILE_BYTES)  # it may be growing
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if (packed := read_packed(Path(path))) is not None:
            return packed[:most]
        raise UnreadableImage(getattr(error, "strerror", None) or str(error)) from error


def content_digest(data: bytes) -> bytes:
    """Return a 16-byte digest of an image file's content."""
    return hashlib.blake2b(data, digest_size=16).digest()


@contextmanager
def image_bytes(path: Path) -> Iterator[bytes]:
    """Read a file, to decode it in a `with` block: very large ones take turns, to limit memory.

    Raises:
        UnreadableImage: As `read_bytes`.
    """
    try:
        size = path.stat().st_size
    except (OSError, ValueError):  # `read_bytes` reports the error
        size = 0
    with limits.serialize_if_large(size):
        yield read_bytes(path)


def decode_image(
    data: bytes, *, decode_px: int | None = None, ranges: tuple[ValueRange, ...] = ()
) -> Image.Image:
    """Return an image as upright 8-bit RGB; of an animation, the first frame.

    `decode_px` is the required length of the shorter side, px: a JPEG may be decoded at 1/2, 1/4 or
    1/8 of its size, a very large image of another format is reduced, never below this. None decodes
    every pixel. `ranges` are those of the dataset, for more than 8 bits (`data.value_range`).

    Raises:
        UnreadableImage: If the bytes are not an image of a known format, are broken, too large,
            or of an unsupported layout. Covers every exception that Pillow raises.
    """
    return use_image(data, lambda picture, _: picture, decode_px=decode_px, ranges=ranges)


def use_image(
    data: bytes,
    use: Callable[[Image.Image, Header], Result],
    *,
    decode_px: int | None = None,
    ranges: tuple[ValueRange, ...] = (),
    max_pixels: int | None = None,
) -> Result:
    """Return `use(image, header)`, called while memory for the image is reserved.

    Threads whose images do not fit into `limits.MEMORY` together wait for one another; an image of
    more than `max_pixels` is refused, if that is below the limit of its format; otherwise as
    `decode_image`.
    """
    with _named_reasons(data), _opened(data, decode_px, max_pixels) as image:
        orientation = image.orientation if image.orientation in _TURNS else UPRIGHT
        upright = _turned(_to_rgb_of_size(image.pixels, ranges, decode_px), orientation)
        # Some readers rotate the image themselves, so the tag alone does not decide.
        size = image.size
        if (size[0] - size[1]) * (upright.width - upright.height) < 0:
            size = size[::-1]
        return use(upright, Header(size, orientation))


def turn_upright(picture: Image.Image) -> Image.Image:
    """Return an opened image upright, as `decode_image` returns its file."""
    picture.load()  # some formats are turned by it, and forget their orientation
    return _turned(picture, _orientation(picture))


def _turned(picture: Image.Image, orientation: Any) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def measure_values(data: bytes) -> ValueRange | None:
    """Return the sample type of an image file with its smallest and largest value.

    None for an 8-bit image, or one that declares its range itself. Raises as `decode_image`.
    """
    with _named_reasons(data):
        if is_tiff(data) and open_tiff(data).is_decoded_by_pillow:  # of 8 bits
            return None
    with _named_reasons(data), _opened(data, None) as image:
        pixels = image.pixels
        if isinstance(pixels, Raster) and pixels.is_scaled_by_dataset:
            return ValueRange(pixels.kind, *pixels.extremes())
        return None


@dataclass(frozen=True)
class _OpenedImage:
    """An image to convert to RGB."""

    pixels: Image.Image | Raster  # a raster where Pillow has no mode for the samples
    size: tuple[int, int]
    orientation: Any  # as its metadata has it, valid or not


@contextmanager
def _opened(data: bytes, decode_px: int | None, most: int | None = None) -> Iterator[_OpenedImage]:
    """Open an image, decoded or to be decoded band by band, with memory reserved for it."""
    limits.check_before_opening(data, most)
    orientation, raster = None, read_ppm_raster(data)
    if is_tiff(data):
        tiff = open_tiff(data)
        orientation = tiff.orientation
        if tiff.is_decoded_by_pillow:
            limits.check_size(tiff.size, "TIFF", most)
            data = tiff.for_pillow()
        else:
            raster = tiff.raster()
    else:
        data, orientation = strip_metadata(data)
    if raster is not None:
        limits.check_size(raster.size, "", most)
        with limits.MEMORY.reserve(limits.bytes_of_raster(raster.size, raster.band_bytes)):
            yield _OpenedImage(raster, raster.size, orientation)
        return
    with _identify(data) as picture:
        needed = limits.check_before_decoding(picture, data, most)
        is_jpeg2000 = picture.format == "JPEG2000"
        if is_jpeg2000:
            check_jpeg2000(picture, data)
        size = picture.size
        if decode_px is not None:
            picture.draft(None, (decode_px, decode_px))
        raster = read_png_raster(data, picture)
        if raster:
            limits.check_size(size, "PNG of 16-bit channels", most)
        needed += limits.bytes_of_pixels(picture) + (raster.band_bytes if raster else 0)
        with limits.MEMORY.reserve(needed):
            if raster is None:
                picture.load()
            orientation = orientation or _orientation(picture)
            fixed: Image.Image = picture
            if picture.format == "PNG":
                _scale_transparency(picture, data)
            elif is_jpeg2000:
                fixed, raster = correct_jpeg2000(picture, data)
            elif picture.format == "TGA" and picture.mode == "RGBA" and not data[17] & 0x0F:
                fixed = picture.convert("RGB")  # its header declares no alpha
            yield _OpenedImage(raster or to_raster(fixed) or fixed, size, orientation)


def _scale_transparency(picture: Image.Image, data: bytes) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits, of which Pillow scales the pixels only.

    Source: PNG 3rd edition (W3C 2025), sec. 11.2.1 and 11.3.1.1.
    """
    bits, colour_type = data[24], data[25]
    grey = picture.info.get("transparency")
    if colour_type == 0 and bits in (2, 4) and isinstance(grey, int):
        most = 2**bits - 1
        picture.info["transparency"] = (grey & most) * (255 // most)


@contextmanager
def _named_reasons(data: bytes) -> Iterator[None]:
    """Convert whatever a decoder raises to `UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnknownFormat(_unidentified(data)) from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise UnreadableImage(f"{reason.splitlines()[0][:200]}") from error


def _to_rgb_of_size(
    picture: Image.Image | Raster, ranges: tuple[ValueRange, ...], decode_px: int | None
) -> Image.Image:
    """Convert to RGB; a large image strip by strip, reduced towards the required size."""
    width, height = picture.size
    is_large = width * height > LARGE_PIXELS
    factor = max(1, min(width, height) // decode_px) if decode_px and is_large else 1
    if isinstance(picture, Raster):
        return raster_to_rgb(picture, ranges, factor=factor)
    if not is_large or (
        factor == 1 and picture.mode == "RGB" and "transparency" not in picture.info
    ):
        return to_rgb(picture)
    rgb = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for box in bands_of(picture.size, factor):
        strip = to_rgb(picture.crop(box))
        rgb.paste(Image.Image.reduce(strip, factor), (0, box[1] // factor))
    return rgb


def _identify(data: bytes) -> ImageFile.ImageFile:
    """Read the header of an image with the first of `FORMATS` that accepts it.

    As `Image.open`, but without its process-wide pixel limit, which many cameras exceed.
    """
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # how plugins reject
            accepted = accepts is None or accepts(data[:16])
            if accepted and not isinstance(accepted, str):  # a string: Pillow lacks the codec
                return factory(io.BytesIO(data), "")
    raise UnidentifiedImageError


def _orientation(picture: Image.Image) -> Any:
    """Return the EXIF orientation; 1, upright, if it cannot be read."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # broken EXIF raises anything; the pixels are still good
        return UPRIGHT


def _unidentified(data: bytes) -> str:
    if (
        "HEIF" not in FORMATS
        and data[4:8] == b"ftyp"
        and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1")
    ):
        return "HEIC images need: pip install 'swinclf[heic]'"
    if data.startswith(b"\xff\xd8\xff") and (reason := limits.why_not_jpeg(data)):
        return reason
    if not data[:4096].strip(b"\x00"):
        return "not an image (only zeros)"
    return "not an image of a known format"


def _open_heic() -> None:
    """Register HEIC, the format of phones, with Pillow if the optional extra is installed."""
    global FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()
    FORMATS = (*FORMATS, "HEIF")


def _silence_decoders() -> None:
    """Stop decoders from printing to standard error: errors are reported per file.

    libtiff, which Pillow links to, prints by default.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError, TypeError):  # linked in another way
        libtiff = ctypes.CDLL(PIL._imaging.__file__)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


_open_heic()
_silence_decoders()
