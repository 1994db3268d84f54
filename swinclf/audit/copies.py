"""Which files show the same picture without being equal byte for byte.

The few nearest fingerprints of each picture are searched, whole against whole and whole against the
middle of another, or of its mirror image; these pictures are read again and laid over each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from swinclf.audit.align import DETAIL_SIDE, detail_agreement
from swinclf.audit.facts import Facts
from swinclf.audit.fingerprint import CROPS, mirrored, small_grey
from swinclf.audit.search import near_prints
from swinclf.data.images import UnreadableImage, decode_image, read_bytes
from swinclf.data.loader import map_ahead
from swinclf.progress import Reporter

# On 4,317 photographs of flowers of 128 px with 30 copies planted (`benchmarks/audit.py find`)
# every copy lies within 0.21 and agrees by 0.93 or more; of pairs that were no copies to the eye
# none agreed by more than 0.8.
DISTANCE_MAX = 0.25
AGREEMENT_MIN = 0.88
# A small picture has few details to agree in: of 1,797 handwritten digits of 32 px (`swinclf demo`)
# two reach 0.962 by chance.
SMALL_PX, SMALL_AGREEMENT_MIN = 64, 0.97
EMPTY_SPREAD = 4.0  # of 255: below it there is nothing to compare
KEPT_PICTURES = 2048  # decoded again and kept, 36 KiB each


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two pictures that are one, by their rows, and how well their details agree, in [-1, 1]."""

    first: int
    second: int
    agreement: float


def near_pairs(root: Path, facts: Facts, *, workers: int, report: Reporter) -> list[NearPair]:
    """Pictures that are one without being the same file, in order of agreement, best first.

    Of files with equal bytes only the first is looked at; nearly empty ones are left out.

    Args:
        root: What the paths are relative to.
        facts: Of the pass over all files.
        workers: Threads.
        report: Told of progress.
    """
    firsts = {digest: row for row, digest in reversed(list(enumerate(facts.digests))) if digest}
    rows = sorted(row for row in firsts.values() if facts.spreads[row] >= EMPTY_SPREAD)
    prints = facts.prints[rows]
    near = near_prints(np.concatenate([prints, mirrored(prints)], axis=1), DISTANCE_MAX)
    candidates = sorted(
        (rows[first], rows[second], int(view))
        for first, second, view in zip(near.first, near.second, near.crop, strict=True)
    )

    @lru_cache(maxsize=KEPT_PICTURES)
    def grey(row: int) -> np.ndarray | None:
        try:
            data = read_bytes(root / facts.images[row].path)
            return small_grey(decode_image(data, decode_px=DETAIL_SIDE), DETAIL_SIDE)
        except UnreadableImage:  # it could be read a moment ago: the folder is being changed
            return None

    def compare(candidate: tuple[int, int, int]) -> NearPair:
        first, second, view = candidate
        one, other = grey(first), grey(second)
        agreement = 0.0
        if one is not None and other is not None:
            seen = one[:, ::-1] if view >= len(CROPS) else one
            agreement = detail_agreement(seen, other, CROPS[view % len(CROPS)])
        return NearPair(min(first, second), max(first, second), agreement)

    found: dict[tuple[int, int], NearPair] = {}
    with report.track("comparing", len(candidates), "pairs") as advance:
        for pair in map_ahead(compare, candidates, workers=workers, ahead=64):
            advance(1)
            smallest = facts.sizes[[pair.first, pair.second]].min()
            needed = AGREEMENT_MIN if smallest >= SMALL_PX else SMALL_AGREEMENT_MIN
            key = pair.first, pair.second
            if pair.agreement >= max(needed, found[key].agreement if key in found else 0):
                found[key] = pair
    return sorted(found.values(), key=lambda pair: -pair.agreement)
