"""Linear discriminant analysis on the principal components of features.

Shapes: N images, D features, R components.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

COMPONENTS = 128

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]


def reduce_dimensions(features: npt.NDArray[np.floating]) -> Floats:
    """Return the principal components, (N, D) -> (N, R), R <= 128; uses no labels."""
    values = features.astype(np.float64)
    count = min(COMPONENTS, *values.shape)
    if count == values.shape[1]:
        centred: Floats = values - values.mean(axis=0)
        return centred
    reduced: Floats = PCA(count, svd_solver="covariance_eigh").fit_transform(values)
    return reduced


def fit_lda(components: Floats, labels: Labels) -> LinearDiscriminantAnalysis:
    """Return a classifier fitted on (N, R) components and (N,) labels of at least two classes.

    Source: Fisher 1936; covariances shrunk as in Ledoit & Wolf 2004.
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class of one image
        return model.fit(components, labels)
