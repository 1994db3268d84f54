"""Where training images lie among features, by which a picture of something else is told.

Knows arrays; knows nothing about networks, images or files. How a space is found is in
`evaluation.strangeness`.

Letters: N images, D features, R directions kept, K classes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
KEPT = "<f2"  # numbers as they are kept
_ARRAYS = ("mean", "basis", "whiten", "centres")


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
