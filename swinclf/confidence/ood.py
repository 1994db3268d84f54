"""Out-of-distribution detection: how unlike the training images an image is, by its features.

A Gaussian model of the training features (`FeatureSpace`), its fit (`fit_feature_space`) and its
serialisation. Knows arrays; knows nothing about networks, images or files.

Letters: N images, D features, R principal directions, K classes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from swinclf.device import one_blas_thread

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating]
STORED_DTYPE = "<f2"
_ARRAYS = ("mean", "basis", "whiten", "centres")
# Of the distance to all images, next to 1 of the relative distance. On features of the embedded
# weights a larger weight detects classes that were left out less well; `benchmarks/reject.py`
# measures it.
BACKGROUND_WEIGHT = 0.5
UNSCALED = (0.0, 1.0, 0.0, 1.0)

MAX_EXACT = 600  # rows or columns up to which the SVD is exact
MAX_DIRECTIONS = 64  # R
MIN_FREEDOM = 8  # degrees of freedom that a covariance needs


@dataclass(frozen=True)
class FeatureSpace:
    """A Gaussian model of the training features with one covariance for all classes."""

    mean: Floats  # (D,) mean of all training features
    basis: Floats  # (D, R) orthonormal principal directions
    whiten: Floats  # (R, R) whitening of the within-class covariance
    centres: Floats  # (K, R) class means, whitened
    leftover: float  # inverse variance along each of the other directions; 0 if there are none
    # (R, R) whitening of the covariance of all images; None in a model of a version that did not
    # use it
    background: Floats | None = None
    # mean and standard deviation over the training images of the relative distance, then of the
    # distance to all images
    scale: tuple[float, float, float, float] = UNSCALED

    def ood_scores(self, features: Floats) -> Floats:
        """Return how unlike the training images each image is, (N, D) -> (N,).

        Two squared Mahalanobis distances are added, each in standard deviations over the training
        images: to the nearest class relative to all images together, which finds other classes of
        the same kind of image, and to all images, which finds other kinds of images. About 1 for an
        image like the training images, never below 0.

        Source: A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection, Ren et al.
        2021, eq. 3; the other directions as in Tipping & Bishop 1999, sec. 3.2.
        """
        to_class, to_all = self._squared_distances(features)
        if self.background is None:
            distances: Floats = np.sqrt(to_class / features.shape[1]).astype(np.float32)
            return distances
        mean, deviation, all_mean, all_deviation = self.scale
        score = (to_class - to_all - mean) / deviation
        score = score + BACKGROUND_WEIGHT * (to_all - all_mean) / all_deviation
        scores: Floats = (np.logaddexp(0.0, score) / np.log(2.0)).astype(np.float32)
        return scores

    def quadratic_rule(self, limit: float) -> dict[str, Floats]:
        """Return `ood_scores(features) <= limit`, for a limit > 0, as one comparison of squares.

        Of x = features - `mean` and y = x @ `basis`, it is
        min_k |y @ `whiten` - `centres`_k|^2 + y @ `background` @ y + `other` |x|^2 <= `limit`.

        The arrays by those names are (D,), (D, R), (R, R), (K, R), (R, R), () and ().
        """
        identity = np.eye(len(self.whiten))
        if self.background is None:
            weight, other = 1.0, self.leftover
            background, bound = -other * identity, self.basis.shape[0] * limit**2
        else:
            mean, deviation, all_mean, all_deviation = self.scale
            weight, to_all = 1 / deviation, BACKGROUND_WEIGHT / all_deviation
            other = to_all * self.leftover
            square = self.background.astype(np.float64) @ self.background.T
            background = (to_all - weight) * square - other * identity
            score = np.log(np.expm1(limit * np.log(2.0)))  # the inverse of the softplus
            bound = score + mean * weight + all_mean * to_all
        arrays = {
            "mean": self.mean,
            "basis": self.basis,
            "whiten": self.whiten * weight**0.5,
            "centres": self.centres * weight**0.5,
            "background": background,
            "other": np.array(other),
            "limit": np.array(bound),
        }
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    def scaled_to(self, features: Floats) -> FeatureSpace:
        """Return the same space with the scale of training features, (N, D)."""
        to_class, to_all = self._squared_distances(features)
        relative = to_class - to_all
        means = float(relative.mean()), float(to_all.mean())
        deviations = float(relative.std()) or 1.0, float(to_all.std()) or 1.0
        return replace(self, scale=(means[0], deviations[0], means[1], deviations[1]))

    def _squared_distances(self, features: Floats) -> tuple[Reals, Reals]:
        """Return the squared distances to the nearest class and to all images, (N,) each."""
        centred = features - self.mean
        along = centred @ self.basis  # (N, D) -> (N, R)
        residual = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0) * self.leftover
        whitened = along @ self.whiten
        squares = (whitened**2).sum(1)[:, None] + (self.centres**2).sum(1)[None]
        squares = np.maximum(squares - 2 * whitened @ self.centres.T, 0.0)  # (N, K)
        background = self.whiten if self.background is None else self.background
        return squares.min(axis=1) + residual, ((along @ background) ** 2).sum(1) + residual

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the arrays in 16-bit floats."""
        values: dict[str, Any] = {name: pack_array(getattr(self, name)) for name in _ARRAYS}
        values["leftover"] = self.leftover
        if self.background is not None:
            values |= {"background": pack_array(self.background), "scale": list(self.scale)}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpace:
        """Return the inverse of `to_dict`, but for rounding.

        Raises:
            KeyError, TypeError, ValueError: If a value is missing or invalid.
        """
        arrays = {name: unpack_array(values[name]) for name in _ARRAYS}
        scale = values.get("scale", UNSCALED)
        mean, deviation, all_mean, all_deviation = map(float, scale)
        space = cls(
            **arrays,
            leftover=float(values["leftover"]),
            background=unpack_array(values["background"]) if "background" in values else None,
            scale=(mean, deviation, all_mean, all_deviation),
        )
        if space.basis.ndim != 2 or space.centres.ndim != 2 or not len(space.centres):
            raise ValueError(f"tables of numbers. Received: {space.basis.shape}")
        (width,), directions = space.mean.shape, space.basis.shape[1]
        shapes = (space.basis.shape, space.whiten.shape, space.centres.shape[1:])
        if shapes != ((width, directions), (directions, directions), (directions,)):
            raise ValueError(f"arrays that fit each other. Received: {shapes}")
        if space.background is not None and space.background.shape != space.whiten.shape:
            raise ValueError(f"a square background. Received: {space.background.shape}")
        if not min(space.scale[1], space.scale[3]) > 0:
            raise ValueError(f"positive deviations. Received: {space.scale}")
        return space


@one_blas_thread()
def fit_feature_space(features: Floats, targets: npt.NDArray[np.integer]) -> FeatureSpace | None:
    """Fit a feature space to (N, D) training features; None if they are too few for a covariance.

    Classes without images, by the (N,) class indices, have no centre.
    """
    from sklearn.covariance import ledoit_wolf  # not at the top: predicting starts sooner without

    classes = np.unique(targets)
    free = len(features) - len(classes)  # degrees of freedom within the classes
    if free < MIN_FREEDOM:
        return None
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    lengths, rows = _principal_directions(centred, MAX_DIRECTIONS)
    shortest = lengths[0] * 1e-6  # shorter directions are rounding errors
    count = int(min(MAX_DIRECTIONS, free // 2, (lengths > shortest).sum()))
    if count == 0:
        return None
    basis = rows[:count].T  # (D, R)
    along = (centred @ basis).astype(np.float64)
    centres = np.stack([along[targets == label].mean(axis=0) for label in classes])
    within = along - centres[np.searchsorted(classes, targets)]
    covariance, _ = ledoit_wolf(within, assume_centered=True)
    whiten, variances = _whitening(covariance * len(features) / free)
    background, _ = _whitening(ledoit_wolf(along, assume_centered=True)[0])
    other_count = centred.shape[1] - count
    other_sum = (centred**2).sum() - (lengths[:count] ** 2).sum()
    variance = max(0.0, other_sum) / len(features) / max(1, other_count)
    # Few images may have no variance in the other directions, but new ones have: at least a tenth
    # of the principal directions' standard deviation.
    variance = max(variance, 0.01 * variances.clip(min=0).mean())
    space = FeatureSpace(
        mean=mean.astype(np.float32),
        basis=basis.astype(np.float32),
        whiten=whiten.astype(np.float32),
        centres=(centres @ whiten).astype(np.float32),
        leftover=1 / float(variance) if other_count else 0.0,
        background=background.astype(np.float32),
    )
    # Rounded as it will be read back, so that scale and threshold fitted now are valid then.
    return FeatureSpace.from_dict(space.to_dict()).scaled_to(features)


def _whitening(covariance: Doubles) -> tuple[Doubles, Doubles]:
    """Return the map, (R, R), under which a covariance is the identity, and its eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, 1e-12 * values.max())), values


def _principal_directions(centred: Doubles, count: int) -> tuple[Doubles, Doubles]:
    """Return the largest singular values and their right singular vectors, in descending order.

    (N, D) -> (R,), (R, D); at least `count` of them if there are as many.
    """
    if min(centred.shape) > max(MAX_EXACT, 2 * count):
        from sklearn.utils.extmath import randomized_svd

        # Halko, Martinsson & Tropp 2011: far faster where few of many are needed.
        _, lengths, rows = randomized_svd(centred, count, n_iter=4, random_state=0)
    else:
        _, lengths, rows = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(lengths, np.float64), np.asarray(rows, np.float64)


def pack_array(array: Floats) -> dict[str, Any]:
    """Return an array of any shape as JSON values: base64 of 16-bit floats, and a scale."""
    scale = float(np.abs(array).max(initial=0)) or 1.0
    data = base64.b64encode((array / scale).astype(STORED_DTYPE).tobytes()).decode("ascii")
    return {"shape": list(array.shape), "scale": scale, "data": data}


def unpack_array(values: Mapping[str, Any]) -> Floats:
    """Return the inverse of `pack_array`, but for rounding.

    Raises:
        KeyError, TypeError, ValueError: If a value is missing or invalid.
    """
    data = np.frombuffer(base64.b64decode(values["data"], validate=True), dtype=STORED_DTYPE)
    array: Floats = data.astype(np.float32).reshape(values["shape"]) * np.float32(values["scale"])
    return array
