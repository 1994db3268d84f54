"""Nearest neighbours in feature space, mirror images included: candidates for near duplicates.

Exact search in blocks of bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swinclf.reporter import Reporter

NEAREST = 8  # neighbours per image, and as many among the mirror images
BLOCK_COSINES = 2**22  # computed at once: 16 MiB, and twice as much to select from them


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
    size = max(1, BLOCK_COSINES // count)
    codes = []
    with report.track("searching nearest neighbours", count) as advance:
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
