"""Confidence that means something: a temperature, and thresholds below which not to answer.

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
LOWEST, HIGHEST = 0.05, 20.0  # temperatures beyond say that the logits, not their scale, are wrong
PRIOR_DEVIATION = 0.5  # of log T around 0: what a handful of images can say does not reach further
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Calibration:
    """A temperature and what it is worth.

    Attributes:
        temperature: Logits are divided by this before the softmax, > 0. It is 1 where no
            temperature would lower the error.
        images: Held-out images it was fitted on.
        ece_before: Expected calibration error with temperature 1, in [0, 1].
        ece_after: The same with temperatures fitted on other images than those they are judged
            on (five folds), in [0, 1]: what to expect of a fitted one on new images.
    """

    temperature: float
    images: int
    ece_before: float
    ece_after: float


def calibrate(
    logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], *, seed: int
) -> Calibration:
    """Fits a temperature and judges it by cross-fitting.

    Args:
        logits: (N, K), N >= 1.
        targets: (N,) class indices.
        seed: Of the folds.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    plain = _confidence(logits, 1.0)
    crossed = plain.copy()
    folds = min(FOLDS, len(targets))
    for fold in range(folds):
        judged, fitted = order[fold::folds], np.delete(order, np.s_[fold::folds])
        if len(fitted):
            crossed[judged] = _confidence(
                logits[judged], fit_temperature(logits[fitted], targets[fitted])
            )
    right = logits.argmax(axis=1) == targets
    before, after = (expected_calibration_error(one, right) for one in (plain, crossed))
    return Calibration(
        temperature=fit_temperature(logits, targets) if after < before else 1.0,
        images=len(targets),
        ece_before=before,
        ece_after=after,
    )


def fit_temperature(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer]) -> float:
    """The temperature that makes the targets most likely, held near 1 where images are few.

    Args:
        logits: (N, K).
        targets: (N,) class indices.

    Returns:
        T in [0.05, 20].

    Source: On Calibration of Modern Neural Networks, Guo et al. 2017, sec. 4.2; a normal prior on
    log T added, without which a classifier that makes no mistake would be sharpened for ever.
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(targets))

    def loss(log_t: float) -> float:
        log_probs = log_softmax(logits / np.exp(log_t), axis=1)[rows, targets]
        return float(-log_probs.sum() + 0.5 * (log_t / PRIOR_DEVIATION) ** 2)

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def thresholds(
    confidence: npt.NDArray[np.floating],
    right: npt.NDArray[np.bool_],
    precisions: Sequence[float] = PRECISIONS,
) -> list[Threshold]:
    """For each wished precision the least probability at which held-out images reach it.

    One more answer than there were is counted as wrong, so that few images promise little: a
    precision of 0.95 needs nineteen right answers in a row.

    Args:
        confidence: (N,) the probability of each image's answer.
        right: (N,) whether the answer was right.
        precisions: Wished shares of right answers.

    Returns:
        A threshold for each precision that is reached; those that are not are left out.

    Source: the correction of Conformal Risk Control, Angelopoulos et al. 2022, eq. 4, applied to
    the answers given.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], np.cumsum(right[order])
    answered = np.arange(1, len(order) + 1)
    reached = hits / (answered + 1)
    # Images of equal probability are answered together or not at all.
    is_last = np.append(ranked[1:] != ranked[:-1], True)
    rows = []
    for precision in precisions:
        fits = np.flatnonzero((reached >= precision) & is_last)
        if len(fits):
            last = int(fits[-1])
            rows.append(
                Threshold(precision, float(ranked[last]), float(answered[last] / len(order)))
            )
    return rows


def _confidence(logits: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float64]:
    """Probability of each image's answer, (N, K) -> (N,)."""
    scaled: npt.NDArray[np.float64] = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    confidence: npt.NDArray[np.float64] = np.exp(scaled.max(axis=1))
    return confidence
