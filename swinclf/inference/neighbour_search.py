"""Search for nearest neighbours: the training images whose features are most similar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swinclf.reporting.report_data import Neighbour

NEAREST = 3  # training images that a report shows next to a mistake


def find_nearest(
    queries: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    images: Sequence[tuple[str, str]],
    count: int = NEAREST,
) -> list[list[Neighbour]]:
    """Return the nearest training images of each query, by cosine similarity of the features.

    (Q, D) queries and (N, D) features of N >= 1 images, (path, label) each -> up to `count`
    neighbours of each query, nearest first, with their own path as `file`.
    """
    similarities = unit_rows(queries) @ unit_rows(features).T  # (Q, N)
    found = []
    for row in similarities:
        best = np.argsort(-row, kind="stable")[:count].tolist()
        found.append([_neighbour(images[index], float(row[index])) for index in best])
    return found


def _neighbour(image: tuple[str, str], similarity: float) -> Neighbour:
    path, label = image
    return Neighbour(path, label, similarity, file=path)


def unit_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the rows (N, D) scaled to length 1; rows of zeros are left as they are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    single: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
    return single
