"""The nearest fingerprints of each picture, without comparing every picture with every other.

Random planes cut the space into cells; near fingerprints mostly lie in the same one, and over many
tables of planes nearly surely in one of them. The work grows with the pictures, not with their
pairs, whatever they show: a search tree would be no faster than comparing all, in so many
dimensions. Knows nothing about pictures.

Source: Charikar 2002, "Similarity estimation techniques from rounding algorithms", sec. 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

TABLES = 24
SPARE_BITS = 4  # cells are 2**SPARE_BITS times as many as pictures
WINDOW = 8  # neighbours on either side in a cell that are looked at: pictures may all be alike
NEAREST = 8  # of each picture that are kept


class Near(NamedTuple):
    """Pairs of near fingerprints, as columns of equal length.

    Attributes:
        first: Rows.
        second: Rows, of whole pictures.
        crop: Which fingerprint of the first one is near.
        distance: How near.
    """

    first: np.ndarray
    second: np.ndarray
    crop: np.ndarray
    distance: np.ndarray

    def taken(self, which: np.ndarray) -> Near:
        """Some of the pairs."""
        return Near(*(column[which] for column in self))


def near_prints(prints: np.ndarray, within: float) -> Near:
    """Pairs of which some fingerprint of the first is near the whole of the second.

    Args:
        prints: (N, crops, numbers) of norm 1; crop 0 is the whole.
        within: Largest distance, below 1.

    Returns:
        Each unordered pair at most once, at its nearest.
    """
    found = _joined([])
    if len(prints) < 2:
        return found
    rng = np.random.default_rng(0)  # the same answer every time
    centre = prints[:, 0].mean(axis=0)
    bits = math.ceil(math.log2(len(prints))) + SPARE_BITS
    for _ in range(TABLES):
        planes = rng.normal(size=(prints.shape[2], bits + 1)).astype(np.float32)
        places = [_places(prints[:, crop] - centre, planes) for crop in range(prints.shape[1])]
        order = np.argsort(places[0])
        parts = [
            _close(prints, crop, _in_same_cell(own, places[0], order), within)
            for crop, own in enumerate(places)
        ]
        found = _nearest(_joined([found, *parts]))
    low, high = np.minimum(found.first, found.second), np.maximum(found.first, found.second)
    return _first_of_each(found, low * len(prints) + high)


def _places(points: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """(N,) float64: the number of each point's cell, and after the point its place within."""
    sides = points @ planes
    cells = (sides[:, :-1] > 0) @ (1 << np.arange(planes.shape[1] - 1))
    return np.asarray(cells + (0.5 + np.arctan(sides[:, -1]) / 4))


def _in_same_cell(
    own: np.ndarray, others: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `own` and of `others` that lie close in one cell."""
    ordered = others[order]
    steps = np.arange(-WINDOW, WINDOW)
    at = np.searchsorted(ordered, own)[:, None] + steps
    inside = (at >= 0) & (at < len(ordered))
    at = at.clip(0, len(ordered) - 1)
    first, step = np.nonzero(inside & (np.floor(ordered[at]) == np.floor(own)[:, None]))
    return first, order[at[first, step]]


def _close(
    prints: np.ndarray, crop: int, pairs: tuple[np.ndarray, np.ndarray], within: float
) -> Near:
    first, second = pairs
    different = first != second
    first, second = first[different], second[different]
    distance = np.linalg.norm(prints[first, crop] - prints[second, 0], axis=1)
    near = Near(first, second, np.full(len(first), crop), distance)
    return near.taken(distance < within)


def _nearest(near: Near) -> Near:
    """At most `NEAREST` others of each first, each once."""
    near = _first_of_each(near, near.first * (near.second.max(initial=0) + 1) + near.second)
    near = near.taken(np.lexsort((near.distance, near.first)))
    starts = np.searchsorted(near.first, near.first)
    return near.taken(np.arange(len(near.first)) - starts < NEAREST)


def _first_of_each(near: Near, keys: np.ndarray) -> Near:
    """The nearest of those with equal keys."""
    order = np.lexsort((near.distance, keys))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.diff(keys[order]) != 0
    return near.taken(order[is_new])


def _joined(parts: list[Near]) -> Near:
    if not parts:
        return Near(*(np.zeros(0, dtype=kind) for kind in (np.intp, np.intp, np.intp, np.float32)))
    return Near(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
