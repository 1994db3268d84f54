"""Near duplicates: files that show the same image with different bytes.

Candidates are the nearest fingerprints, whole image against whole image and against centre crops
and mirror images. They are read again, registered and compared. If features of a network are
available, its nearest neighbours are candidates as well, at any position of one in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinclf.data.images import UnreadableImage, decode_image, image_bytes
from swinclf.data.loader import map_ahead
from swinclf.data_quality.fingerprints import CROPS, mirrored, search_fingerprints, small_grey
from swinclf.data_quality.image_stats import ImageStats
from swinclf.data_quality.registration import (
    DETAIL_SIDE,
    MATCH_SIDE,
    CropWindow,
    MatchSpectra,
    detail_agreement,
    locate_crop,
    match_spectra,
)
from swinclf.device import one_blas_thread
from swinclf.reporter import Reporter

# On 4,317 photographs of flowers of 128 px with 30 copies planted (`benchmarks/audit.py find`)
# every copy is within 0.21 and agrees by 0.93 or more; no pair that was visibly different agreed
# by more than 0.8.
DISTANCE_MAX = 0.25
AGREEMENT_MIN = 0.88
# A small image has few details: of 1,797 handwritten digits of 32 px (scikit-learn)
# two reach 0.962 by chance.
SMALL_PX, SMALL_AGREEMENT_MIN = 64, 0.97
EMPTY_SPREAD = 4.0  # of 255: below it there is nothing to compare
LIKENESS_MIN = 0.6  # correlation of the templates, below which the pair is rejected early
# Cached images: decoded, 36 KiB each; small, 2 KiB; spectra, 141 KiB.
CACHED_IMAGES, CACHED_SMALL, CACHED_SPECTRA = 2048, 65536, 512


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two files that show the same image."""

    first: int  # a row
    second: int  # a larger one
    agreement: float  # correlation of their details, in [-1, 1]
    by_features: bool  # whether only features proposed the pair, not fingerprints


class _Candidate(NamedTuple):
    """Two rows, and how to align the second with the first."""

    first: int  # a row
    second: int  # another
    mirrored: bool  # whether to mirror the first
    # centre crop of the first that the second may show; None for any crop of either
    part: float | None


def find_near_pairs(
    root: Path,
    stats: ImageStats,
    *,
    workers: int,
    report: Reporter,
    features: MirroredFeatures | None = None,
) -> list[NearPair]:
    """Return near duplicates that are not exact ones, the best agreement first.

    Of exact duplicates only the first is compared; nearly empty images are left out.

    Raises:
        DataError: If the disk is gone.
    """
    firsts = {digest: row for row, digest in reversed(list(enumerate(stats.digests))) if digest}
    rows = np.array(
        sorted(row for row in firsts.values() if stats.spreads[row] >= EMPTY_SPREAD), dtype=np.intp
    )
    images = _ImageComparer(root, stats)

    def confirm(candidates: Sequence[_Candidate]) -> list[NearPair]:
        return images.confirmed(candidates, workers=workers, report=report)

    found = confirm(_by_prints(stats, rows))
    if features is not None:
        known = {(pair.first, pair.second) for pair in found}
        neighbours = nearest_pairs(features, rows, report=report)
        found += confirm([_Candidate(*one, None) for one in neighbours if one[:2] not in known])
    return sorted(found, key=lambda pair: -pair.agreement)


def _by_prints(stats: ImageStats, rows: np.ndarray) -> list[_Candidate]:
    prints = stats.prints[rows]
    near = search_fingerprints(np.concatenate([prints, mirrored(prints)], axis=1), DISTANCE_MAX)
    return sorted(
        _Candidate(int(first), int(second), view >= len(CROPS), CROPS[view % len(CROPS)])
        for first, second, view in zip(rows[near.first], rows[near.second], near.crop, strict=True)
    )


class _ImageComparer:
    """Reads images again, with a cache, to register and compare them."""

    def __init__(self, root: Path, stats: ImageStats) -> None:
        self._root, self._stats = root, stats
        self._grey = lru_cache(maxsize=CACHED_IMAGES)(self._read)
        self._small = lru_cache(maxsize=CACHED_SMALL)(self._read_small)
        self._spectra = lru_cache(maxsize=CACHED_SPECTRA)(self._compute_spectra)

    def confirmed(
        self, candidates: Sequence[_Candidate], *, workers: int, report: Reporter
    ) -> list[NearPair]:
        """Return the candidates that are duplicates, each pair once, at its best agreement."""
        found: dict[tuple[int, int], NearPair] = {}
        with one_blas_thread(), report.track("comparing", len(candidates), "pairs") as advance:
            for pair in map_ahead(
                self._compare, candidates, workers=workers, ahead=64, late=self._not_compared
            ):
                advance(1)
                smallest = self._stats.sizes[[pair.first, pair.second]].min()
                needed = AGREEMENT_MIN if smallest >= SMALL_PX else SMALL_AGREEMENT_MIN
                key = pair.first, pair.second
                if pair.agreement >= max(needed, found[key].agreement if key in found else 0):
                    found[key] = pair
        return list(found.values())

    def _compare(self, candidate: _Candidate) -> NearPair:
        first, second, _, part = candidate
        if part is None:
            agreement = self._anywhere(candidate)
        else:
            agreement = self._registered(candidate, CropWindow(part))
        return NearPair(min(first, second), max(first, second), agreement, part is None)

    @staticmethod
    def _not_compared(candidate: _Candidate, _reason: str) -> NearPair:
        return NearPair(candidate.first, candidate.second, 0.0, candidate.part is None)

    def _anywhere(self, candidate: _Candidate) -> float:
        """Return the agreement of one as any crop of the other; 0 if no template matches."""
        one = self._spectra(candidate.first, candidate.mirrored)
        other = self._spectra(candidate.second, False)
        if one is None or other is None:
            return 0.0
        in_one, in_other = locate_crop(one, other), locate_crop(other, one)
        if max(in_one, in_other)[0] < LIKENESS_MIN:
            return 0.0
        if in_one >= in_other:
            return self._registered(candidate, in_one[1])
        return self._registered(candidate, in_other[1], swapped=True)

    def _registered(
        self, candidate: _Candidate, start: CropWindow, *, swapped: bool = False
    ) -> float:
        one, other = self._grey(candidate.first), self._grey(candidate.second)
        if one is None or other is None:
            return 0.0
        if candidate.mirrored:
            one = one[:, ::-1]
        return detail_agreement(*((other, one) if swapped else (one, other)), start)

    def _compute_spectra(self, row: int, is_mirrored: bool) -> MatchSpectra | None:
        small = self._small(row)
        return None if small is None else match_spectra(small[:, ::-1] if is_mirrored else small)

    def _read_small(self, row: int) -> np.ndarray | None:
        grey = self._read(row, MATCH_SIDE)
        return None if grey is None else grey.astype(np.uint8)

    def _read(self, row: int, side: int = DETAIL_SIDE) -> np.ndarray | None:
        path = self._root / self._stats.images[row].path
        try:
            with image_bytes(path) as data:
                picture = decode_image(data, decode_px=side, ranges=self._stats.ranges)
            return small_grey(picture, side)
        except UnreadableImage:  # it was readable before: the folder is being changed
            return None


NEAREST = 8  # neighbours per image, and as many among the mirror images
BLOCK_ROWS = 1024  # images whose neighbours are searched at once
MANY_IMAGES = 100_000  # from which the search takes minutes


@dataclass(frozen=True)
class MirroredFeatures:
    """Features of images and of their mirror images."""

    rows: np.ndarray  # (M,) row of each image in the dataset, ascending
    features: np.ndarray  # (M, D) float32
    mirrored: np.ndarray  # (M, D) float32, of the mirror images


def nearest_pairs(
    table: MirroredFeatures, among: np.ndarray, *, report: Reporter
) -> list[tuple[int, int, bool]]:
    """Return the nearest neighbours of each image by cosine similarity of the centred features.

    Only the rows in `among` are searched.

    Returns:
        (row, larger row, whether one of them is mirrored), unique and sorted.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to load

    which = np.isin(table.rows, among)
    rows = table.rows[which]
    count = len(rows)
    nearest = min(NEAREST, count - 1)
    if nearest < 1:
        return []
    plain, turned = table.features[which], table.mirrored[which]
    mean = plain.mean(axis=0)
    for features in (plain, turned):
        features -= mean
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features /= np.maximum(lengths, np.finfo(np.float32).tiny)
    if count >= MANY_IMAGES:
        report.note(
            f"each of {count:,} images is compared with all others by its features: the time grows "
            "with the square of their number; without --weights and --model it is not done"
        )
    codes = []
    searches = [
        NearestNeighbors(n_neighbors=nearest + 1, algorithm="brute").fit(others)
        for others in (plain, turned)
    ]
    with report.track("searching nearest neighbours", count) as advance:
        for start in range(0, count, BLOCK_ROWS):
            own = np.arange(start, min(start + BLOCK_ROWS, count))[:, None]
            for is_mirrored, search in enumerate(searches):
                near = search.kneighbors(plain[own[:, 0]], return_distance=False)
                is_other = near != own  # all but the image itself, or its own mirror image
                wanted = is_other & (is_other.cumsum(axis=1) <= nearest)
                low, high = np.minimum(near, own)[wanted], np.maximum(near, own)[wanted]
                codes.append((low * count + high) * 2 + is_mirrored)
            advance(len(own))
    return [
        (int(rows[code // 2 // count]), int(rows[code // 2 % count]), bool(code % 2))
        for code in np.unique(np.concatenate(codes))
    ]
