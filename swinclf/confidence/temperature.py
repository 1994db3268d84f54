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
from scipy.special import bdtrc, log_softmax

from swinclf.confidence.selective import Threshold
from swinclf.metrics import expected_calibration_error

FOLDS = 5
LOWEST, HIGHEST = 0.05, 20.0  # beyond, the logits are wrong and not their scale
PRIOR_DEVIATION = 0.5  # of log T around 0: a few images must not move T further
SIGNIFICANT = 1.645  # standard errors, of a one-sided test at 5 %
FAILURE_RATE = 0.05  # probability that a threshold misses its precision on new images
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature and its effect on the calibration error."""

    # logits are divided by this before the softmax, > 0. It is 1 unless scaling demonstrably helps
    temperature: float
    images: int  # held-out images it was fitted on
    ece_before: float  # expected calibration error with temperature 1, in [0, 1]
    # the same with a temperature, by cross-validation (five folds), in [0, 1]: an estimate for new
    # images
    ece_after: float


def calibrate(
    logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], *, seed: int
) -> Calibration:
    """Fit a temperature to (N, K) logits and estimate its effect by cross-validation.

    It is used if it lowers the negative log-likelihood of images that it was not fitted on by more
    than chance: on a few hundred images the calibration error (ECE) is mostly noise.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    unscaled = log_softmax(logits.astype(np.float64), axis=1)
    scaled = unscaled.copy()
    folds = min(FOLDS, len(targets))
    for fold in range(folds):
        test, train = order[fold::folds], np.delete(order, np.s_[fold::folds])
        if len(train):
            temperature = fit_temperature(logits[train], targets[train])
            scaled[test] = log_softmax(logits[test].astype(np.float64) / temperature, axis=1)
    right = logits.argmax(axis=1) == targets
    rows = np.arange(len(targets))
    gain = (scaled - unscaled)[rows, targets]
    helps = gain.mean() > SIGNIFICANT * gain.std() / len(gain) ** 0.5
    before, after = (
        expected_calibration_error(np.exp(one.max(axis=1)), right) for one in (unscaled, scaled)
    )
    return Calibration(
        temperature=fit_temperature(logits, targets) if helps else 1.0,
        images=len(targets),
        ece_before=before,
        ece_after=after,
    )


def fit_temperature(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer]) -> float:
    """Return the maximum a posteriori temperature, in [0.05, 20], close to 1 for few images.

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
    """Return the lowest probability at which new images probably reach each target precision.

    A lower confidence bound of the precision (Clopper & Pearson 1934, one-sided, 95 %) has to reach
    it, so that few held-out images promise little: 0.8 needs at least 14 correct predictions
    without a mistake, 0.9 needs 29 and 0.95 needs 59. `benchmarks/held_out.py` measures how often
    new images reach it. Precisions that are not reached have no threshold.

    `confidence` is the probability of each predicted class, (N,), `right` whether it is correct.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], np.cumsum(right[order])
    accepted = np.arange(1, len(order) + 1)
    # Images of equal probability are accepted together or not at all.
    is_last = np.append(ranked[1:] != ranked[:-1], True)
    rows = []
    for precision in precisions:
        # The probability of so many correct predictions if the precision were just missed.
        chance = bdtrc(hits - 1, accepted, precision)
        fits = np.flatnonzero((chance <= FAILURE_RATE) & is_last)
        if len(fits):
            last = int(fits[-1])
            coverage = float(accepted[last] / len(order))
            rows.append(Threshold(precision, float(ranked[last]), coverage))
    return rows
