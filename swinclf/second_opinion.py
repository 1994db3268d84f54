"""A second opinion on an answer, for a network that is often wrong: what small pictures look like.

A network that is often wrong is sure of pictures of unknown classes, too. So how far an answer is
trusted follows from two things that it has no part in: whether classifiers that know nothing of the
network think so, and whether the picture is of a known sort at all: one on which they agree with
each other, and near what they learned. Knows arrays; knows nothing about networks, images or files.

Letters: N pictures, D numbers that describe each, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from swinclf.feature_space import BYTE, SINGLE, FeatureSpace, Floats, packed, unpacked
from swinclf.mixture import Mixture

SIDE = 64  # of a small picture, px
RAREST = 0.1  # share of the known pictures that is given up, for being as unusual as the unknown
TINY = 1e-9  # a probability that stands for none


class Told(NamedTuple):
    """What a classifier tells of N pictures.

    Attributes:
        log_probabilities: (N, K).
        strangeness: (N,) > 0, about 1 for a picture like the training pictures.
    """

    log_probabilities: Floats
    strangeness: Floats


@dataclass(frozen=True)
class PictureClassifier:
    """Classes told by the nearest centre among described pictures.

    Attributes:
        kinds: Of places, that pictures are described by.
        space: Where the training pictures lie.
        classes: Class index of each of its centres.
        count: K, of which some may have no centre.
        temperature: Squared distances are divided by this, > 0.
    """

    kinds: Mixture
    space: FeatureSpace
    classes: tuple[int, ...]
    count: int
    temperature: float

    def tell(self, described: Floats) -> Told:
        """Judges pictures described by `kinds`, (N, D).

        Source: with one covariance for all classes, the linear discriminant of Fisher 1936.
        """
        squares, rest = self.space.distances(described)
        logits = squares / (-2 * self.temperature)
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = np.zeros((len(described), self.count), np.float32)
        probabilities[:, list(self.classes)] = likely / likely.sum(axis=1, keepdims=True)
        width, directions = self.space.basis.shape
        squared = squares.min(axis=1) / directions
        if width > directions:  # thousands, among which those of the main ones would drown
            squared = (squared + rest / (width - directions)) / 2
        return Told(np.log(probabilities + TINY), np.sqrt(squared + TINY))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kinds": self.kinds.to_dict(),
            "space": self.space.to_dict(basis=BYTE),
            "classes": list(self.classes),
            "count": self.count,
            "temperature": self.temperature,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PictureClassifier:
        """The inverse of `to_dict`, but for rounding.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        space, classes = FeatureSpace.from_dict(values["space"]), tuple(map(int, values["classes"]))
        count = int(values["count"])
        if len(classes) != len(space.centres) or not all(0 <= one < count for one in classes):
            raise ValueError(f"{len(space.centres)} of {count} classes. Received: {classes[:5]}")
        kinds, temperature = Mixture.from_dict(values["kinds"]), float(values["temperature"])
        if len(space.mean) != 2 * kinds.mean.size:
            raise ValueError(f"{2 * kinds.mean.size} numbers. Received: {len(space.mean)}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"a temperature is a number > 0. Received: {temperature}")
        return cls(kinds, space, classes, count, temperature)


@dataclass(frozen=True)
class SecondOpinion:
    """When to trust an answer of a network.

    Attributes:
        by_edges: Looks at the edges in small pictures.
        by_hues: Looks at their colours.
        bias: Of the log odds that an answer is right.
        weight: What the support of an answer counts among them, >= 0.
        disagreed: (Q,) `disagreement` on known pictures, at even steps from the least to the most.
        strange: (Q,) `joint_strangeness` of known pictures, likewise.
        unusual: (Q,) `unusualness` of known pictures, likewise.
    """

    by_edges: PictureClassifier
    by_hues: PictureClassifier
    bias: float
    weight: float
    disagreed: Floats
    strange: Floats
    unusual: Floats

    @property
    def kinds(self) -> tuple[Mixture, Mixture]:
        """Of places, that pictures are described by: their edges, and their colours."""
        return self.by_edges.kinds, self.by_hues.kinds

    def tell(self, described: Iterable[Floats]) -> list[Told]:
        """What each classifier tells of pictures described by `kinds`."""
        classifiers = (self.by_edges, self.by_hues)
        return [one.tell(seen) for one, seen in zip(classifiers, described, strict=True)]

    def trust(self, answers: npt.NDArray[np.integer], told: Sequence[Told]) -> Floats:
        """How far answers are to be trusted.

        Args:
            answers: (N,) class indices that the network answers.
            told: What the classifiers, by edges and by hues, tell of the pictures.

        Returns:
            (N,) in [0, 1]: the probability that the answer is right and the picture of a known
            sort, if every other picture were of an unknown one. 0 where that is as unusual as the
            most unusual tenth of known pictures.
        """
        agreed = self.bias + self.weight * support(answers, told)
        chance = p_value(unusualness(told, self.disagreed, self.strange), self.unusual)
        trust = is_known(chance) * np.exp(-np.logaddexp(0, -agreed))
        trusted: Floats = np.where(chance < RAREST, 0, trust).astype(np.float32)
        return trusted

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "by_edges": self.by_edges.to_dict(),
            "by_hues": self.by_hues.to_dict(),
            "bias": self.bias,
            "weight": self.weight,
            "usual": packed(np.stack([self.disagreed, self.strange, self.unusual]), SINGLE),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SecondOpinion:
        """The inverse of `to_dict`, but for rounding.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        edges, hues = (PictureClassifier.from_dict(values[by]) for by in ("by_edges", "by_hues"))
        disagreed, strange, unusual = unpacked(values["usual"])
        bias, weight = float(values["bias"]), float(values["weight"])
        return cls(edges, hues, bias, weight, disagreed, strange, unusual)


def support(answers: npt.NDArray[np.integer], told: Sequence[Told]) -> Floats:
    """Log probability that all classifiers together give to answers, (N,) <= 0."""
    rows = np.arange(len(answers))
    together: Floats = np.sum([one.log_probabilities[rows, answers] for one in told], axis=0)
    return together


def disagreement(told: Sequence[Told]) -> Floats:
    """How little any class has from all classifiers at once, (N,) >= 0."""
    shared = np.sum([one.log_probabilities for one in told], axis=0)
    least: Floats = -shared.max(axis=1)
    return least


def joint_strangeness(told: Sequence[Told]) -> Floats:
    """Of N pictures, by all that was told of them: (N,)."""
    joint: Floats = np.prod([one.strangeness for one in told], axis=0)
    return joint


def unusualness(told: Sequence[Told], disagreed: Floats, strange: Floats) -> Floats:
    """How far pictures differ from known ones, by disagreement and strangeness together: (N,).

    Source: sums of logarithms of p-values, Fisher 1925.
    """
    chances = p_value(disagreement(told), disagreed), p_value(joint_strangeness(told), strange)
    joint: Floats = -np.log(chances).sum(axis=0)
    return joint


def p_value(values: Floats, usual: Floats) -> Floats:
    """What share of known pictures has as high a value or a higher one, (N,) > 0.

    Args:
        values: (N,).
        usual: (Q,) those of known pictures, at even steps.
    """
    shares = np.interp(values, usual, np.linspace(1, 0, len(usual)))
    return np.maximum(shares, 0.5 / len(usual)).astype(np.float32)


def is_known(chance: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Probability that a picture is of a known sort, where one in two is.

    Args:
        chance: (N,) share of known pictures that are as unusual or more, in (0, 1]: a p-value.

    Returns:
        (N,) in [0, 2/3].

    Source: the p-values of known pictures are even; those of unknown ones are taken to have the
    density kappa p^(kappa - 1) of Vovk & Wang 2021, "E-values: Calibration, Combination and
    Applications", with kappa = 1/2.
    """
    root = np.sqrt(chance)
    known: npt.NDArray[np.float64] = root / (root + 0.5)
    return known
