"""Labels that are probably wrong: what classifiers that never saw an image think of its label.

Knows features and labels; knows nothing about networks, images or files.

Letters: N images, D features, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from swinclf.data_quality.lda import Floats, Labels, fit_discriminant, main_directions
from swinclf.device import one_blas_thread

FOLDS = 5  # classes of fewer images are not judged


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


def judgeable(targets: Labels) -> npt.NDArray[np.intp]:
    """Rows of the images whose class has at least five; none where there is but one such class."""
    rows = np.flatnonzero(np.bincount(targets, minlength=1)[targets] >= FOLDS)
    return rows if len(np.unique(targets[rows])) > 1 else rows[:0]


@one_blas_thread()
def judge_by_features(features: npt.NDArray[np.floating], labels: Labels, *, seed: int) -> Floats:
    """Judges every image by a linear discriminant fitted on four fifths, of which it is none.

    A label that was learned by heart could not be doubted.

    Args:
        features: (N, D).
        labels: (N,), 0 to K - 1, at least five of each.
        seed: Of the fifths.

    Returns:
        (N, K) probabilities.
    """
    directions = main_directions(features)
    probs = np.empty((len(labels), int(labels.max()) + 1))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, judged in folds.split(directions, labels):
        model = fit_discriminant(directions[fitted], labels[fitted])
        probs[judged] = model.predict_proba(directions[judged])
    return probs


def find_suspects(probs: Floats, labels: Labels) -> list[Suspicion]:
    """Lists the images that are more likely to be of another class than of their own.

    Args:
        probs: (N, K), by classifiers that did not see the image that they judge.
        labels: (N,).

    Returns:
        The doubted ones, that whose own label is least likely first.

    Source: Northcutt, Jiang & Chuang 2021, "Confident Learning", sec. 3: ranked by self-confidence.
    """
    rows = np.arange(len(labels))
    own = probs[rows, labels]
    others = probs.copy()
    others[rows, labels] = -1.0
    best = others.argmax(axis=1)
    other = others[rows, best]
    order = np.lexsort((-other, own))
    return [
        Suspicion(int(row), int(best[row]), float(own[row]), float(other[row]))
        for row in order[own[order] < other[order]]
    ]
