"""Template matching: the position and scale of one image inside another.

The high-pass filtered template is correlated at several scales; the best match is where
registration starts.

Source: Lewis 1995, "Fast template matching": the correlation by a Fourier transform, the norm of
each window by running sums.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter

from swinclf.data_quality.registration import CropWindow

MATCH_SIDE = 48  # of the images compared, px
SIZES = tuple(round(MATCH_SIDE * part) for part in (1.0, 0.93, 0.86, 0.79, 0.73, 0.67, 0.62))
BLUR = 3.0  # sigma of the high-pass filter, px
FLAT = 1.0  # of 255: details below it are noise


class MatchSpectra(NamedTuple):
    """Precomputed spectra of an image, as a template and as an image to search."""

    spectrum: np.ndarray  # (side, side // 2 + 1) complex64, of its details
    # (sizes, side, side // 2 + 1) complex64, of its details at each size, of norm 1; conjugate
    shrunk: np.ndarray
    # (sizes, side, side) float32: of the details in the window of each size that starts there;
    # infinite where the window would exceed the image
    norms: np.ndarray


def match_spectra(grey: np.ndarray) -> MatchSpectra:
    """Return the spectra of a (MATCH_SIDE, MATCH_SIDE) grey image with values up to 255."""
    picture = grey.astype(np.float32)
    own = _details(picture)
    pieces = [_details(_shrinker(size) @ picture @ _shrinker(size).T) for size in SIZES]
    units = [(piece - piece.mean()) / max(piece.std() * piece.shape[0], FLAT) for piece in pieces]
    shrunk = np.stack([np.conj(rfft2(one, (MATCH_SIDE, MATCH_SIDE))) for one in units])
    return MatchSpectra(rfft2(own), shrunk, _norms(own))


def locate_crop(whole: MatchSpectra, part: MatchSpectra) -> tuple[float, CropWindow]:
    """Return the best correlation of `part` inside `whole`, in [-1, 1], and its window."""
    found = irfft2(whole.spectrum * part.shrunk, (MATCH_SIDE, MATCH_SIDE)) / whole.norms
    which, top, left = np.unravel_index(found.argmax(), found.shape)
    size = SIZES[which]
    x, y = ((2 * int(start) + size) / MATCH_SIDE - 1 for start in (left, top))
    return float(found[which, top, left]), CropWindow(size / MATCH_SIDE, x, y)


def _details(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture - gaussian_filter(picture, BLUR))


def _norms(details: np.ndarray) -> np.ndarray:
    norms = np.full((len(SIZES), MATCH_SIDE, MATCH_SIDE), np.inf, dtype=np.float32)
    sums, squares = (_running_sums(details.astype(np.float64) ** power) for power in (1, 2))
    for row, size in enumerate(SIZES):
        spread = _windows(squares, size) - _windows(sums, size) ** 2 / size**2
        room = MATCH_SIDE - size + 1
        norms[row, :room, :room] = np.sqrt(np.maximum(spread, (FLAT * size) ** 2))
    return norms


def _running_sums(values: np.ndarray) -> np.ndarray:
    return np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _windows(sums: np.ndarray, size: int) -> np.ndarray:
    """Return the sum over every window of a size, from running sums."""
    return np.asarray(
        sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    )


@lru_cache(maxsize=len(SIZES))
def _shrinker(size: int) -> np.ndarray:
    """Return (size, MATCH_SIDE) weights of area averaging."""
    edges = np.linspace(0, MATCH_SIDE, size + 1)[:, None]
    at = np.arange(MATCH_SIDE)
    shared = np.minimum(edges[1:], at + 1) - np.maximum(edges[:-1], at)
    weights = shared.clip(0).astype(np.float32)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
