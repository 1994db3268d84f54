"""When to believe an answer: what a model file says of its own confidence, besides the weights.

Thresholds below which not to answer, and a description of the training features by which a picture
of something else is told. Knows arrays; knows nothing about networks, images or files. How they are
found is in `evaluation`.

Letters: N images, D features, R directions kept, K classes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Threshold(NamedTuple):
    """Where to stop answering for a wished precision.

    Attributes:
        precision: Share of the answers that shall be right, in [0, 1].
        probability: Answers less probable than this are withheld.
        coverage: Share of the held-out images that are still answered, in [0, 1].
    """

    precision: float
    probability: float
    coverage: float


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
        nearest = np.maximum(squares - 2 * whitened @ self.centres.T, 0.0).min(axis=1)
        distance: Floats = np.sqrt((nearest + rest) / features.shape[1]).astype(np.float32)
        return distance

    def to_dict(self) -> dict[str, Any]:
        """The arrays as base64 of 16-bit floats, which is more than the description is worth."""
        arrays = {"mean": self.mean, "basis": self.basis}
        arrays |= {"whiten": self.whiten, "centres": self.centres}
        packed = {
            name: {
                "shape": list(array.shape),
                "scale": float(np.abs(array).max()) or 1.0,
                "data": _pack(array),
            }
            for name, array in arrays.items()
        }
        return {**packed, "leftover": self.leftover}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpace:
        """The inverse of `to_dict`, but for rounding.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        arrays = {name: _unpack(values[name]) for name in ("mean", "basis", "whiten", "centres")}
        space = cls(**arrays, leftover=float(values["leftover"]))
        (width,), directions = space.mean.shape, space.basis.shape[1]
        shapes = (space.basis.shape, space.whiten.shape, space.centres.shape[1:])
        if shapes != ((width, directions), (directions, directions), (directions,)):
            raise ValueError(f"arrays that fit each other. Received: {shapes}")
        return space


@dataclass(frozen=True)
class Confidence:
    """What a model file says of its own confidence.

    Attributes:
        temperature: Logits are divided by this before the softmax, > 0.
        thresholds: For each precision that held-out images reached, in rising order.
        space: Where the training images lie; None where there were too few.
        strangest: What `space` finds stranger than this is not answered, > 0.
    """

    temperature: float = 1.0
    thresholds: tuple[Threshold, ...] = ()
    space: FeatureSpace | None = None
    strangest: float = math.inf

    def threshold(self, precision: float) -> Threshold | None:
        """The mildest threshold that keeps a precision; None where held-out images reach none."""
        return next((row for row in self.thresholds if row.precision >= precision - 1e-9), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "temperature": self.temperature,
            "thresholds": [list(row) for row in self.thresholds],
            "strangest": self.strangest if self.space else None,
            "space": self.space.to_dict() if self.space else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Confidence:
        """The inverse of `to_dict`; all but the temperature may be missing.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        space = values.get("space")
        temperature = float(values["temperature"])
        if not 0 < temperature < math.inf:
            raise ValueError(f"a temperature is a number > 0. Received: {temperature}")
        return cls(
            temperature=temperature,
            thresholds=tuple(Threshold(*map(float, row)) for row in values.get("thresholds", ())),
            space=FeatureSpace.from_dict(space) if space else None,
            strangest=float(values["strangest"]) if space else math.inf,
        )


def _pack(array: Floats) -> str:
    scaled = array / (float(np.abs(array).max()) or 1.0)
    return base64.b64encode(scaled.astype("<f2").tobytes()).decode("ascii")


def _unpack(packed: Mapping[str, Any]) -> Floats:
    data = np.frombuffer(base64.b64decode(packed["data"], validate=True), dtype="<f2")
    array: Floats = data.astype(np.float32).reshape(packed["shape"]) * np.float32(packed["scale"])
    return array
