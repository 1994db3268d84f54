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
Reals = npt.NDArray[np.floating]  # float32, or float64 where a stub of numpy says so
BYTE, HALF, SINGLE = "|i1", "<f2", "<f4"  # numbers as they are kept


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
        squares, rest = self.distances(features)
        distance: Reals = np.sqrt((squares.min(axis=1) + rest) / features.shape[1])
        return distance.astype(np.float32)

    def distances(self, features: Floats) -> tuple[Reals, Reals]:
        """Squared distances in deviations: along the main directions to each class, and the rest.

        Args:
            features: (N, D).

        Returns:
            (N, K) and (N,), each >= 0.
        """
        centred = features - self.mean
        along = centred @ self.basis  # (N, D) -> (N, R)
        rest = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0) * self.leftover
        whitened = along @ self.whiten
        squares = (whitened**2).sum(1)[:, None] + (self.centres**2).sum(1)[None]
        return np.maximum(squares - 2 * whitened @ self.centres.T, 0.0), rest

    def to_dict(self, *, basis: str = HALF) -> dict[str, Any]:
        """The arrays in 16-bit floats, which is more than the description is worth.

        Args:
            basis: How its numbers are kept; BYTE will do where D is thousands.
        """
        arrays = {"mean": self.mean, "whiten": self.whiten, "centres": self.centres}
        kept = {name: packed(one) for name, one in arrays.items()}
        return {**kept, "basis": packed(self.basis, basis), "leftover": self.leftover}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpace:
        """The inverse of `to_dict`, but for rounding.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        arrays = {name: unpacked(values[name]) for name in ("mean", "basis", "whiten", "centres")}
        space = cls(**arrays, leftover=float(values["leftover"]))
        if space.basis.ndim != 2 or space.centres.ndim != 2 or not len(space.centres):
            raise ValueError(f"tables of numbers. Received: {space.basis.shape}")
        (width,), directions = space.mean.shape, space.basis.shape[1]
        shapes = (space.basis.shape, space.whiten.shape, space.centres.shape[1:])
        if shapes != ((width, directions), (directions, directions), (directions,)):
            raise ValueError(f"arrays that fit each other. Received: {shapes}")
        return space


def packed(array: Floats, kind: str = HALF) -> dict[str, Any]:
    """An array as plain values for JSON, its numbers as base64.

    Args:
        array: Of any shape.
        kind: BYTE keeps two digits of the largest number, HALF three of any, SINGLE all.
    """
    largest = float(np.abs(array).max(initial=0)) or 1.0
    scale = {BYTE: largest / 127, HALF: largest}.get(kind, 1.0)
    numbers = np.rint(array / scale) if kind == BYTE else array / scale
    data = base64.b64encode(numbers.astype(kind).tobytes()).decode("ascii")
    return {"shape": list(array.shape), "scale": scale, "kind": kind, "data": data}


def unpacked(values: Mapping[str, Any]) -> Floats:
    """The inverse of `packed`, but for rounding.

    Raises:
        KeyError, TypeError, ValueError: If it is none.
    """
    kind = values.get("kind", HALF)
    if kind not in (BYTE, HALF, SINGLE):
        raise ValueError(f"numbers kept as {BYTE}, {HALF} or {SINGLE}. Received: {kind!r}")
    data = np.frombuffer(base64.b64decode(values["data"], validate=True), dtype=kind)
    array: Floats = data.astype(np.float32).reshape(values["shape"]) * np.float32(values["scale"])
    return array
