"""Label issues: labels that classifiers trained on other images consider unlikely.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from swinclf.data_quality.lda import Floats, Labels, fit_lda, reduce_dimensions
from swinclf.device import one_blas_thread

FOLDS = 5  # classes of fewer images are not scored


class LabelIssue(NamedTuple):
    """An image whose label is probably wrong."""

    row: int
    suggested: int  # index of the predicted class
    own: float  # probability of its own label, in [0, 1]
    other: float  # probability of the suggested one, in [0, 1]


def scorable_rows(targets: Labels) -> npt.NDArray[np.intp]:
    """Return the rows of classes of at least five images; none if there is only one such class."""
    rows = np.flatnonzero(np.bincount(targets, minlength=1)[targets] >= FOLDS)
    return rows if len(np.unique(targets[rows])) > 1 else rows[:0]


@one_blas_thread()
def out_of_fold_probabilities(
    features: npt.NDArray[np.floating], labels: Labels, *, seed: int
) -> Floats:
    """Return class probabilities, (N, K), by five-fold cross-validation of a linear discriminant.

    (N, D) features, and (N,) labels from 0 to K - 1, at least five of each.
    """
    components = reduce_dimensions(features)
    probs = np.empty((len(labels), int(labels.max()) + 1))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, held_out in folds.split(components, labels):
        model = fit_lda(components[fitted], labels[fitted])
        probs[held_out] = model.predict_proba(components[held_out])
    return probs


def rank_label_issues(probs: Floats, labels: Labels) -> list[LabelIssue]:
    """Return the images that are more likely of another class, the least likely label first.

    (N, K) probabilities out of fold, (N,) labels.

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
        LabelIssue(int(row), int(best[row]), float(own[row]), float(other[row]))
        for row in order[own[order] < other[order]]
    ]
