"""Selective classification: rejecting predictions that are uncertain or out of distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from swinclf.confidence.parameters import Confidence, Threshold
from swinclf.errors import RunError
from swinclf.metrics import difference_interval
from swinclf.reporter import format_percent

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
