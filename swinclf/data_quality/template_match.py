"""Where in a picture another one may lie: its place and size, from a glance at both.

The details of one, shrunk to several sizes, are tried everywhere in the other; where they agree
best, an exact alignment may begin (`align`). Knows nothing about files.

Source: Lewis 1995, "Fast template matching": the correlation by a Fourier transform, the norm of
each window by running sums.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter

from swinclf.data_quality.registration import Place

GLANCE_SIDE = 48  # of the pictures compared, px
SIZES = tuple(round(GLANCE_SIDE * part) for part in (1.0, 0.93, 0.86, 0.79, 0.73, 0.67, 0.62))
BLUR = 3.0  # px; what it takes away are the details
FLAT = 1.0  # of 255: details below it are noise


class Glance(NamedTuple):
    """A picture made ready to be looked for, and to be looked into.

    Attributes:
        spectrum: (side, side // 2 + 1) complex64, of its details.
        shrunk: (sizes, side, side // 2 + 1) complex64, of its details at each size, of norm 1;
            conjugate.
        norms: (sizes, side, side) float32: of the details in the window of each size that begins
            there; infinite where it would stand out.
    """

    spectrum: np.ndarray
    shrunk: np.ndarray
    norms: np.ndarray


def glance(grey: np.ndarray) -> Glance:
    """Makes a picture ready.

    Args:
        grey: (GLANCE_SIDE, GLANCE_SIDE), of 255.
    """
    picture = grey.astype(np.float32)
    own = _details(picture)
    pieces = [_details(_shrinker(size) @ picture @ _shrinker(size).T) for size in SIZES]
    units = [(piece - piece.mean()) / max(piece.std() * piece.shape[0], FLAT) for piece in pieces]
    shrunk = np.stack([np.conj(rfft2(one, (GLANCE_SIDE, GLANCE_SIDE))) for one in units])
    return Glance(rfft2(own), shrunk, _norms(own))


def likely_place(whole: Glance, part: Glance) -> tuple[float, Place]:
    """Where in one picture the whole of another lies, if it does.

    Returns:
        The correlation of their details there, in [-1, 1], and the place.
    """
    found = irfft2(whole.spectrum * part.shrunk, (GLANCE_SIDE, GLANCE_SIDE)) / whole.norms
    which, top, left = np.unravel_index(found.argmax(), found.shape)
    size = SIZES[which]
    x, y = ((2 * int(start) + size) / GLANCE_SIDE - 1 for start in (left, top))
    return float(found[which, top, left]), Place(size / GLANCE_SIDE, x, y)


def _details(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture - gaussian_filter(picture, BLUR))


def _norms(details: np.ndarray) -> np.ndarray:
    norms = np.full((len(SIZES), GLANCE_SIDE, GLANCE_SIDE), np.inf, dtype=np.float32)
    sums, squares = (_running_sums(details.astype(np.float64) ** power) for power in (1, 2))
    for row, size in enumerate(SIZES):
        spread = _windows(squares, size) - _windows(sums, size) ** 2 / size**2
        room = GLANCE_SIDE - size + 1
        norms[row, :room, :room] = np.sqrt(np.maximum(spread, (FLAT * size) ** 2))
    return norms


def _running_sums(values: np.ndarray) -> np.ndarray:
    return np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _windows(sums: np.ndarray, size: int) -> np.ndarray:
    """The sum over every window of a size."""
    return np.asarray(
        sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    )


@lru_cache(maxsize=len(SIZES))
def _shrinker(size: int) -> np.ndarray:
    """(size, GLANCE_SIDE) weights that average what falls together."""
    edges = np.linspace(0, GLANCE_SIDE, size + 1)[:, None]
    at = np.arange(GLANCE_SIDE)
    shared = np.minimum(edges[1:], at + 1) - np.maximum(edges[:-1], at)
    weights = shared.clip(0).astype(np.float32)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
