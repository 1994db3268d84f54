"""The confidence parameters in a model file: temperature, rejection thresholds and feature space.

Knows arrays; knows nothing about networks, images or files. `inference.fit_confidence` fits them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from swinclf.confidence.ood import FeatureSpace


class Threshold(NamedTuple):
    """A rejection threshold for a target precision."""

    precision: float  # target share of correct predictions among the accepted ones, in [0, 1]
    probability: float  # predictions below this are rejected, in [0, 1]
    coverage: float  # share of the held-out images that are accepted, in [0, 1]


@dataclass(frozen=True)
class Confidence:
    """The confidence parameters of a model."""

    temperature: float = 1.0  # logits are divided by this before the softmax, > 0
    # one for each precision that the held-out images reached, in ascending order
    thresholds: tuple[Threshold, ...] = ()
    # the feature space; None if there were too few training images
    space: FeatureSpace | None = None
    # images with a higher out-of-distribution score are rejected, > 0
    ood_threshold: float = math.inf

    def threshold(self, precision: float) -> Threshold | None:
        """Return the lowest threshold that reaches a precision; None if there is none."""
        return next((row for row in self.thresholds if row.precision >= precision - 1e-9), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "temperature": self.temperature,
            "thresholds": [list(row) for row in self.thresholds],
            "strangest": self.ood_threshold if self.space else None,
            "space": self.space.to_dict() if self.space else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Confidence:
        """Return the inverse of `to_dict`; all but the temperature may be missing.

        Thresholds of earlier versions that belong to another classifier (`second`) are ignored.

        Raises:
            KeyError, TypeError, ValueError: If a value is missing or invalid.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"calibration must be an object. Received: {type(values).__name__}")
        space = values.get("space")
        rows = () if values.get("second") else values.get("thresholds", ())
        temperature = float(values["temperature"])
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a number > 0. Received: {temperature}")
        return cls(
            temperature=temperature,
            thresholds=tuple(Threshold(*map(float, row)) for row in rows),
            space=FeatureSpace.from_dict(space) if space else None,
            ood_threshold=float(values["strangest"]) if space else math.inf,
        )
