"""A linear discriminant of features: a classifier fitted in a moment.

Letters: N images, D features, R directions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

DIRECTIONS = 128

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


def fit_discriminant(directions: Floats, labels: Labels) -> LinearDiscriminantAnalysis:
    """Fit images, (N, R) and (N,), of at least two classes.

    Source: Fisher 1936; covariances shrunk as in Ledoit & Wolf 2004.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=counts / len(labels))
    twice = counts[classes] == 1  # of one image scikit-learn warns, which no thread can catch alone
    return model.fit(
        np.concatenate([directions, directions[twice]]), np.concatenate([labels, labels[twice]])
    )
