"""Finds a second opinion: from training pictures what it knows, from held-out ones what it counts.

Letters: N training pictures, M held-out ones, D numbers that describe each, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from swinclf.evaluation.calibration import fit_temperature
from swinclf.evaluation.strangeness import fit_feature_space
from swinclf.feature_space import BYTE, Floats
from swinclf.mixture import Mixture
from swinclf.second_opinion import (
    PictureClassifier,
    SecondOpinion,
    Told,
    disagreement,
    joint_strangeness,
    support,
    unusualness,
)

FEWEST_OF_A_CLASS = 5  # training pictures, on average
FEWEST_HELD_OUT = 20
DIRECTIONS = 128
STEPS = 101  # of what is usual
PRIOR = 1.0  # deviation of a weight around 0

Labels = npt.NDArray[np.integer]
Doubles = npt.NDArray[np.float64]


def fit_picture_classifier(
    kinds: Mixture, described: Floats, labels: Labels, count: int, held_out: Floats, truth: Labels
) -> PictureClassifier | None:
    """Fits a classifier on training pictures, and its temperature on others.

    Args:
        kinds: That pictures are described by.
        described: (N, D) training pictures.
        labels: (N,) class indices.
        count: K.
        held_out: (M, D) other pictures.
        truth: (M,) their class indices.

    Returns:
        The classifier; None where there are too few pictures to tell anything.
    """
    classes = np.unique(labels)
    enough = len(labels) >= FEWEST_OF_A_CLASS * len(classes) and len(classes) > 1
    space = None
    if enough:
        space = fit_feature_space(described, labels, directions=DIRECTIONS, basis_kept=BYTE)
    judged = np.isin(truth, classes)
    if space is None or judged.sum() < FEWEST_HELD_OUT:
        return None
    squares, _ = space.distances(held_out[judged])
    temperature = fit_temperature(squares / -2, np.searchsorted(classes, truth[judged]))
    return PictureClassifier(kinds, space, tuple(classes.tolist()), count, temperature)


def fit_second_opinion(
    by_edges: PictureClassifier,
    by_hues: PictureClassifier,
    told: Sequence[Told],
    probabilities: Floats,
    targets: Labels,
) -> SecondOpinion | None:
    """Finds how far classifiers are to be believed about a network's answers.

    Args:
        by_edges: A classifier of small pictures.
        by_hues: Another.
        told: What each tells of pictures that nothing was trained on.
        probabilities: (M, K) of the network, for these.
        targets: (M,) their class indices.

    Returns:
        The opinion; None where the network's own probability tells better which of its answers are
        right.

    Source: logistic regression, as Platt 1999 turns scores into probabilities.
    """
    answers = probabilities.argmax(axis=1)
    right = answers == targets
    own, theirs = (
        _logistic(values, right) for values in (_log_odds(probabilities), support(answers, told))
    )
    if own.likelihood >= theirs.likelihood:
        return None
    usual = [_usual(disagreement(told)), _usual(joint_strangeness(told))]
    usual.append(_usual(unusualness(told, *usual)))
    return SecondOpinion(by_edges, by_hues, theirs.bias, theirs.weight, *usual)


def _log_odds(probabilities: Floats) -> Doubles:
    """Of the most likely class, (M, K) -> (M,)."""
    best = probabilities.max(axis=1).astype(np.float64).clip(1e-6, 1 - 1e-6)
    odds: Doubles = np.log(best / (1 - best))
    return odds


def _usual(values: Floats) -> Floats:
    """Even steps from the least of them to the most, (M,) -> (STEPS,)."""
    return np.quantile(values, np.linspace(0, 1, STEPS)).astype(np.float32)


class _Logistic(NamedTuple):
    """The log odds of being right are bias + weight value; with the log likelihood of that."""

    bias: float
    weight: float
    likelihood: float


def _logistic(values: npt.NDArray[np.floating], right: npt.NDArray[np.bool_]) -> _Logistic:
    """By maximum likelihood, with a normal prior on the weight, which is never negative.

    For what makes an answer likelier does not speak against it.
    """
    columns = np.column_stack([np.ones(len(values)), values])
    signs = np.where(right, 1.0, -1.0)

    def loss(solution: Doubles) -> tuple[float, Doubles]:
        margins = signs * (columns @ solution)
        pull = np.array([0.0, solution[1]]) / PRIOR**2
        slope = -(signs * expit(-margins)) @ columns + pull
        return float(np.logaddexp(0, -margins).sum() + pull @ solution / 2), slope

    bounds = [(None, None), (0, None)]
    found = minimize(loss, np.zeros(2), jac=True, bounds=bounds, method="L-BFGS-B").x
    margins = signs * (columns @ found)
    return _Logistic(float(found[0]), float(found[1]), -float(np.logaddexp(0, -margins).sum()))
