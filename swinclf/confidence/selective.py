"""Rather no answer than a wrong one: when a prediction is withheld."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from swinclf.confidence.parameters import Confidence, Threshold
from swinclf.errors import RunError
from swinclf.metrics import difference_interval

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Rejection:
    """What withholding answers did on labelled images. Shares are in [0, 1].

    Attributes:
        precision: Share of the answers that was asked to be right.
        known: Images of the model's classes.
        known_answered: Share of them that were answered.
        right: Share of those answers that were right; nan without any.
        unknown: Images of other classes, which nobody can answer rightly.
        unknown_answered: Share of them that were answered all the same; nan without any.
        auroc_probability: How well a low probability tells unknown from known; 0.5 is chance,
            nan without unknown images.
        auroc_strangeness: The same of strangeness; nan where the model cannot tell.
        fewer: By how much a smaller share of the unknown was answered, low and high end of the 95 %
            interval, in [-1, 1]; nan without images on both sides.
    """

    precision: float
    known: int
    known_answered: float
    right: float
    unknown: int
    unknown_answered: float
    auroc_probability: float
    auroc_strangeness: float
    fewer: tuple[float, float]

    @property
    def tells_unknown(self) -> bool:
        """Whether it was seen to answer fewer of the unknown."""
        return self.fewer[0] > 0


@dataclass(frozen=True)
class Judged:
    """Answers as far as withholding goes, (N,) each.

    Attributes:
        probability: Of the most likely class.
        strangeness: nan where the model cannot tell.
    """

    probability: np.ndarray
    strangeness: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float]]) -> Self:
        """From `Answer.judged` of each."""
        return cls(*np.asarray(rows, np.float64).reshape(-1, 2).T)


def is_withheld(confidence: Confidence, precision: float, judged: Judged) -> np.ndarray:
    """Which answers are withheld, (N,) booleans.

    Raises:
        RunError: As `threshold_for`.
    """
    sure = judged.probability >= threshold_for(confidence, precision).probability
    strange: np.ndarray = np.nan_to_num(judged.strangeness) > confidence.strangest
    withheld: np.ndarray = ~sure | strange
    return withheld


def measure_rejection(
    confidence: Confidence, precision: float, known: Judged, right: np.ndarray, unknown: Judged
) -> Rejection:
    """Compares what is withheld of known and of unknown classes.

    Args:
        confidence: Of the model.
        precision: As asked for.
        known: Answers on images of the model's classes.
        right: (N,) whether they were right.
        unknown: Answers on images of other classes.

    Raises:
        RunError: As `threshold_for`.
    """
    kept = ~is_withheld(confidence, precision, known)
    kept_unknown = ~is_withheld(confidence, precision, unknown)
    fewer = (math.nan, math.nan)
    if len(kept) and len(kept_unknown):
        fewer = difference_interval(
            int(kept.sum()), len(kept), int(kept_unknown.sum()), len(kept_unknown)
        )
    return Rejection(
        precision=precision,
        known=len(kept),
        known_answered=_mean(kept),
        right=_mean(right[kept]),
        unknown=len(kept_unknown),
        unknown_answered=_mean(kept_unknown),
        auroc_probability=auroc(-known.probability, -unknown.probability),
        auroc_strangeness=auroc(known.strangeness, unknown.strangeness),
        fewer=fewer,
    )


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of `high` is above one of `low`, equal ones counting half.

    Args:
        low: (N,) values.
        high: (M,) values.

    Returns:
        In [0, 1]; nan where one side is empty or not a number.
    """
    if not len(low) or not len(high) or np.isnan(low).any() or np.isnan(high).any():
        return math.nan
    from sklearn.metrics import roc_auc_score  # not at the top: predicting starts sooner without

    is_high = np.repeat([0, 1], [len(low), len(high)])
    return float(roc_auc_score(is_high, np.concatenate([low, high])))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def threshold_for(confidence: Confidence, precision: float) -> Threshold:
    """The threshold that keeps a precision.

    Args:
        confidence: Of the model.
        precision: Share of the answers that shall be right, in (0, 1).

    Raises:
        RunError: If the held-out images reached no such precision, or none were held out.
    """
    rows = confidence.thresholds
    threshold = confidence.threshold(precision)
    if threshold is not None:
        return threshold
    if not rows:
        raise RunError(
            f"a model that knows when {precision:.1%} of its answers are right",
            found="none: too few images were held out from its training, or the file is of an "
            "earlier version",
            hint="leave --reject out, or train again, with more images held out if they were few "
            "(--val-split, --val)",
        )
    raise RunError(
        f"a precision that held-out images reached, for --reject {precision:g}",
        found=f"{rows[-1].precision:g} at most, on {rows[-1].coverage:.0%} of them",
        hint=f"--reject {rows[-1].precision:g}",
    )
