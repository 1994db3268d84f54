"""Conversion of samples of any type to 8-bit RGB, band by band.

Samples of more than 8 bits are scaled by the value range of the dataset, which is measured once
(`data.value_range`), never by that of the single image: its brightness is information.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from swinclf.preprocess import ValueRange

ALPHA_COLOUR = (255, 255, 255)  # background of transparent pixels
BAND_PIXELS = 1_000_000  # converted at a time
NO_DATA = 1e30  # larger floats mean "no data", as in geographic files

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True, kw_only=True)
class Raster:
    """The samples of an image, of any type, decoded lazily."""

    size: tuple[int, int]  # width and height as stored, px
    kind: str  # NumPy's name of the sample type, such as uint16
    mode: str  # colour space in Pillow's terms: L, RGB, CMYK, LAB, YCbCr or P
    # decodes the image: arrays (rows, width, channels) from top to bottom, colour channels first,
    # then alpha if there is any
    bands: Callable[[], Iterator[np.ndarray]]
    # the largest value, if the file itself declares it; None to use the dataset's range
    white: float | None = None
    is_inverted: bool = False  # whether 0 is white
    # the last channel: "" for none, "straight", or "premultiplied" into the colours
    alpha: str = ""
    palette: np.ndarray | None = None  # (N, 3) uint8 colours, of mode P
    transparent: tuple[int, ...] | None = None  # the colour that is transparent
    band_bytes: int = 0  # memory that decoding takes besides the result

    @property
    def is_scaled_by_dataset(self) -> bool:
        """Whether black and white are determined by the range of the dataset."""
        return self.white is None and self.palette is None

    def extremes(self) -> tuple[float, float]:
        """Return the smallest and largest finite value of the colours; (inf, -inf) for none."""
        low, high = float("inf"), float("-inf")
        for band in self.bands():
            values = band[..., :-1] if self.alpha else band
            if values.dtype.kind == "f":
                values = _wide(values)
                values = values[np.abs(values) < NO_DATA]  # excludes nan as well
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        return low, high


def bands_of(size: tuple[int, int], factor: int = 1) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes (left, top, right, bottom) of bands of an image of (width, height).

    Each is a multiple of `factor` high, but the last.
    """
    width, height = size
    rows = factor * max(1, BAND_PIXELS // (width * factor))
    for top in range(0, height, rows):
        yield 0, top, width, min(height, top + rows)


def to_raster(picture: Image.Image) -> Raster | None:
    """Return the samples of a Pillow image of more than 8 bits; None for any other image."""
    is_ppm = picture.format == "PPM"  # whose 16 bits Pillow widens
    if picture.mode.startswith("I;16") or (picture.mode == "I" and is_ppm):
        kind = "uint16"
    elif picture.mode in ("I", "F"):
        kind = "int32" if picture.mode == "I" else "float32"
    else:
        return None
    transparent = picture.info.get("transparency")

    def bands() -> Iterator[np.ndarray]:
        for box in bands_of(picture.size):
            yield np.asarray(picture.crop(box)).astype(kind, copy=False)[..., None]

    return Raster(
        size=picture.size,
        kind=kind,
        mode="L",
        bands=bands,
        transparent=(transparent,) if kind == "uint16" and isinstance(transparent, int) else None,
    )


def to_rgb(picture: Image.Image, ranges: tuple[ValueRange, ...] = ()) -> Image.Image:
    """Return an image of any mode as 8-bit RGB, by the value ranges of a model's dataset.

    Grey of 16 or more bits is scaled to 8 (a plain conversion would clip it to white); transparent
    pixels are composited over `ALPHA_COLOUR`.
    """
    if (raster := to_raster(picture)) is not None:
        return raster_to_rgb(raster, ranges)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        background = Image.new("RGBA", with_alpha.size, (*ALPHA_COLOUR, 255))
        return Image.alpha_composite(background, with_alpha).convert("RGB")
    return picture.convert("RGB")


def raster_to_rgb(
    raster: Raster, ranges: tuple[ValueRange, ...] = (), *, factor: int = 1
) -> Image.Image:
    """Return a raster as 8-bit RGB, both sides divided by `factor` by averaging."""
    width, height = raster.size
    low, high = value_span(raster, ranges)
    rgb = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, BAND_PIXELS // (width * factor))
    top = 0
    for band in _of_height(raster.bands(), rows):
        strip = _band_to_rgb(band, raster, low, high)
        if factor > 1:
            strip = Image.Image.reduce(strip, factor)
        rgb.paste(strip, (0, top // factor))
        top += len(band)
    if top < height:
        raise ValueError(f"image data ends after {top:,} of {height:,} rows")
    return rgb


def value_span(raster: Raster, ranges: tuple[ValueRange, ...]) -> tuple[float, float]:
    """Return the values of black and white.

    The range that the file declares takes precedence, then that of the dataset, then that of the
    type; for 32 and more bits, whose whole range is never used, that of the image itself.
    """
    if raster.white is not None:
        return 0.0, raster.white
    known = {one.kind: (one.low, one.high) for one in ranges}
    if raster.kind in known:
        return known[raster.kind]
    if raster.kind in ("uint8", "uint16", "int8"):
        limits = np.iinfo(raster.kind)
        return float(limits.min), float(limits.max)
    if raster.palette is not None:
        return 0.0, 1.0
    low, high = raster.extremes()
    if low > high:
        return 0.0, 1.0
    if raster.kind.startswith("float"):  # [0, 1] by convention, otherwise the image's own range
        return (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    for narrow in ("uint16", "int16"):  # widened by a reader
        limits = np.iinfo(narrow)
        if narrow in known and limits.min <= low and high <= limits.max:
            return known[narrow]
    return (low, high) if low < 0 or high > 65535 else (0.0, 65535.0)


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return uint8 with `low` as 0 and `high` as 255, clipped.

    Infinities become 0 and 255; nan and missing values become 0.
    """
    if values.dtype == np.uint16:
        return np.take(_table(low, high), values)
    wide: np.ndarray = _wide(values)
    if values.dtype.kind == "f":
        wide[np.isnan(wide) | (np.isfinite(wide) & (np.abs(wide) >= NO_DATA))] = low
    scaled = (np.clip(wide, low, high) - low) * (255.0 / max(high - low, 1e-12))
    pixels: np.ndarray = np.round(scaled).astype(np.uint8)
    return pixels


def _wide(values: np.ndarray) -> np.ndarray:
    """Return a copy in float64, without warnings about nan."""
    with np.errstate(invalid="ignore"):
        wide: np.ndarray = values.astype(np.float64)
        return wide


@lru_cache(maxsize=8)
def _table(low: float, high: float) -> np.ndarray:
    return to_uint8(np.arange(65536, dtype=np.float64), low, high)


def _band_to_rgb(band: np.ndarray, raster: Raster, low: float, high: float) -> Image.Image:
    colours = band[..., :-1] if raster.alpha else band
    if raster.palette is not None:
        picture = Image.fromarray(
            np.take(raster.palette, np.minimum(colours[..., 0], len(raster.palette) - 1), axis=0)
        )
    else:
        pixels = to_uint8(colours, low, high)
        pixels = np.ascontiguousarray(255 - pixels if raster.is_inverted else pixels)
        size = (band.shape[1], band.shape[0])
        picture = Image.frombytes(raster.mode, size, pixels.tobytes()).convert("RGB")
    if raster.transparent is not None:
        opaque = np.where((colours == raster.transparent).all(axis=-1), 0, 255)
        return _over_background(picture, opaque.astype(np.uint8), "RGBA")
    if raster.alpha:
        most = 1.0 if band.dtype.kind == "f" else raster.white or float(np.iinfo(band.dtype).max)
        alpha = to_uint8(band[..., -1], 0.0, most)
        return _over_background(picture, alpha, "RGBA" if raster.alpha == "straight" else "RGBa")
    return picture


def _over_background(picture: Image.Image, alpha: np.ndarray, mode: str) -> Image.Image:
    """Return an RGB image composited over `ALPHA_COLOUR`."""
    return to_rgb(Image.merge(mode, [*picture.split(), Image.fromarray(alpha)]))


def _of_height(bands: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Yield the same rows in bands of `rows`, the last one shorter."""
    waiting: list[np.ndarray] = []
    count = 0
    for band in bands:
        while len(band):
            part = band[: rows - count]
            band = band[len(part) :]
            waiting.append(part)
            count += len(part)
            if count == rows:
                yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
