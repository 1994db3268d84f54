"""Which pictures a network takes for most alike, each as it is or in the mirror: maybe copies.

Exact: each is compared with every other, some rows at a time, so that memory stays bounded. Knows
nothing about networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swinclf.reporter import Reporter

NEAREST = 8  # of each picture that are proposed, and as many in the mirror
BLOCK_COSINES = 2**22  # computed at once: 16 MiB, and twice as much to choose from them


@dataclass(frozen=True)
class Seen:
    """What a network sees in pictures.

    Attributes:
        rows: (M,) which pictures, ascending.
        features: (M, D) float32.
        mirrored: (M, D) float32, of the mirror images.
    """

    rows: np.ndarray
    features: np.ndarray
    mirrored: np.ndarray


def most_alike(seen: Seen, among: np.ndarray, *, report: Reporter) -> list[tuple[int, int, bool]]:
    """The nearest others of each picture, by the cosine of the angle between features.

    Angles are seen from the middle of all features: what a network sees in every picture tells
    nothing.

    Args:
        seen: What the network sees.
        among: Rows; of others nothing is looked at.
        report: Told of progress.

    Returns:
        (row, larger row, whether one of them is in the mirror), each once, in order.
    """
    which = np.isin(seen.rows, among)
    rows = seen.rows[which]
    count = len(rows)
    nearest = min(NEAREST, count - 1)
    if nearest < 1:
        return []
    plain, turned = seen.features[which], seen.mirrored[which]
    middle = plain.mean(axis=0)
    for features in (plain, turned):
        features -= middle
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features /= np.maximum(lengths, np.finfo(np.float32).tiny)
    size = max(1, BLOCK_COSINES // count)
    codes = []
    with report.track("looking for pictures alike", count) as advance:
        for start in range(0, count, size):
            own = np.arange(start, min(start + size, count))
            for is_mirrored, others in enumerate((plain, turned)):
                cosines = plain[own] @ others.T
                cosines[np.arange(len(own)), own] = -np.inf
                near = np.argpartition(cosines, -nearest, axis=1)[:, -nearest:]
                low, high = np.minimum(near, own[:, None]), np.maximum(near, own[:, None])
                codes.append(np.unique((low * count + high) * 2 + is_mirrored))
            advance(len(own))
    return [
        (int(rows[code // 2 // count]), int(rows[code // 2 % count]), bool(code % 2))
        for code in np.unique(np.concatenate(codes))
    ]
