"""Layout of the samples of a TIFF, and an explicit table of the supported layouts.

Imaging libraries misread many layouts of scanners, instruments and radiography: inverted, one
channel only, noise. A layout that is not in the table is refused.
Source: TIFF 6.0 (Adobe 1992), and its Technical Notes 1 to 3 (predictors, JPEG, floats).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swinclf.data import tiff_tags as tags
from swinclf.data.tiff_tags import Directory

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, INDEXED, SEPARATED, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
NONE, CCITT, OLD_JPEG, JPEG = 1, (2, 3, 4), 6, 7
BYTE_CODECS = {NONE, 5, 8, 32946, 32773, 34925, 50000}  # LZW, deflate, PackBits, LZMA, Zstandard
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, INDEXED: 1, SEPARATED: 4, YCBCR: 3, LAB: 3}
_PHOTOMETRIC = {0: "MinIsWhite", 1: "MinIsBlack", 2: "RGB", 3: "palette", 4: "mask"} | {
    5: "separated",
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "CFA",
    32844: "LogL",
    32845: "LogLuv",
    34892: "LinearRaw",
}
_FORMATS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex int", 6: "complex float"}
_BITS = {"uint": {*range(1, 17), 32, 64}, "int": {8, 16, 32, 64}, "float": {16, 32, 64}}
_ASSOCIATED, _UNASSOCIATED, _COREL = 1, 2, 999
MAX_SAMPLES = 64


@dataclass(frozen=True)
class TiffLayout:
    """Layout of the samples of a page."""

    width: int
    height: int
    samples: int  # per pixel
    bits: int  # per sample
    form: str  # uint, int, float, or an unsupported form
    photometric: int  # photometric interpretation, TIFF's number
    is_planar: bool  # whether each channel is stored separately
    compression: int  # TIFF's number
    predictor: int  # 1 none, 2 differences, 3 differences of the bytes of floats
    fill_order: int  # 2 if the bits of each byte are reversed
    extra: tuple[int, ...]  # meaning of the samples beyond the colours, TIFF's numbers
    is_little_endian: bool  # byte order

    @property
    def stored_bits(self) -> int:
        """Bits of the type that a sample is unpacked to."""
        return next(bits for bits in (8, 16, 32, 64) if self.bits <= bits)

    @property
    def colours(self) -> int:
        """Number of colour channels; 0 for an unsupported photometric interpretation."""
        return _COLOURS.get(self.photometric, 0)

    @property
    def alpha(self) -> int | None:
        """Index of the alpha channel, if there is one."""
        if not self.extra and self.photometric == RGB and self.samples == 4:
            return 3  # alpha that many programs do not declare
        for number, kind in enumerate(self.extra):
            if kind in (_ASSOCIATED, _UNASSOCIATED, _COREL):
                return self.colours + number
        return None

    @property
    def is_premultiplied(self) -> bool:
        """Whether the colours are multiplied with alpha."""
        number = (self.alpha or 0) - self.colours
        return self.alpha is not None and self.extra[number : number + 1] == (_ASSOCIATED,)

    def __str__(self) -> str:
        """Return the layout in the terms of TIFF."""
        kind = _PHOTOMETRIC.get(self.photometric, f"photometric {self.photometric}")
        channels = f"{self.samples} x " if self.samples > 1 else ""
        planes = ", planar" if self.is_planar else ""
        return f"TIFF of {channels}{self.bits}-bit {self.form} {kind}{planes}"


def read_layout(page: Directory) -> TiffLayout:
    """Return the layout that a directory declares.

    Raises:
        ValueError: If there is no size, or the channels differ in type.
    """
    width, height = page.number(tags.WIDTH), page.number(tags.HEIGHT)
    if width < 1 or height < 1:
        raise ValueError("a TIFF without a size")
    compression = page.number(tags.COMPRESSION, NONE)
    samples = page.number(tags.SAMPLES, 3 if compression == OLD_JPEG else 1)
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"a TIFF of {samples:,} samples a pixel")
    bits = _common(page.numbers(tags.BITS, (1,)), samples, "bits a sample")
    form = _common(page.numbers(tags.SAMPLE_FORMAT, (1,)), samples, "sample formats")
    extra = tuple(int(one) for one in page.numbers(tags.EXTRA_SAMPLES)[:MAX_SAMPLES])
    return TiffLayout(
        width=width,
        height=height,
        samples=samples,
        bits=bits,
        form=_FORMATS.get(form, f"format {form}"),
        photometric=page.number(tags.PHOTOMETRIC, YCBCR if compression == OLD_JPEG else 0),
        is_planar=samples > 1 and page.number(tags.PLANAR, 1) == 2,
        compression=compression,
        predictor=page.number(tags.PREDICTOR, 1) if compression in BYTE_CODECS else 1,
        fill_order=page.number(tags.FILL_ORDER, 1),
        extra=extra,
        is_little_endian=page.order == "<",
    )


def why_not_layout(layout: TiffLayout, page: Directory) -> str:
    """Return why a layout is not supported; empty if it is."""
    reason = _why_not_samples(layout, page) or _why_not_coded(layout, page)
    return f"{layout}: {reason}" if reason else ""


def _why_not_samples(layout: TiffLayout, page: Directory) -> str:
    one = layout
    if not one.colours:
        return "this photometric interpretation is not supported"
    if one.bits not in _BITS.get(one.form, ()):
        return "this sample format is not supported"
    unknown = one.samples - one.colours
    if unknown < 0:
        return f"{one.colours} samples a pixel are needed"
    if unknown and one.colours == 1 and one.alpha != 1 or unknown > 1 and one.alpha is None:
        return f"it is not known which of the {one.samples} channels are the image"
    if page.number(tags.DEPTH, 1) > 1:
        return "a volume, not an image"
    if one.photometric == SEPARATED and (
        page.number(tags.INK_SET, 1) != 1 or one.form != "uint" or one.bits not in (8, 16)
    ):
        return "inks other than 8 or 16-bit CMYK are not supported"
    if one.photometric in (YCBCR, LAB) and (one.form, one.bits) != ("uint", 8):
        return "only 8 bits a sample are supported"
    if one.photometric == INDEXED and one.form != "uint":
        return "a palette needs unsigned integers"
    if one.form == "int" and one.alpha is not None:
        return "signed transparency is not supported"
    return ""


def _why_not_coded(layout: TiffLayout, page: Directory) -> str:
    one = layout
    plain = (one.form, one.bits) == ("uint", 8) and not one.is_planar
    if one.compression in CCITT:
        return "" if (one.bits, one.samples) == (1, 1) else "fax compression is for 1 bit"
    if one.compression in (JPEG, OLD_JPEG):
        known = plain and one.samples == one.colours
        known = known and one.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR, SEPARATED)
        return "" if known else "JPEG compression of this layout is not supported"
    if one.compression not in BYTE_CODECS:
        return f"compression {one.compression} is not supported"
    if one.photometric == YCBCR and not _is_plain_ycbcr(page):
        return "YCbCr with subsampling, or of other primaries, is only supported in JPEG"
    needs = {1: True, 2: one.bits in (8, 16, 32, 64), 3: one.form == "float"}
    if not needs.get(one.predictor, False):
        return f"predictor {one.predictor} is not supported"
    return ""


def _is_plain_ycbcr(page: Directory) -> bool:
    """Return whether YCbCr is as in JPEG: full range, ITU-R 601, no subsampling."""
    subsampling = page.numbers(tags.YCBCR_SUBSAMPLING, (2, 2)).tolist()
    primaries = page.numbers(tags.YCBCR_COEFFICIENTS, (0.299, 0.587, 0.114))
    levels = page.numbers(tags.BLACK_WHITE, (0, 255, 128, 255, 128, 255))
    return (
        subsampling == [1, 1]
        and np.allclose(primaries, (0.299, 0.587, 0.114), atol=1e-3)
        and np.allclose(levels, (0, 255, 128, 255, 128, 255), atol=1)
    )


def main_page(pages: Sequence[Directory]) -> Directory:
    """Return the page of the image: the first that is neither a thumbnail nor a mask.

    Raises:
        ValueError: If the channels of one image are stored as pages, or might be.
    """
    whole = [page for page in pages if not page.number(tags.SUBFILE_TYPE) & 0b101]
    first = (whole or pages)[0]
    if (reason := _why_not_stack(first, whole or pages)) != "":
        raise ValueError(reason)
    return first


def _why_not_stack(first: Directory, pages: Sequence[Directory]) -> str:
    """Return why the first of several pages may be only one channel; empty if it is an image."""
    channels = _declared_channels(first.text(tags.DESCRIPTION))
    grey = first.number(tags.SAMPLES, 1) == 1 and first.number(tags.PHOTOMETRIC) != INDEXED
    if channels and grey:
        return f"TIFF of {channels} stored as pages: save one image a file, with its channels in it"
    if channels is not None or not grey or len(pages) not in (3, 4):
        return ""
    is_document = any(
        tags.PAGE_NUMBER in page or page.number(tags.SUBFILE_TYPE) & 2 for page in pages
    )
    same = ((tags.WIDTH, 0), (tags.HEIGHT, 0), (tags.BITS, 1), (tags.SAMPLES, 1))
    is_bilevel = first.number(tags.BITS, 1) == 1
    differ = any(page.number(*tag) != first.number(*tag) for page in pages for tag in same)
    if is_document or is_bilevel or differ:
        return ""
    return (
        f"TIFF of {len(pages)} grey pages of one size, which may be the channels of one image: "
        "save one image a file, with its channels in it"
    )


def _declared_channels(text: str) -> str | None:
    """Return what an image description declares of channels in pages: "" none, None unknown."""
    if text.startswith("ImageJ=") or "<OME" in text[:2000]:
        found = re.search(r'^channels=(\d+)|SizeC="(\d+)"', text, re.MULTILINE)
        count = int(found[1] or found[2]) if found else 1
        return f"{count} channels" if count > 1 else ""
    if not (text.startswith("{") and '"shape"' in text):  # the format of tifffile
        return None
    try:
        described = json.loads(text)
        shape = [int(side) for side in described["shape"]]
        axes = str(described.get("axes", ""))
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        return None
    is_named = len(axes) == len(shape)  # then C are channels, others frames or slices
    is_series = "C" not in axes if is_named else max(shape[:-2], default=1) == 1
    return "" if is_series else f"an array of shape {shape}"


def _common(values: np.ndarray, samples: int, what: str) -> int:
    """Return the value that all channels share."""
    found = {int(value) for value in values[:samples]}
    if len(found) != 1:
        raise ValueError(f"a TIFF of different {what} in one pixel: {sorted(found)}")
    return found.pop()
