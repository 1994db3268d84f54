"""Selective classification: rejecting predictions that are uncertain or out of distribution.

Its parameters are in a model file: temperature, rejection thresholds and feature space.
`inference.fit_confidence` fits them. Knows arrays; knows nothing about networks, images or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from swinclf.confidence.ood import FeatureSpace
from swinclf.errors import RunError
from swinclf.metrics import difference_interval
from swinclf.reporter import format_percent


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


UNKNOWN = "unknown"


@dataclass(frozen=True)
class RejectionScores:
    """The effect of rejection on images of known and of unknown classes. Shares are in [0, 1]."""

    precision: float  # target share of correct predictions among the accepted ones
    known: int  # number of images of the model's classes
    known_accepted: float  # share of them that were accepted
    right: float  # share of the accepted ones that are correct; nan without any
    unknown: int  # number of images of other classes
    unknown_accepted: float  # share of them that were accepted; nan without any
    # AUROC of detecting unknown classes by a low probability; nan without unknown images
    auroc_probability: float
    # AUROC of detecting them by the out-of-distribution score; nan without a score
    auroc_ood: float
    # 95 % interval of the accepted share of the known less that of the unknown, in [-1, 1]; nan
    # without images of both
    difference: tuple[float, float]

    @property
    def detects_unknown(self) -> bool:
        """Whether a significantly smaller share of the unknown was accepted."""
        return self.difference[0] > 0


@dataclass(frozen=True)
class SelectiveScores:
    """The scores that rejection depends on, (N,) each."""

    probability: np.ndarray  # of the predicted class
    ood_score: np.ndarray  # out-of-distribution score; nan from a model without a feature space

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[float, float]]) -> Self:
        """Return the scores of images by `ImageOutput.selective_scores` of each."""
        return cls(*np.asarray(rows, np.float64).reshape(-1, 2).T)


def is_rejected(confidence: Confidence, precision: float, scores: SelectiveScores) -> np.ndarray:
    """Return which predictions are rejected, (N,) booleans; raises as `threshold_for`."""
    is_sure = scores.probability >= threshold_for(confidence, precision).probability
    is_ood: np.ndarray = np.nan_to_num(scores.ood_score) > confidence.ood_threshold
    rejected: np.ndarray = ~is_sure | is_ood
    return rejected


def score_rejection(
    confidence: Confidence,
    precision: float,
    known: SelectiveScores,
    right: np.ndarray,
    unknown: SelectiveScores,
) -> RejectionScores:
    """Measure the effect of rejection on images of known and of unknown classes.

    `right` is whether the predictions of the known images are correct, (N,). Raises as
    `threshold_for`.
    """
    accepted = ~is_rejected(confidence, precision, known)
    accepted_unknown = ~is_rejected(confidence, precision, unknown)
    difference = (math.nan, math.nan)
    if len(accepted) and len(accepted_unknown):
        difference = difference_interval(
            int(accepted.sum()), len(accepted), int(accepted_unknown.sum()), len(accepted_unknown)
        )
    return RejectionScores(
        precision=precision,
        known=len(accepted),
        known_accepted=_mean(accepted),
        right=_mean(right[accepted]),
        unknown=len(accepted_unknown),
        unknown_accepted=_mean(accepted_unknown),
        auroc_probability=auroc(-known.probability, -unknown.probability),
        auroc_ood=auroc(known.ood_score, unknown.ood_score),
        difference=difference,
    )


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """Return the area under the ROC curve of telling `high` from `low` by value, (N,) and (M,).

    In [0, 1]; nan if one side is empty or has a nan.
    """
    if not len(low) or not len(high) or np.isnan(low).any() or np.isnan(high).any():
        return math.nan
    from sklearn.metrics import roc_auc_score  # not at the top: predicting starts sooner without

    is_high = np.repeat([0, 1], [len(low), len(high)])
    return float(roc_auc_score(is_high, np.concatenate([low, high])))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def threshold_for(confidence: Confidence, precision: float) -> Threshold:
    """Return the threshold that reaches a target share of correct accepted predictions, in (0, 1).

    Raises:
        RunError: If the held-out images did not reach that precision, or none were held out.
    """
    rows = confidence.thresholds
    threshold = confidence.threshold(precision)
    if threshold is not None:
        return threshold
    if not rows:
        raise RunError(
            "a model with a rejection threshold for "
            f"{format_percent(precision)} correct predictions",
            found="none: too few images were held out from its training, or the file is from an "
            "earlier version",
            hint="no --reject, or train again with more held-out images (--val-split, --val)",
        )
    raise RunError(
        f"a precision that held-out images reached, for --reject {precision:g}",
        found=f"{rows[-1].precision:g} at most, on {format_percent(rows[-1].coverage, 0)} of them",
        hint=f"--reject {rows[-1].precision:g}",
    )
