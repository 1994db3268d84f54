"""The training images that a network sees as most alike to an image: nearest in its features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swinclf.reporting.report_data import Neighbour

NEAREST = 3  # training images that a report shows beside another one


def nearest(
    queries: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    images: Sequence[tuple[str, str]],
    count: int = NEAREST,
) -> list[list[Neighbour]]:
    """The nearest training images of each query, by the cosine of the angle between features.

    Args:
        queries: (Q, D).
        features: (N, D), N at least 1.
        images: (path, label) of each row of `features`.
        count: At most so many for each query.

    Returns:
        For each query its neighbours, nearest first, with the pictures of their own paths.
    """
    similarities = unit_rows(queries) @ unit_rows(features).T  # (Q, N)
    found = []
    for row in similarities:
        best = np.argsort(-row, kind="stable")[:count].tolist()
        found.append([_neighbour(images[at], float(row[at])) for at in best])
    return found


def _neighbour(image: tuple[str, str], similarity: float) -> Neighbour:
    path, label = image
    return Neighbour(path, label, similarity, file=path)


def unit_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N, D) with rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    single: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
    return single
