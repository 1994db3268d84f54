"""Whether two pictures are one: laid over each other as exactly as possible, then compared.

Pictures that merely look alike, such as two daisies on grass, agree in their large shapes; copies
agree in their details as well. So what is compared is what a blur takes away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

DETAIL_SIDE = 96  # of the pictures compared, px
COARSE_STEPS, FINE_STEPS = 5, 3
COARSE_MIN = 0.6  # agreement at half the size below which nobody looks closer
SHIFT_MAX, STRETCH_MAX = 0.35, 1.5  # of half a side; from the start, beyond which nothing is found
MARGIN = 2  # px at the border that are not compared


class Place(NamedTuple):
    """Where in one picture the whole of another lies.

    Attributes:
        scale: The other's side as a part of the one's.
        x: Of the other's middle, where the one's left and right are -1 and 1.
        y: Likewise, down.
    """

    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0


WHOLE = Place()


def detail_agreement(one: np.ndarray, other: np.ndarray, start: Place = WHOLE) -> float:
    """Correlation of the details of two pictures after the best shift and stretch.

    Args:
        one: (DETAIL_SIDE, DETAIL_SIDE) grey, float32.
        other: Likewise.
        start: Where in `one` the whole of `other` may lie: where the search begins.

    Returns:
        In [-1, 1]; 0 where there is nothing to compare.

    Source: Lucas & Kanade 1981 (least squares on the gradient), here for a shift and a scale in
    either direction and a change of brightness and contrast; first at half the size.
    """
    begun = np.array([start.scale, start.x, start.scale, start.y])
    place, agreement = begun, 0.0
    coarse = (_halved(one), _halved(other), COARSE_STEPS)
    for source, target, steps in (coarse, (one, other, FINE_STEPS)):
        smooth_source, smooth_target = gaussian_filter(source, 1.0), gaussian_filter(target, 1.0)
        for _ in range(steps):
            place = place + _step(smooth_source, smooth_target, place)
            if not _is_near(place, begun):
                return 0.0
        agreement = _correlation_of_details(source, target, place)
        if agreement < COARSE_MIN:
            break
    return agreement


def _halved(picture: np.ndarray) -> np.ndarray:
    side = len(picture) // 2
    return np.asarray(picture.reshape(side, 2, side, 2).mean(axis=(1, 3)))


def _is_near(place: np.ndarray, begun: np.ndarray) -> bool:
    scales, shifts = place[::2] / begun[::2], place[1::2] - begun[1::2]
    within = (scales < STRETCH_MAX) & (scales > 1 / STRETCH_MAX) & (abs(shifts) < SHIFT_MAX)
    return bool(within.all())


def _correlation_of_details(source: np.ndarray, target: np.ndarray, place: np.ndarray) -> float:
    moved, seen = _moved(source, place)
    seen[:MARGIN] = seen[-MARGIN:] = False
    seen[:, :MARGIN] = seen[:, -MARGIN:] = False
    blur = len(source) / 32
    first, second = ((one - gaussian_filter(one, blur))[seen] for one in (moved, target))
    if 4 * first.size < source.size or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _step(source: np.ndarray, target: np.ndarray, place: np.ndarray) -> np.ndarray:
    """One step of the search: the change of (x scale, x shift, y scale, y shift)."""
    moved, seen = _moved(source, place)
    size = len(source)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    down, across = np.gradient(moved, 2 / (size - 1))
    # d moved / d shift = gradient / scale, for the gradient is taken where it has been moved to.
    across, down = across / place[0], down / place[2]
    columns = [across * axis, across, down * axis[:, None], down, moved, np.ones_like(moved)]
    a = np.stack([column[seen] for column in columns], axis=1)
    normal = a.T @ a
    normal[np.diag_indices(4)] += 1e-4 * np.trace(normal[:4, :4]) / 4 + 1e-6
    solved = np.linalg.lstsq(normal, a.T @ target[seen], rcond=None)[0]
    gain = solved[4] if abs(solved[4]) > 0.1 else 1.0
    return np.asarray(np.clip(solved[:4] / gain, -0.1, 0.1))


def _moved(picture: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture seen through a window at `place`, and which of its pixels lie in it."""
    across, in_x = _resampler(len(picture), place[0], place[1])
    down, in_y = _resampler(len(picture), place[2], place[3])
    return down @ picture @ across.T, in_y[:, None] & in_x


def _resampler(size: int, scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """(size, size) weights of linear interpolation, and which positions lie inside."""
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
