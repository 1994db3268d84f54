"""Out-of-distribution detection: the Mahalanobis distance of features to those of training images.

The description of the training features (`FeatureSpace`), how it is fitted (`fit_feature_space`)
and how it is stored. Knows arrays; knows nothing about networks, images or files.

Letters: N images, D features, R directions kept, K classes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from swinclf.device import on_one_thread

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
KEPT = "<f2"  # numbers as they are kept
_ARRAYS = ("mean", "basis", "whiten", "centres")

EXACT_MOST = 600  # rows or columns, of which all directions are found
TINY = 1e-12
DIRECTIONS = 64  # R, at most
FEWEST = 8  # images from which a spread can be estimated at all


@dataclass(frozen=True)
class FeatureSpace:
    """Where the training images lie.

    Attributes:
        mean: (D,) of all training features.
        basis: (D, R) orthonormal main directions.
        whiten: (R, R) map under which every class has the unit spread.
        centres: (K, R) of the classes, whitened.
        leftover: Inverse variance along a direction that is not among the main ones; 0 where all
            directions are kept.
    """

    mean: Floats
    basis: Floats
    whiten: Floats
    centres: Floats
    leftover: float

    def strangeness(self, features: Floats) -> Floats:
        """Distance to the nearest class, in deviations of a typical direction.

        Args:
            features: (N, D).

        Returns:
            (N,) >= 0; about 1 for an image like the training images.

        Source: A Simple Unified Framework for Detecting Out-of-Distribution Samples, Lee et al.
        2018, eq. 2; the directions left out as in Tipping & Bishop 1999, sec. 3.2.
        """
        centred = features - self.mean
        along = centred @ self.basis  # (N, D) -> (N, R)
        rest = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0) * self.leftover
        whitened = along @ self.whiten
        squares = (whitened**2).sum(1)[:, None] + (self.centres**2).sum(1)[None]
        squares = np.maximum(squares - 2 * whitened @ self.centres.T, 0.0)  # (N, K)
        distance: npt.NDArray[np.floating] = np.sqrt(
            (squares.min(axis=1) + rest) / features.shape[1]
        )
        return distance.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """The arrays in 16-bit floats, which is more than the description is worth."""
        kept = {name: packed(getattr(self, name)) for name in _ARRAYS}
        return {**kept, "leftover": self.leftover}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpace:
        """The inverse of `to_dict`, but for rounding.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        arrays = {name: unpacked(values[name]) for name in _ARRAYS}
        space = cls(**arrays, leftover=float(values["leftover"]))
        if space.basis.ndim != 2 or space.centres.ndim != 2 or not len(space.centres):
            raise ValueError(f"tables of numbers. Received: {space.basis.shape}")
        (width,), directions = space.mean.shape, space.basis.shape[1]
        shapes = (space.basis.shape, space.whiten.shape, space.centres.shape[1:])
        if shapes != ((width, directions), (directions, directions), (directions,)):
            raise ValueError(f"arrays that fit each other. Received: {shapes}")
        return space


@on_one_thread()
def fit_feature_space(features: Floats, targets: npt.NDArray[np.integer]) -> FeatureSpace | None:
    """Fit the description of training features.

    Args:
        features: (N, D) float32.
        targets: (N,) class indices; classes that have no image have no centre.

    Returns:
        The description; None where there are too few images to tell a spread from.
    """
    from sklearn.covariance import ledoit_wolf  # not at the top: predicting starts sooner without

    classes = np.unique(targets)
    free = len(features) - len(classes)  # what the centres leave of the images
    if free < FEWEST:
        return None
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    lengths, rows = _main_directions(centred, DIRECTIONS)
    least = lengths[0] * 1e-6  # of a direction, lest it be rounding
    count = int(min(DIRECTIONS, free // 2, (lengths > least).sum()))
    if count == 0:
        return None
    basis = rows[:count].T  # (D, R)
    along = (centred @ basis).astype(np.float64)
    centres = np.stack([along[targets == label].mean(axis=0) for label in classes])
    within = along - centres[np.searchsorted(classes, targets)]
    covariance, _ = ledoit_wolf(within, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance * len(features) / free)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-12 * values.max()))
    spare = centred.shape[1] - count
    left = (centred**2).sum() - (lengths[:count] ** 2).sum()
    variance = max(0.0, left) / len(features) / max(1, spare)
    # Few images may leave nothing over, and new ones will: a tenth of the kept ones' deviation.
    variance = max(variance, 0.01 * values.clip(min=0).mean())
    space = FeatureSpace(
        mean=mean.astype(np.float32),
        basis=basis.astype(np.float32),
        whiten=whiten.astype(np.float32),
        centres=(centres @ whiten).astype(np.float32),
        leftover=1 / float(variance) if spare else 0.0,
    )
    # As it will be read back: a limit chosen on one side of a rounding must hold on the other.
    return FeatureSpace.from_dict(space.to_dict())


def _main_directions(centred: Doubles, count: int) -> tuple[Doubles, Doubles]:
    """The longest singular values and their right singular vectors, longest first.

    (N, D) -> (R,), (R, D); at least `count` of them where there are as many.
    """
    if min(centred.shape) > max(EXACT_MOST, 2 * count):
        from sklearn.utils.extmath import randomized_svd

        # Halko, Martinsson & Tropp 2011: far quicker where few of many are needed.
        _, lengths, rows = randomized_svd(centred, count, n_iter=4, random_state=0)
        return lengths, rows
    is_wide = len(centred) < centred.shape[1]
    inner = centred @ centred.T if is_wide else centred.T @ centred
    squares, vectors = np.linalg.eigh(inner.astype(np.float64))
    lengths, rows = np.sqrt(squares[::-1].clip(min=0)), vectors.T[::-1]
    return lengths, rows @ centred / np.maximum(lengths, TINY)[:, None] if is_wide else rows


def packed(array: Floats) -> dict[str, Any]:
    """An array of any shape as plain values for JSON: 16-bit floats as base64, and their scale."""
    scale = float(np.abs(array).max(initial=0)) or 1.0
    data = base64.b64encode((array / scale).astype(KEPT).tobytes()).decode("ascii")
    return {"shape": list(array.shape), "scale": scale, "data": data}


def unpacked(values: Mapping[str, Any]) -> Floats:
    """The inverse of `packed`, but for rounding.

    Raises:
        KeyError, TypeError, ValueError: If it is none.
    """
    data = np.frombuffer(base64.b64decode(values["data"], validate=True), dtype=KEPT)
    array: Floats = data.astype(np.float32).reshape(values["shape"]) * np.float32(values["scale"])
    return array
