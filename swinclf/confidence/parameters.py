"""When to believe an answer: what a model file says of its own confidence, besides the weights.

A temperature, probabilities below which not to answer, and a description of training features by
which a picture of something else is told. Knows arrays; knows nothing about networks, images or
files. How they are found is in `evaluation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from swinclf.confidence.ood import FeatureSpace


class Threshold(NamedTuple):
    """Where to stop answering for a wished precision.

    Attributes:
        precision: Share of the answers that shall be right, in [0, 1].
        probability: Less probable answers are withheld, in [0, 1].
        coverage: Share of the held-out images that are still answered, in [0, 1].
    """

    precision: float
    probability: float
    coverage: float


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

        Earlier versions stored a second opinion for networks that were often wrong, and thresholds
        on its verdict: these say nothing about probabilities and are left out.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"calibration is an object. Received: {type(values).__name__}")
        space = values.get("space")
        rows = () if values.get("second") else values.get("thresholds", ())
        temperature = float(values["temperature"])
        if not 0 < temperature < math.inf:
            raise ValueError(f"a temperature is a number > 0. Received: {temperature}")
        return cls(
            temperature=temperature,
            thresholds=tuple(Threshold(*map(float, row)) for row in rows),
            space=FeatureSpace.from_dict(space) if space else None,
            strangest=float(values["strangest"]) if space else math.inf,
        )
