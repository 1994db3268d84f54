"""Linear discriminant analysis on the principal components of features.

Shapes: N images, D features, R components.
"""

from __future__ import annotations

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
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=counts / len(labels))
    twice = counts[classes] == 1  # of one image scikit-learn warns, which no thread can catch alone
    return model.fit(
        np.concatenate([components, components[twice]]), np.concatenate([labels, labels[twice]])
    )
