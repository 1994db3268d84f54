"""Which files show the same picture without being equal byte for byte.

The few nearest fingerprints of each picture are searched, whole against whole and whole against the
middle of another, or of its mirror image; these pictures are read again and laid over each other.
Where a network has seen the pictures, those that it takes for most alike are tried as well, one of
them anywhere in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinclf.data.images import UnreadableImage, decode_image, read_bytes
from swinclf.data.loader import map_ahead
from swinclf.data_quality.feature_neighbours import Seen, most_alike
from swinclf.data_quality.fingerprints import CROPS, mirrored, small_grey
from swinclf.data_quality.hash_search import near_prints
from swinclf.data_quality.image_stats import Facts
from swinclf.data_quality.registration import DETAIL_SIDE, Place, detail_agreement
from swinclf.data_quality.template_match import GLANCE_SIDE, Glance, glance, likely_place
from swinclf.device import one_blas_thread
from swinclf.reporter import Reporter

# On 4,317 photographs of flowers of 128 px with 30 copies planted (`benchmarks/audit.py find`)
# every copy lies within 0.21 and agrees by 0.93 or more; of pairs that were no copies to the eye
# none agreed by more than 0.8.
DISTANCE_MAX = 0.25
AGREEMENT_MIN = 0.88
# A small picture has few details to agree in: of 1,797 handwritten digits of 32 px (scikit-learn)
# two reach 0.962 by chance.
SMALL_PX, SMALL_AGREEMENT_MIN = 64, 0.97
EMPTY_SPREAD = 4.0  # of 255: below it there is nothing to compare
LIKENESS_MIN = 0.6  # at a glance; below it nobody looks closer, and above it the details decide
# Decoded again and kept, 36 KiB each; small ones, 2 KiB; ready for a glance, 141 KiB.
KEPT_PICTURES, KEPT_SMALL, KEPT_GLANCES = 2048, 65536, 512


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two pictures that are one.

    Attributes:
        first: A row.
        second: A larger one.
        agreement: How well their details agree, in [-1, 1].
        by_features: Whether only features have brought them together, not fingerprints.
    """

    first: int
    second: int
    agreement: float
    by_features: bool


class _Candidate(NamedTuple):
    """Two rows, and how to lay the second over the first.

    Attributes:
        first: A row.
        second: Another.
        mirrored: Whether the first is seen in the mirror.
        part: Of the first, about its middle, that the second may show; None for any part, or for
            the first as a part of the second.
    """

    first: int
    second: int
    mirrored: bool
    part: float | None


def near_pairs(
    root: Path, facts: Facts, *, workers: int, report: Reporter, seen: Seen | None = None
) -> list[NearPair]:
    """Pictures that are one without being the same file, in order of agreement, best first.

    Of files with equal bytes only the first is looked at; nearly empty ones are left out.

    Args:
        root: What the paths are relative to.
        facts: Of the pass over all files.
        workers: Threads.
        report: Told of progress.
        seen: What a network sees in the pictures, if one has looked.
    """
    firsts = {digest: row for row, digest in reversed(list(enumerate(facts.digests))) if digest}
    rows = np.array(
        sorted(row for row in firsts.values() if facts.spreads[row] >= EMPTY_SPREAD), dtype=np.intp
    )
    pictures = _Pictures(root, facts)

    def confirm(candidates: Sequence[_Candidate]) -> list[NearPair]:
        return pictures.confirmed(candidates, workers=workers, report=report)

    found = confirm(_by_prints(facts, rows))
    if seen is not None:
        known = {(pair.first, pair.second) for pair in found}
        alike = most_alike(seen, rows, report=report)
        found += confirm([_Candidate(*one, None) for one in alike if one[:2] not in known])
    return sorted(found, key=lambda pair: -pair.agreement)


def _by_prints(facts: Facts, rows: np.ndarray) -> list[_Candidate]:
    """Pairs of near fingerprints."""
    prints = facts.prints[rows]
    near = near_prints(np.concatenate([prints, mirrored(prints)], axis=1), DISTANCE_MAX)
    return sorted(
        _Candidate(int(first), int(second), view >= len(CROPS), CROPS[view % len(CROPS)])
        for first, second, view in zip(rows[near.first], rows[near.second], near.crop, strict=True)
    )


class _Pictures:
    """Pictures read again, to be laid over each other."""

    def __init__(self, root: Path, facts: Facts) -> None:
        self._root, self._facts = root, facts
        self._grey = lru_cache(maxsize=KEPT_PICTURES)(self._read)
        self._small = lru_cache(maxsize=KEPT_SMALL)(self._read_small)
        self._glance = lru_cache(maxsize=KEPT_GLANCES)(self._look)

    def confirmed(
        self, candidates: Sequence[_Candidate], *, workers: int, report: Reporter
    ) -> list[NearPair]:
        """The candidates that are one picture, each pair once, at its best agreement."""
        found: dict[tuple[int, int], NearPair] = {}
        with one_blas_thread(), report.track("comparing", len(candidates), "pairs") as advance:
            for pair in map_ahead(self._compare, candidates, workers=workers, ahead=64):
                advance(1)
                smallest = self._facts.sizes[[pair.first, pair.second]].min()
                needed = AGREEMENT_MIN if smallest >= SMALL_PX else SMALL_AGREEMENT_MIN
                key = pair.first, pair.second
                if pair.agreement >= max(needed, found[key].agreement if key in found else 0):
                    found[key] = pair
        return list(found.values())

    def _compare(self, candidate: _Candidate) -> NearPair:
        first, second, _, part = candidate
        agreement = (
            self._anywhere(candidate) if part is None else self._laid_over(candidate, Place(part))
        )
        return NearPair(min(first, second), max(first, second), agreement, part is None)

    def _anywhere(self, candidate: _Candidate) -> float:
        """Agreement wherever one of the two lies in the other, if a glance finds it likely."""
        one = self._glance(candidate.first, candidate.mirrored)
        other = self._glance(candidate.second, False)
        if one is None or other is None:
            return 0.0
        in_one, in_other = likely_place(one, other), likely_place(other, one)
        if max(in_one, in_other)[0] < LIKENESS_MIN:
            return 0.0
        if in_one >= in_other:
            return self._laid_over(candidate, in_one[1])
        return self._laid_over(candidate, in_other[1], swapped=True)

    def _laid_over(self, candidate: _Candidate, start: Place, *, swapped: bool = False) -> float:
        one, other = self._grey(candidate.first), self._grey(candidate.second)
        if one is None or other is None:
            return 0.0
        if candidate.mirrored:
            one = one[:, ::-1]
        return detail_agreement(*((other, one) if swapped else (one, other)), start)

    def _look(self, row: int, is_mirrored: bool) -> Glance | None:
        small = self._small(row)
        return None if small is None else glance(small[:, ::-1] if is_mirrored else small)

    def _read_small(self, row: int) -> np.ndarray | None:
        grey = self._read(row, GLANCE_SIDE)
        return None if grey is None else grey.astype(np.uint8)

    def _read(self, row: int, side: int = DETAIL_SIDE) -> np.ndarray | None:
        try:
            data = read_bytes(self._root / self._facts.images[row].path)
            return small_grey(decode_image(data, decode_px=side, ranges=self._facts.ranges), side)
        except UnreadableImage:  # it could be read a moment ago: the folder is being changed
            return None
