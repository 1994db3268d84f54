"""Labels that are probably wrong: what classifiers that never saw an image think of its label.

Knows features and labels; knows nothing about networks, images or files.

Letters: N images, D features, K classes, S kinds of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.model_selection import StratifiedKFold

from swinclf.evaluation.discriminant import Discriminant, Floats, main_directions
from swinclf.runtime import on_one_thread

FOLDS = 5  # classes of fewer images are not judged
RIDGE = 0.3  # added to a kernel whose values are at most 1
PRIOR = 1e-3  # of the weights of kinds of scores

Labels = npt.NDArray[np.integer]


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


@on_one_thread()
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
        model = Discriminant.fitted(directions[fitted], labels[fitted])
        probs[judged] = model.probabilities(directions[judged])
    return probs


@on_one_thread()
def judge_by_likeness(
    described: npt.NDArray[np.float32], labels: Labels, classes: int
) -> npt.NDArray[np.float32]:
    """Judges every image by kernel ridge regression on all the others.

    Of use where a classifier has to bend, on at most some thousand images: its memory is N x N.

    Args:
        described: (N, D), whose distances tell how alike images are.
        labels: (N,), 0 to K - 1; a class may have no image.
        classes: K.

    Returns:
        (N, K) scores, the higher the more likely.

    Source: leaving each one out in closed form, Rifkin & Lippert 2007, "Notes on Regularized Least
    Squares", sec. 4.
    """
    kernel = _gaussian(described)
    kernel[np.diag_indices_from(kernel)] += RIDGE
    wanted = np.eye(classes, dtype=np.float32)[labels]
    factor, _ = lapack.spotrf(kernel.T, lower=1, overwrite_a=1)
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)  # below its diagonal
    left = blas.ssymm(1.0, inverse, wanted - wanted.mean(axis=0), lower=1)
    scores: npt.NDArray[np.float32] = wanted - left / np.diag(inverse)[:, None]
    return scores


def pool_scores(scores: Sequence[npt.NDArray[np.floating]], labels: Labels) -> Floats:
    """Weighs kinds of scores against each other as the labels bear them out.

    Args:
        scores: S of (N, K), of which none knew an image's own label.
        labels: (N,).

    Returns:
        (N, K) probabilities: softmax of the weighted sum and a number a class, fitted by maximum
        likelihood. S + K numbers from N labels: too few to learn a label by heart.

    Source: stacking, Wolpert 1992; Platt 1999.
    """
    scaled = np.stack([one / max(float(one.std()), 1e-9) for one in scores])
    kinds, count, classes = scaled.shape
    rows = np.arange(count)

    def loss(solution: Floats) -> tuple[float, Floats]:
        logits = np.tensordot(solution[:kinds], scaled, 1) + solution[kinds:]
        logs = log_softmax(logits, axis=1)
        error = np.exp(logs)
        error[rows, labels] -= 1
        gradient = np.append(np.tensordot(scaled, error, 2), error.sum(axis=0)) / count
        value = -float(logs[rows, labels].mean()) + PRIOR * float(solution @ solution) / 2
        return value, gradient + PRIOR * solution

    found = minimize(loss, np.zeros(kinds + classes), jac=True, method="L-BFGS-B").x
    pooled: Floats = softmax(np.tensordot(found[:kinds], scaled, 1) + found[kinds:], axis=1)
    return pooled


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


def _gaussian(described: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N, N) exp(-d^2 / m), m the median of the squared distances d^2."""
    squared: npt.NDArray[np.float32] = described @ described.T
    norms = np.diag(squared).copy()
    squared *= -2
    squared += norms[:, None]
    squared += norms
    np.maximum(squared, 0, out=squared)
    step = max(1, len(squared) // 500)
    squared /= -max(float(np.median(squared[::step])), 1e-9)
    return np.exp(squared, out=squared)
