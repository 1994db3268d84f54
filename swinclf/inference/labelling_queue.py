"""The images most worth labelling next: those of small margin, and unlike each other."""

from __future__ import annotations

import numpy as np

CANDIDATES = 5  # times as many images of small margin as are selected


def select_diverse(margins: np.ndarray, features: np.ndarray | None, count: int) -> list[int]:
    """Return the indices of up to `count` images to label, the most valuable first.

    The first has the smallest margin. Each other one has the largest product of its doubt (one
    minus the margin) and its distance to the nearest that is selected already, so that
    near-duplicates do not fill the list.

    Args:
        margins: (N,) differences of the two highest probabilities, in [0, 1].
        features: (N, D); None selects by margin only.
        count: Number of images; all if there are fewer.

    Source: margin sampling, Scheffer et al. 2001; the farthest point, Sener & Savarese 2018
    (core-set), sec. 4.2.
    """
    count = min(count, len(margins))
    if features is None or count < 2:
        return list(map(int, np.argsort(margins, kind="stable")[:count]))
    points = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    nearest = np.full(len(points), np.inf)
    selected = [int(np.argmin(margins))]
    while len(selected) < count:
        distances = np.linalg.norm(points - points[selected[-1]], axis=1)
        nearest = np.minimum(nearest, distances)
        value = (1.0 - margins) * nearest
        value[selected] = -1.0
        selected.append(int(np.argmax(value)))
    return selected
