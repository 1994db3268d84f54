"""Image registration: align two images, then correlate their details.

Images of similar scenes, such as two daisies on grass, share their low frequencies; duplicates
share the high ones as well. So the images are high-pass filtered before they are correlated.

Where one image is an unknown crop of the other, registration starts at the best match of one as a
template in the other, at several scales.

Source: Lewis 1995, "Fast template matching": the correlation by a Fourier transform, the norm of
each window by running sums.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter, uniform_filter

DETAIL_SIDE = 96  # of the images compared, px
COARSE_STEPS, FINE_STEPS = 5, 3
COARSE_MIN = 0.6  # agreement at half the size below which the fine level is skipped
SHIFT_MAX, STRETCH_MAX = 0.35, 1.5  # largest change from the start: of half a side; a factor
MARGIN = 2  # px at the border that are not compared


class CropWindow(NamedTuple):
    """Position of one image as a square window of another."""

    scale: float = 1.0  # side of the window over the side of the whole image
    x: float = 0.0  # centre of the window, from -1 (left edge) to 1 (right edge)
    y: float = 0.0  # likewise, downwards


FULL_WINDOW = CropWindow()


def detail_agreement(one: np.ndarray, other: np.ndarray, start: CropWindow = FULL_WINDOW) -> float:
    """Return the correlation of the details of two images after registration.

    Both are (DETAIL_SIDE, DETAIL_SIDE) grey, float32; `start` is the initial window of `other` in
    `one`.

    Returns:
        In [-1, 1]; 0 if the registration fails or there are no details.

    Source: Lucas & Kanade 1981 (least squares on the gradient), here for shift and scale along
    each axis and a change of brightness and contrast; first at half the size.
    """
    begun = np.array([start.scale, start.x, start.scale, start.y])
    window, agreement = begun, 0.0
    coarse = (_halved(one), _halved(other), COARSE_STEPS)
    for source, target, steps in (coarse, (one, other, FINE_STEPS)):
        smooth_source, smooth_target = gaussian_filter(source, 1.0), gaussian_filter(target, 1.0)
        for _ in range(steps):
            window = window + _step(smooth_source, smooth_target, window)
            if not _is_near(window, begun):
                return 0.0
        agreement = _correlation_of_details(source, target, window)
        if agreement < COARSE_MIN:
            break
    return agreement


def _halved(picture: np.ndarray) -> np.ndarray:
    side = len(picture) // 2
    return np.asarray(picture.reshape(side, 2, side, 2).mean(axis=(1, 3)))


def _is_near(window: np.ndarray, begun: np.ndarray) -> bool:
    scales, shifts = window[::2] / begun[::2], window[1::2] - begun[1::2]
    within = (scales < STRETCH_MAX) & (scales > 1 / STRETCH_MAX) & (abs(shifts) < SHIFT_MAX)
    return bool(within.all())


def _correlation_of_details(source: np.ndarray, target: np.ndarray, window: np.ndarray) -> float:
    warped, inside = _warped(source, window)
    inside[:MARGIN] = inside[-MARGIN:] = False
    inside[:, :MARGIN] = inside[:, -MARGIN:] = False
    blur = len(source) / 32
    first, second = ((one - gaussian_filter(one, blur))[inside] for one in (warped, target))
    if 4 * first.size < source.size or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _step(source: np.ndarray, target: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return the Gauss-Newton update of (x scale, x shift, y scale, y shift)."""
    warped, inside = _warped(source, window)
    size = len(source)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    down, across = np.gradient(warped, 2 / (size - 1))
    # d warped / d shift = gradient / scale, for the gradient is taken after warping.
    across, down = across / window[0], down / window[2]
    columns = [across * axis, across, down * axis[:, None], down, warped, np.ones_like(warped)]
    a = np.stack([column[inside] for column in columns], axis=1)
    normal = a.T @ a
    normal[np.diag_indices(4)] += 1e-4 * np.trace(normal[:4, :4]) / 4 + 1e-6
    solved = np.linalg.lstsq(normal, a.T @ target[inside], rcond=None)[0]
    gain = solved[4] if abs(solved[4]) > 0.1 else 1.0
    return np.asarray(np.clip(solved[:4] / gain, -0.1, 0.1))


def _warped(image: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the window resampled to the full size, and the mask of pixels inside the image."""
    across, in_x = _resampler(len(image), window[0], window[1])
    down, in_y = _resampler(len(image), window[2], window[3])
    return down @ image @ across.T, in_y[:, None] & in_x


def _resampler(size: int, scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (size, size) linear interpolation weights and the mask of positions inside."""
    axis = np.linspace(-1, 1, size)
    at = (scale * axis + shift + 1) * (size - 1) / 2
    inside = (at >= -0.5) & (at <= size - 0.5)
    at = at.clip(0, size - 1)
    left = np.minimum(at.astype(int), size - 2)
    weights = np.zeros((size, size), dtype=np.float32)
    rows = np.arange(size)
    weights[rows, left] = 1 - (at - left)
    weights[rows, left + 1] = at - left
    return weights, inside


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
    powers = details.astype(np.float64), details.astype(np.float64) ** 2
    for row, size in enumerate(SIZES):
        room = MATCH_SIDE - size + 1
        whole = np.s_[size // 2 : size // 2 + room]  # centres of the windows within the image
        mean, square = (uniform_filter(one, size)[whole, whole] for one in powers)
        spread = np.maximum(square - mean**2, FLAT**2)
        norms[row, :room, :room] = size * np.sqrt(spread)
    return norms


@lru_cache(maxsize=len(SIZES))
def _shrinker(size: int) -> np.ndarray:
    """Return (size, MATCH_SIDE) weights of area averaging."""
    edges = np.linspace(0, MATCH_SIDE, size + 1)[:, None]
    at = np.arange(MATCH_SIDE)
    shared = np.minimum(edges[1:], at + 1) - np.maximum(edges[:-1], at)
    weights = shared.clip(0).astype(np.float32)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
