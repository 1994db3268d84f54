"""Fingerprints of images that survive re-encoding, resizing and a slight crop, and their search.

The low DCT frequencies of a small grey image, as in a perceptual hash, but as real numbers rather
than signs, so that distances measure similarity. Near pairs are found by locality-sensitive
hashing: random planes cut the space into cells; near fingerprints mostly share a cell, and over
many tables almost surely one of them. The cost grows with the number of images, not of pairs; a
search tree would be no faster than brute force in this many dimensions.

Source: the DCT hash of Zauner, "Implementation and benchmarking of perceptual image hash
functions", 2010, sec. 3.2; Charikar 2002, "Similarity estimation techniques from rounding
algorithms", sec. 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

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


TABLES = 24
SPARE_BITS = 4  # there are 2**SPARE_BITS times as many cells as images
WINDOW = 8  # neighbours compared on either side within a cell, which may hold every image
NEAREST = 8  # neighbours returned per image


class NeighbourPairs(NamedTuple):
    """Pairs of near fingerprints, as columns of equal length."""

    first: np.ndarray  # rows
    second: np.ndarray  # rows, of whole images
    crop: np.ndarray  # which fingerprint of the first is near
    distance: np.ndarray  # Euclidean distance

    def select(self, which: np.ndarray) -> NeighbourPairs:
        """Return the pairs of a mask or of indices."""
        return NeighbourPairs(*(column[which] for column in self))


def search_fingerprints(prints: np.ndarray, within: float) -> NeighbourPairs:
    """Return the pairs in which some fingerprint of the first is near that of the whole second.

    (N, crops, numbers) of norm 1, of which crop 0 is the whole image -> each unordered pair within
    a distance below 1 at most once, at its smallest distance.
    """
    found = _joined([])
    if len(prints) < 2:
        return found
    rng = np.random.default_rng(0)  # deterministic
    centre = prints[:, 0].mean(axis=0)
    bits = math.ceil(math.log2(len(prints))) + SPARE_BITS
    for _ in range(TABLES):
        planes = rng.normal(size=(prints.shape[2], bits + 1)).astype(np.float32)
        keys = [_hash_keys(prints[:, crop] - centre, planes) for crop in range(prints.shape[1])]
        order = np.argsort(keys[0])
        parts = [
            _close(prints, crop, _in_same_cell(own, keys[0], order), within)
            for crop, own in enumerate(keys)
        ]
        found = _nearest(_joined([found, *parts]))
    low, high = np.minimum(found.first, found.second), np.maximum(found.first, found.second)
    return _first_of_each(found, low * len(prints) + high)


def _hash_keys(points: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Return (N,) float64: the cell index, plus a fraction that orders the points of a cell."""
    sides = points @ planes
    cells = (sides[:, :-1] > 0) @ (1 << np.arange(planes.shape[1] - 1))
    return np.asarray(cells + (0.5 + np.arctan(sides[:, -1]) / 4))


def _in_same_cell(
    own: np.ndarray, others: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows of `own` and `others` that are close within one cell."""
    ordered = others[order]
    steps = np.arange(-WINDOW, WINDOW)
    at = np.searchsorted(ordered, own)[:, None] + steps
    inside = (at >= 0) & (at < len(ordered))
    at = at.clip(0, len(ordered) - 1)
    first, step = np.nonzero(inside & (np.floor(ordered[at]) == np.floor(own)[:, None]))
    return first, order[at[first, step]]


def _close(
    prints: np.ndarray, crop: int, pairs: tuple[np.ndarray, np.ndarray], within: float
) -> NeighbourPairs:
    first, second = pairs
    different = first != second
    first, second = first[different], second[different]
    distance = np.linalg.norm(prints[first, crop] - prints[second, 0], axis=1)
    near = NeighbourPairs(first, second, np.full(len(first), crop), distance)
    return near.select(distance < within)


def _nearest(near: NeighbourPairs) -> NeighbourPairs:
    """Return at most `NEAREST` distinct neighbours of each first."""
    near = _first_of_each(near, near.first * (near.second.max(initial=0) + 1) + near.second)
    near = near.select(np.lexsort((near.distance, near.first)))
    starts = np.searchsorted(near.first, near.first)
    return near.select(np.arange(len(near.first)) - starts < NEAREST)


def _first_of_each(near: NeighbourPairs, keys: np.ndarray) -> NeighbourPairs:
    """Return the nearest of the pairs with equal keys."""
    order = np.lexsort((near.distance, keys))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.diff(keys[order]) != 0
    return near.select(order[is_new])


def _joined(parts: list[NeighbourPairs]) -> NeighbourPairs:
    if not parts:
        kinds = (np.intp, np.intp, np.intp, np.float32)
        return NeighbourPairs(*(np.zeros(0, dtype=kind) for kind in kinds))
    return NeighbourPairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
