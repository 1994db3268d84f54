"""A classifier fitted in a moment, for questions that take many of them.

Who is mislabelled, what is an image worth.

Letters: N images, D features, R directions, K classes.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

DIRECTIONS = 128

Floats = npt.NDArray[np.float64]


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


def class_probabilities(
    fitted: Floats, targets: npt.NDArray[np.integer], judged: Floats
) -> tuple[npt.NDArray[np.integer], Floats]:
    """Fits a linear discriminant on some images and judges others by it.

    Args:
        fitted: (N, R).
        targets: (N,) class indices, at least two different ones.
        judged: (M, R).

    Returns:
        The classes that were there, (K,), and probabilities of them, (M, K).

    Source: Fisher 1936; covariance shrunk as in Ledoit & Wolf 2004.
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that are constant, or classes of one image
        model.fit(fitted, targets)
        probabilities: Floats = model.predict_proba(judged)
    return model.classes_, probabilities
