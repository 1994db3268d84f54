"""A classifier fitted in a moment, for questions that take many of them.

Who is mislabelled, what is an image worth. A linear discriminant is the sum of what each class
says of itself, so that a class with other images costs no look at the rest.

Letters: N images, M other images, D features, R directions, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

DIRECTIONS = 128
FLOOR = 1e-12  # of the mean variance, added to every one: constant features have none

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]


def main_directions(features: npt.NDArray[np.floating]) -> Floats:
    """Leaves of the features what most of their variance is in, (N, D) -> (N, R), R <= 128.

    Labels take no part, so nothing that is fitted on the result has seen one it should not have.
    """
    values = features.astype(np.float64)
    count = min(DIRECTIONS, *values.shape)
    if count == values.shape[1]:
        centred: Floats = values - values.mean(axis=0)
        return centred
    reduced: Floats = PCA(count, svd_solver="covariance_eigh").fit_transform(values)
    return reduced


@dataclass(frozen=True)
class Discriminant:
    """Classes as clouds of one shape, each with its own middle.

    Attributes:
        classes: (K,) class indices, ascending.
        counts: (K,) images of each.
        means: (K, R).
        scatter: (R, R), the sum over images of their class's covariance.

    Source: Fisher 1936; covariances shrunk as in Ledoit & Wolf 2004.
    """

    classes: Labels
    counts: Floats
    means: Floats
    scatter: Floats

    @classmethod
    def fitted(cls, directions: Floats, labels: Labels) -> Discriminant:
        """Fits images, (N, R) and (N,), of at least two classes."""
        classes, counts = np.unique(labels, return_counts=True)
        means = np.empty((len(classes), directions.shape[1]))
        scatter = np.zeros((directions.shape[1],) * 2)
        for place, label in enumerate(classes):
            own = directions[labels == label]
            means[place] = own.mean(axis=0)
            scatter += _scatter(own)
        return cls(classes, counts.astype(np.float64), means, scatter)

    def with_class(self, label: int, before: Floats, now: Floats) -> Discriminant:
        """The same with other images of one class: what it was fitted on, and what it has now."""
        place = int(np.searchsorted(self.classes, label))
        counts, means = self.counts.copy(), self.means.copy()
        counts[place], means[place] = len(now), now.mean(axis=0)
        return Discriminant(
            self.classes, counts, means, self.scatter - _scatter(before) + _scatter(now)
        )

    def probabilities(self, directions: Floats) -> Floats:
        """Of each class, (M, R) -> (M, K)."""
        images = self.counts.sum()
        covariance = self.scatter / images
        covariance[np.diag_indices_from(covariance)] += FLOOR * covariance.diagonal().mean()
        weights = solve(covariance, self.means.T, assume_a="pos")
        bias = np.log(self.counts / images) - (self.means * weights.T).sum(axis=1) / 2
        probabilities: Floats = softmax(directions @ weights + bias, axis=1)
        return probabilities


def _scatter(own: Floats) -> Floats:
    """A class's shrunk covariance times its images, (N, R) -> (R, R)."""
    scaler = StandardScaler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class of one image
        shrunk, _ = ledoit_wolf(scaler.fit_transform(own))
    scatter: Floats = len(own) * np.outer(scaler.scale_, scaler.scale_) * shrunk
    return scatter
