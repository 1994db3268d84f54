"""Temperature scaling, and rejection thresholds for target precisions.

Knows logits and targets; knows nothing about networks, images or files.

Letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from swinclf.confidence.parameters import Threshold
from swinclf.metrics import expected_calibration_error

FOLDS = 5
LOWEST, HIGHEST = 0.05, 20.0  # beyond, the logits are wrong and not their scale
PRIOR_DEVIATION = 0.5  # of log T around 0: a few images must not move T further
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature and its effect on the calibration error.

    Attributes:
        temperature: Logits are divided by this before the softmax, > 0. It is 1 if scaling would
            not lower the error.
        images: Held-out images it was fitted on.
        ece_before: Expected calibration error with temperature 1, in [0, 1].
        ece_after: The same with a temperature, by cross-validation (five folds), in [0, 1]: an
            estimate for new images.
    """

    temperature: float
    images: int
    ece_before: float
    ece_after: float


def calibrate(
    logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], *, seed: int
) -> Calibration:
    """Fit a temperature and estimate its effect by cross-validation.

    Args:
        logits: (N, K), N >= 1.
        targets: (N,) class indices.
        seed: Seed of the folds.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    unscaled = _confidence(logits, 1.0)
    scaled = unscaled.copy()
    folds = min(FOLDS, len(targets))
    for fold in range(folds):
        test, train = order[fold::folds], np.delete(order, np.s_[fold::folds])
        if len(train):
            scaled[test] = _confidence(logits[test], fit_temperature(logits[train], targets[train]))
    right = logits.argmax(axis=1) == targets
    before, after = (expected_calibration_error(one, right) for one in (unscaled, scaled))
    return Calibration(
        temperature=fit_temperature(logits, targets) if after < before else 1.0,
        images=len(targets),
        ece_before=before,
        ece_after=after,
    )


def fit_temperature(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer]) -> float:
    """Return the maximum a posteriori temperature, close to 1 if there are few images.

    Args:
        logits: (N, K).
        targets: (N,) class indices.

    Returns:
        T in [0.05, 20].

    Source: On Calibration of Modern Neural Networks, Guo et al. 2017, sec. 4.2; a normal prior on
    log T added, without which a classifier that makes no mistake would get T = 0.
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(targets))

    def loss(log_t: float) -> float:
        log_probs = log_softmax(logits / np.exp(log_t), axis=1)[rows, targets]
        return float(-log_probs.sum() + 0.5 * (log_t / PRIOR_DEVIATION) ** 2)

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def fit_thresholds(
    confidence: npt.NDArray[np.floating],
    right: npt.NDArray[np.bool_],
    precisions: Sequence[float] = PRECISIONS,
) -> list[Threshold]:
    """Return the lowest probability at which held-out images reach each target precision.

    One additional wrong prediction is counted, so that few images do not promise much: a precision
    of 0.95 needs at least nineteen correct predictions.

    Args:
        confidence: (N,) probability of each image's predicted class.
        right: (N,) whether the prediction is correct.
        precisions: Target shares of correct predictions.

    Returns:
        A threshold for each precision that is reached; the others are left out.

    Source: the correction of Conformal Risk Control, Angelopoulos et al. 2022, eq. 4, applied to
    the accepted predictions.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], np.cumsum(right[order])
    accepted = np.arange(1, len(order) + 1)
    reached = hits / (accepted + 1)
    # Images of equal probability are accepted together or not at all.
    is_last = np.append(ranked[1:] != ranked[:-1], True)
    rows = []
    for precision in precisions:
        fits = np.flatnonzero((reached >= precision) & is_last)
        if len(fits):
            last = int(fits[-1])
            coverage = float(accepted[last] / len(order))
            rows.append(Threshold(precision, float(ranked[last]), coverage))
    return rows


def _confidence(logits: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float64]:
    """Return the probability of each image's predicted class, (N, K) -> (N,)."""
    scaled: npt.NDArray[np.float64] = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    confidence: npt.NDArray[np.float64] = np.exp(scaled.max(axis=1))
    return confidence
