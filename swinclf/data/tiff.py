"""TIFF decoding: through Pillow for the layouts that it decodes correctly, here for all others.

Either way a decoder gets a directory written here with only the tags needed for decoding: metadata,
good or broken, is never read. Decompression is left to libtiff also for the layouts decoded here:
each run of rows is passed to it as 8-bit grey, which returns the original bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import TiffImagePlugin

from swinclf.data import tiff_layout as layouts
from swinclf.data import tiff_tags as tags
from swinclf.data.raster import BAND_PIXELS, Raster
from swinclf.data.tiff_layout import TiffLayout, main_page, read_layout, why_not_layout
from swinclf.data.tiff_tags import Directory, read_directories, replace_directory

BAND_BYTES = 8 * 1024**2  # decompressed at once, if the file allows it
MAX_STRIP_BYTES = 256 * 1024**2  # of one strip, or one row of tiles, with all its planes
MAX_RAW_BYTES = 2 * 1024**3  # of the whole image, decompressed: bounds the decoding time
MAX_SEGMENTS = 4_000_000
_MOST_TOGETHER = 256  # strips, or rows of tiles
_CODEC_OVERHEAD = 65_536  # compressed data is at most twice the raw size plus this
_PAGES = 5

# (photometric, samples, bits, alpha): what Pillow decodes correctly, with interleaved channels.
_PILLOWS = {
    (layouts.WHITE_IS_ZERO, 1, 1, None),
    (layouts.BLACK_IS_ZERO, 1, 1, None),
    (layouts.WHITE_IS_ZERO, 1, 8, None),
    (layouts.BLACK_IS_ZERO, 1, 8, None),
    (layouts.RGB, 3, 8, None),
    (layouts.RGB, 4, 8, 3),
    (layouts.SEPARATED, 4, 8, None),
}
_PILLOWS_TAGS = (
    *(tags.WIDTH, tags.HEIGHT, tags.BITS, tags.COMPRESSION, tags.PHOTOMETRIC, tags.FILL_ORDER),
    *(tags.STRIP_OFFSETS, tags.SAMPLES, tags.ROWS_PER_STRIP, tags.STRIP_SIZES, tags.PREDICTOR),
    *(tags.TILE_WIDTH, tags.TILE_HEIGHT, tags.TILE_OFFSETS, tags.TILE_SIZES),
    *(tags.EXTRA_SAMPLES, tags.YCBCR_SUBSAMPLING),
)
_CODEC_TAGS = {
    **dict.fromkeys(layouts.CCITT, (292, 293)),
    layouts.OLD_JPEG: tuple(range(512, 522)),
    layouts.JPEG: (347,),
}


@dataclass(frozen=True)
class Tiff:
    """A TIFF whose directory has been read."""

    layout: TiffLayout
    orientation: int  # as in EXIF, 1 to 8; 1 is upright
    page: Directory

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored, px."""
        return self.layout.width, self.layout.height

    @property
    def is_decoded_by_pillow(self) -> bool:
        """Whether Pillow decodes this layout correctly."""
        one = self.layout
        key = (one.photometric, one.samples, one.bits, one.alpha)
        if one.compression not in layouts.BYTE_CODECS:  # JPEG and fax, whose layout is checked
            return True
        return key in _PILLOWS and one.form == "uint" and not one.is_planar

    def for_pillow(self) -> bytes:
        """Return a file with this image and no metadata."""
        names = (*_PILLOWS_TAGS, *_CODEC_TAGS.get(self.layout.compression, ()))
        wanted = {tag: self.page.numbers(tag) for tag in names if tag in self.page}
        if self.layout.alpha is not None:
            wanted[tags.EXTRA_SAMPLES] = np.array([1 if self.layout.is_premultiplied else 2])
        wanted[tags.PHOTOMETRIC] = np.array([self.layout.photometric])
        return replace_directory(self.page.data, self.page.order, wanted)

    def raster(self) -> Raster:
        """Return the samples, decoded by this module.

        Raises:
            ValueError: If strips or tiles are misplaced or too large.
        """
        one = self.layout
        grid = _Grid.of(self.page, one)
        # Samples of other types, and amounts of ink, use the whole range of the type.
        is_declared = one.form == "uint" and one.bits not in (16, 32, 64)
        is_declared = is_declared or one.photometric == layouts.SEPARATED
        return Raster(
            size=self.size,
            kind=f"{one.form}{one.stored_bits}",
            mode=_MODES[one.photometric],
            bands=lambda: _bands(self.page, one, grid),
            white=float(2**one.bits - 1) if is_declared else None,
            is_inverted=one.photometric == layouts.WHITE_IS_ZERO,
            alpha=("premultiplied" if one.is_premultiplied else "straight") if one.alpha else "",
            palette=_palette(self.page, one) if one.photometric == layouts.INDEXED else None,
            band_bytes=4 * grid.band_bytes,
        )


_MODES = {
    layouts.WHITE_IS_ZERO: "L",
    layouts.BLACK_IS_ZERO: "L",
    layouts.RGB: "RGB",
    layouts.INDEXED: "P",
    layouts.SEPARATED: "CMYK",
    layouts.YCBCR: "YCbCr",
    layouts.LAB: "LAB",
}


def open_tiff(data: bytes) -> Tiff:
    """Read the directory of a TIFF file.

    Raises:
        ValueError: If there is none, or its layout is not supported; the message names it.
    """
    page = main_page(read_directories(data, _PAGES))
    layout = read_layout(page)
    if reason := why_not_layout(layout, page):
        raise ValueError(reason)
    try:
        orientation = page.number(tags.ORIENTATION, 1)
    except ValueError:
        orientation = 1
    return Tiff(layout, orientation, page)


def _palette(page: Directory, layout: TiffLayout) -> np.ndarray:
    """Return (2^bits, 3) uint8 colours."""
    table = page.numbers(tags.PALETTE)
    if len(table) != 3 * 2**layout.bits:
        raise ValueError(f"{layout}: a palette of {len(table):,} values")
    wide = table.reshape(3, -1).T
    is_narrow = wide.max() < 256  # some programs write 8 bits where 16 are meant
    return np.ascontiguousarray(wide if is_narrow else wide >> 8).astype(np.uint8)


@dataclass(frozen=True)
class _Grid:
    """Offsets and sizes of the strips or tiles of an image."""

    width: int  # of a strip or tile, px
    height: int  # of a strip or tile, px
    across: int  # tiles per row; 1 for strips
    down: int  # strips, or rows of tiles
    offsets: np.ndarray  # (planes, down, across) offsets in the file
    sizes: np.ndarray  # (planes, down, across) sizes, bytes
    row_bytes: int  # of one row of a strip or tile in one plane, decompressed
    is_tiled: bool  # whether they are tiles, which are padded at the edges

    @property
    def band_bytes(self) -> int:
        """Smallest number of bytes that is decompressed at once."""
        planes = len(self.offsets)
        return planes * self.row_bytes * self.height * self.across

    @classmethod
    def of(cls, page: Directory, layout: TiffLayout) -> _Grid:
        """Read the grid from the tags."""
        is_tiled = tags.TILE_OFFSETS in page
        width = page.number(tags.TILE_WIDTH) if is_tiled else layout.width
        height = (
            page.number(tags.TILE_HEIGHT)
            if is_tiled
            else min(page.number(tags.ROWS_PER_STRIP, layout.height), layout.height)
        )
        if width < 1 or height < 1:
            raise ValueError(f"{layout}: strips or tiles of {width} x {height} px")
        across, down = -(-layout.width // width), -(-layout.height // height)
        planes = layout.samples if layout.is_planar else 1
        count = planes * across * down
        if count > MAX_SEGMENTS:
            raise ValueError(f"{layout}: {count:,} strips or tiles")
        samples = 1 if layout.is_planar else layout.samples
        row_bytes = -(-width * samples * layout.bits // 8)
        offsets = page.numbers(tags.TILE_OFFSETS if is_tiled else tags.STRIP_OFFSETS)
        sizes = page.numbers(tags.TILE_SIZES if is_tiled else tags.STRIP_SIZES)
        if not len(sizes) and count == 1 and len(offsets):  # omitted by old programs
            sizes = np.array([len(page.data) - int(offsets[0])])
        if len(offsets) < count or len(sizes) < count:
            raise ValueError(f"{layout}: {len(offsets):,} of {count:,} strips or tiles")
        shape = (planes, down, across)
        return cls(
            width,
            height,
            across,
            down,
            offsets[:count].astype(np.int64).reshape(shape),
            sizes[:count].astype(np.int64).reshape(shape),
            row_bytes,
            is_tiled,
        ).divided(layout)

    def divided(self, layout: TiffLayout) -> _Grid:
        """Divide uncompressed strips into smaller ones; refuse those that are too large."""
        if self.band_bytes * self.down > MAX_RAW_BYTES:
            raise ValueError(
                f"{layout}: {self.band_bytes * self.down:,} bytes of samples; "
                f"the limit is {MAX_RAW_BYTES:,}"
            )
        small = max(1, BAND_BYTES // self.row_bytes)
        is_divisible = layout.compression == layouts.NONE and not self.is_tiled
        if is_divisible and self.down == 1 and self.height > small:
            starts = np.arange(0, self.height, small)
            rows = np.minimum(self.height - starts, small)
            if (self.sizes < self.height * self.row_bytes).any():
                raise ValueError("image data ends too early")
            offsets = self.offsets + starts[None, :, None] * self.row_bytes
            sizes = np.broadcast_to(rows[None, :, None] * self.row_bytes, offsets.shape)
            return replace(self, height=small, down=len(starts), offsets=offsets, sizes=sizes)
        if self.band_bytes > MAX_STRIP_BYTES:
            raise ValueError(
                f"{layout}: {self.band_bytes:,} bytes in one strip or row of tiles; "
                f"the limit is {MAX_STRIP_BYTES:,}"
            )
        return self


def _bands(page: Directory, layout: TiffLayout, grid: _Grid) -> Iterator[np.ndarray]:
    """Yield (rows, width, channels) from top to bottom: the colours, then alpha if any."""
    together = max(1, min(_MOST_TOGETHER, BAND_BYTES // max(1, grid.band_bytes)))
    for first in range(0, grid.down, together):
        last = min(grid.down, first + together)
        rows = min((last - first) * grid.height, layout.height - first * grid.height)
        planes = [
            _decompress(page, layout, grid, plane, first, last)
            for plane in range(len(grid.offsets))
        ]
        step = max(1, BAND_PIXELS // (grid.width * grid.across))
        for top in range(0, rows, step):
            parts = [_samples(one[top : min(rows, top + step)], layout, grid) for one in planes]
            band = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
            channels = list(range(layout.colours))
            if layout.alpha is not None:
                channels.append(layout.alpha)
            if len(channels) < band.shape[-1]:
                band = band[..., channels]
            yield band[:, : layout.width]


def _decompress(
    page: Directory, layout: TiffLayout, grid: _Grid, plane: int, first: int, last: int
) -> np.ndarray:
    """Return (rows, across, row_bytes) uint8: strips or rows of tiles of a plane, decompressed."""
    rows = (last - first) * grid.height
    if not grid.is_tiled:  # the last strip may be shorter
        rows = min(rows, layout.height - first * grid.height)
    offsets = grid.offsets[plane, first:last].ravel()
    sizes = grid.sizes[plane, first:last].ravel()
    most = 2 * grid.row_bytes * grid.height + _CODEC_OVERHEAD
    pieces = []
    for number, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        if offset <= 0 or size <= 0 or offset + size > len(page.data):
            raise ValueError("image data is outside the file")
        height = grid.height if grid.is_tiled else min(grid.height, rows - number * grid.height)
        if layout.compression == layouts.NONE and size < height * grid.row_bytes:
            raise ValueError("image data ends too early")  # the decoder would read on in the next
        pieces.append(page.data[offset : offset + min(size, most)])
    return _through_libtiff(pieces, layout, grid, rows)


def _through_libtiff(
    pieces: Sequence[bytes], layout: TiffLayout, grid: _Grid, rows: int
) -> np.ndarray:
    """Return the rows of strips or tiles, decoded as a file of 8-bit grey."""
    starts = 8 + np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    width = grid.across * grid.row_bytes
    described: dict[int, Sequence[int] | np.ndarray] = {
        tags.WIDTH: [width],
        tags.HEIGHT: [rows],
        tags.BITS: [8],
        tags.COMPRESSION: [layout.compression],
        tags.PHOTOMETRIC: [layouts.BLACK_IS_ZERO],
        tags.FILL_ORDER: [layout.fill_order],
        tags.SAMPLES: [1],
    }
    sizes = [len(piece) for piece in pieces]
    if grid.is_tiled:
        described |= {tags.TILE_WIDTH: [grid.row_bytes], tags.TILE_HEIGHT: [grid.height]}
        described |= {tags.TILE_OFFSETS: starts, tags.TILE_SIZES: sizes}
    else:
        described |= {tags.ROWS_PER_STRIP: [min(rows, grid.height)]}
        described |= {tags.STRIP_OFFSETS: starts, tags.STRIP_SIZES: sizes}
    file = replace_directory(b"".join([bytes(8), *pieces]), "<", described)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(file)) as picture:
        try:
            picture.load()
        except OSError as error:  # whose message is a number
            raise ValueError("image data is broken") from error
        return np.asarray(picture).reshape(rows, grid.across, grid.row_bytes)


def _samples(values: np.ndarray, layout: TiffLayout, grid: _Grid) -> np.ndarray:
    """Convert (rows, across, row_bytes) uint8 -> (rows, width of all tiles, samples of a plane)."""
    rows, across = values.shape[:2]
    samples = 1 if layout.is_planar else layout.samples
    count = grid.width * samples
    if layout.predictor == 3:
        unpacked = _undo_float_differences(values, samples, layout.bits // 8)
    elif layout.bits in (8, 16, 32, 64):
        order = "<" if layout.is_little_endian else ">"
        stored = np.ascontiguousarray(values).view(f"{order}u{layout.bits // 8}")
        unpacked = stored.astype(stored.dtype.newbyteorder("="))
        if layout.predictor == 2:
            pixels = unpacked.reshape(rows, across, grid.width, samples)
            unpacked = np.cumsum(pixels, axis=2, dtype=unpacked.dtype)
    else:
        unpacked = _unpack_bits(values, count, layout.bits)
    kind = {"uint": "u", "int": "i", "float": "f"}[layout.form] + str(layout.stored_bits // 8)
    typed = np.ascontiguousarray(unpacked).reshape(rows, across, count).view(kind)
    return typed.reshape(rows, across * grid.width, samples)


def _undo_float_differences(values: np.ndarray, samples: int, width: int) -> np.ndarray:
    """Undo predictor 3: differences of bytes, the bytes of a row grouped by significance."""
    rows, across, row_bytes = values.shape
    summed = np.cumsum(
        values.reshape(rows, across, row_bytes // samples, samples), axis=2, dtype=np.uint8
    )
    planes = summed.reshape(rows, across, width, row_bytes // width)
    whole = np.ascontiguousarray(planes.swapaxes(2, 3)).view(f">u{width}")
    return whole.astype(whole.dtype.newbyteorder("="))[..., 0]


def _unpack_bits(values: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Unpack samples of up to 16 bits, the most significant bit first."""
    rows, across = values.shape[:2]
    apart = np.unpackbits(values, axis=-1)[..., : count * bits].reshape(rows, across, count, bits)
    width = 8 if bits < 8 else 16
    padded = np.zeros((rows, across, count, width), np.uint8)
    padded[..., width - bits :] = apart
    packed = np.packbits(padded, axis=-1)
    if width == 8:
        return packed[..., 0]
    return packed.view(">u2")[..., 0].astype(np.uint16)
