"""A description of training features by which pictures of something else are told.

Letters: N images, D features, R directions kept, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.covariance import ledoit_wolf
from sklearn.utils.extmath import randomized_svd

from swinclf.feature_space import FeatureSpace, Floats
from swinclf.runtime import on_one_thread

Doubles = npt.NDArray[np.float64]

EXACT_MOST = 600  # rows or columns, of which all directions are found
TINY = 1e-12
DIRECTIONS = 64  # R, at most
FEWEST = 8  # images from which a spread can be told at all


@on_one_thread()
def fit_feature_space(features: Floats, targets: npt.NDArray[np.integer]) -> FeatureSpace | None:
    """Describes training features.

    Args:
        features: (N, D) float32.
        targets: (N,) class indices; classes that have no image have no centre.

    Returns:
        The description; None where there are too few images to tell a spread from.
    """
    classes = np.unique(targets)
    free = len(features) - len(classes)  # what the centres leave of the images
    if free < FEWEST:
        return None
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    lengths, rows = _main_directions(centred, DIRECTIONS)
    least = lengths[0] * 1e-6  # of a direction, lest it be rounding
    count = int(min(DIRECTIONS, free // 2, (lengths > least).sum()))
    if count == 0:
        return None
    basis = rows[:count].T  # (D, R)
    along = (centred @ basis).astype(np.float64)
    centres = np.stack([along[targets == label].mean(axis=0) for label in classes])
    within = along - centres[np.searchsorted(classes, targets)]
    covariance, _ = ledoit_wolf(within, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance * len(features) / free)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-12 * values.max()))
    spare = centred.shape[1] - count
    left = (centred**2).sum() - (lengths[:count] ** 2).sum()
    variance = max(0.0, left) / len(features) / max(1, spare)
    # Few images may leave nothing over, and new ones will: a tenth of the kept ones' deviation.
    variance = max(variance, 0.01 * values.clip(min=0).mean())
    space = FeatureSpace(
        mean=mean.astype(np.float32),
        basis=basis.astype(np.float32),
        whiten=whiten.astype(np.float32),
        centres=(centres @ whiten).astype(np.float32),
        leftover=1 / float(variance) if spare else 0.0,
    )
    # As it will be read back: a limit chosen on one side of a rounding must hold on the other.
    return FeatureSpace.from_dict(space.to_dict())


def _main_directions(centred: Doubles, count: int) -> tuple[Doubles, Doubles]:
    """The longest singular values and their right singular vectors, longest first.

    (N, D) -> (R,), (R, D); at least `count` of them where there are as many.
    """
    if min(centred.shape) > max(EXACT_MOST, 2 * count):
        # Halko, Martinsson & Tropp 2011: far quicker where few of many are needed.
        _, lengths, rows = randomized_svd(centred, count, n_iter=4, random_state=0)
        return lengths, rows
    is_wide = len(centred) < centred.shape[1]
    inner = centred @ centred.T if is_wide else centred.T @ centred
    squares, vectors = np.linalg.eigh(inner.astype(np.float64))
    lengths, rows = np.sqrt(squares[::-1].clip(min=0)), vectors.T[::-1]
    return lengths, rows @ centred / np.maximum(lengths, TINY)[:, None] if is_wide else rows
