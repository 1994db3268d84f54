"""Fingerprints of images that survive re-encoding, resizing and a slight crop.

The low DCT frequencies of a small grey image, as in a perceptual hash, but as real numbers rather
than signs, so that distances measure similarity.

Source: the DCT hash of Zauner, "Implementation and benchmarking of perceptual image hash
functions", 2010, sec. 3.2.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.fft import dct

SIDE = 64  # of the small image, px
ORDER = 8  # frequencies u, v with u + v up to this are used
CROPS = (1.0, 0.96, 0.92, 0.88)  # centre crops, as parts of each side
LENGTH = (ORDER + 1) * (ORDER + 2) // 2 - 1  # numbers of a fingerprint: all but the mean

# Low frequencies first: they vary most between images.
_ORDERED = sorted(
    ((u, v) for u in range(ORDER + 1) for v in range(ORDER + 1 - u) if u or v),
    key=lambda one: (sum(one), one),
)
_ROWS, _COLUMNS = (np.array(one) for one in zip(*_ORDERED, strict=True))


def small_grey(picture: Image.Image, side: int = SIDE) -> np.ndarray:
    """Return the image as (side, side) grey, float32, regardless of its aspect ratio."""
    grey = picture.convert("L").resize((side, side), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def fingerprints(grey: np.ndarray) -> np.ndarray:
    """Return the fingerprints of a (SIDE, SIDE) float32 image and of its centre crops.

    (len(CROPS), LENGTH) float32, each row of norm 1, or near 0 for a uniform image.
    """
    values = (_BASES @ grey @ _BASES.transpose(0, 2, 1))[:, _ROWS, _COLUMNS]
    norm = np.sqrt(np.einsum("ij,ij->i", values, values))
    return np.asarray(values / np.maximum(norm, 1.0)[:, None])


def mirrored(prints: np.ndarray) -> np.ndarray:
    """Return the fingerprints of the mirror images: odd horizontal cosines change their sign."""
    return np.where(_COLUMNS % 2, -prints, prints)


def _basis(part: float) -> np.ndarray:
    """Return (ORDER + 1, SIDE) float32: cosines over the centre of a side, 0 outside."""
    low = round(SIDE * (1 - part) / 2)
    inner = dct(np.eye(SIDE - 2 * low, dtype=np.float32), norm="ortho", axis=0)[: ORDER + 1]
    return np.pad(inner, ((0, 0), (low, low)))


_BASES = np.stack([_basis(part) for part in CROPS])
