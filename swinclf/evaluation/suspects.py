"""Labels that are probably wrong: what a classifier that never saw an image thinks of its label.

Knows features and targets; knows nothing about networks, images or files.

Letters: N images, D features, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from swinclf.evaluation.discriminant import Floats, class_probabilities, main_directions

FOLDS = 5


class Suspicion(NamedTuple):
    """An image whose label is doubted.

    Attributes:
        row: Which image.
        suggested: Index of the class that it is taken for.
        own: Probability of its own label, in [0, 1].
        other: Probability of the suggested one, in [0, 1].
    """

    row: int
    suggested: int
    own: float
    other: float


def find_suspects(
    features: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], *, seed: int
) -> list[Suspicion]:
    """Lists the images whose features speak for another label than the one they have.

    Every image is judged by a linear discriminant fitted on four fifths of the images, of which it
    is none: a label that was learned by heart could not be doubted.

    Args:
        features: (N, D).
        targets: (N,) class indices. Classes of fewer than five images are not judged, and nobody
            is taken for one of them.
        seed: Of the fifths.

    Returns:
        The doubted ones, the surest first; empty where fewer than two classes can be judged.

    Source: Confident Learning, Northcutt et al. 2021, sec. 3: out-of-fold probabilities, ranked by
    the margin of the own label.
    """
    judged = np.flatnonzero(np.bincount(targets)[targets] >= FOLDS)
    classes = np.unique(targets[judged])
    if len(classes) < 2:
        return []
    probs = _out_of_fold(main_directions(features[judged]), targets[judged], seed)
    rows = np.arange(len(judged))
    columns = np.searchsorted(classes, targets[judged])
    own = probs[rows, columns]
    probs[rows, columns] = -1.0
    best = probs.argmax(axis=1)
    other = probs[rows, best]
    order = np.argsort(own - other, kind="stable")
    return [
        Suspicion(int(judged[n]), int(classes[best[n]]), float(own[n]), float(other[n]))
        for n in order[own[order] < other[order]]
    ]


def _out_of_fold(features: Floats, targets: npt.NDArray[np.integer], seed: int) -> Floats:
    """Probabilities of each image by a classifier fitted without it, (N, R) -> (N, K)."""
    probs = np.empty((len(targets), len(np.unique(targets))))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, judged in folds.split(features, targets):
        _, probs[judged] = class_probabilities(features[fitted], targets[fitted], features[judged])
    return probs
