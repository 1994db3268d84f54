"""The contents of a report besides the metrics: plain values, all optional.

Shares and probabilities are in [0, 1]; paths are relative to the dataset, as in predictions.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from swinclf.confidence.selective import Confidence, RejectionScores
from swinclf.confidence.temperature import Calibration
from swinclf.reporting.paired_comparison import TeacherScores
from swinclf.reporting.verdict import LabelReview

EXAMPLES = 6  # shown of each finding


class PredictionRow(NamedTuple):
    """A row of predictions.csv."""

    path: str
    label: str  # its class, by its folder
    predicted: str
    probability: float

    @property
    def is_right(self) -> bool:
        """Whether the predicted class is the label."""
        return self.label == self.predicted


class ReportedSetting(NamedTuple):
    """A setting as resolved."""

    value: object
    source: str  # where it came from: default, auto, file or flag
    reason: str | None  # why it was chosen; None where nobody had to choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where scores come from. The page shows absolute paths by their last part only."""

    title: str  # the heading, such as the run's name
    data: str  # the name of the folder that was scored
    command: str  # what to type for the same result
    # of the training, by name, in the order to be shown; may be empty
    settings: Mapping[str, ReportedSetting] = field(default_factory=dict)
    # a row an epoch with the keys of history.csv; empty where nothing was trained
    history: Sequence[Mapping[str, Any]] = ()
    saved_epoch: int | None = None  # whose weights are the model; 0 for the linear probe
    epochs: int = 0  # of the training, of which validation images selected one
    # whether the images are of the dataset of the training, so that their split is the training's
    is_training_dataset: bool = True


@dataclass(frozen=True, slots=True)
class Suspect:
    """An image whose label may be wrong."""

    path: str
    label: str
    suggested: str  # the class predicted by a model that was not trained on the image
    probability: float  # of `suggested`


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """The accuracy with a part of the training images."""

    share: float  # share of the training images of each class; above 1 in a forecast
    images: int  # number of training images
    accuracy: float  # measured or forecast
    low: float  # lower end of its interval
    high: float  # upper end of its interval


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The accuracy as a function of the number of training images."""

    points: Sequence[LearningPoint]  # measured, fewest images first
    forecast: Sequence[LearningPoint] = ()  # extrapolated to more images
    notes: Sequence[str] = ()  # remarks, a sentence each
    held_out: int | None = None  # number of images that each accuracy is measured on

    @property
    def gain(self) -> tuple[float, float] | None:
        """The forecast gain in accuracy, and the lower end of its interval; None without one."""
        if not self.forecast:
            return None
        now, forecast = self.points[-1].accuracy, self.forecast[0]
        return forecast.accuracy - now, forecast.low - now


@dataclass(frozen=True, slots=True)
class FindingSummary:
    """A problem of a dataset, as the report shows it."""

    says: str  # the problem, with its count
    advice: str
    examples: Sequence[str] = ()
    notes: Sequence[str] = ()  # other details, such as class names


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training image that is similar to another image."""

    path: str  # the training image, as in split.csv
    label: str
    similarity: float  # cosine of the angle between both images' features, in [-1, 1]
    # path of the image file, relative to the reported folder or absolute; None if unknown
    file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFigures:
    """Figures of a training that the verdict depends on."""

    counts: Mapping[str, int]  # number of training images of each class
    probe_accuracy: float | None  # of a linear probe on the held-out images; None if unknown
    image_px: float | None  # median shorter side of the images; None if unknown
    input_px: int  # side of the network's input


@dataclass(frozen=True, slots=True)
class ReportSections:
    """The optional sections of a report. What is None or empty is left out."""

    calibration: Calibration | None = None  # of the probabilities
    # of the model, with its rejection thresholds
    confidence: Confidence = field(default_factory=Confidence)
    rejection: RejectionScores | None = None  # the effect of rejection, where it was measured
    suspects: Sequence[Suspect] = ()  # suspect labels, most likely wrong first
    labels: LabelReview | None = None  # the review of all labels; None if they were not reviewed
    learning: LearningCurve | None = None
    audit: Sequence[FindingSummary] = ()  # findings in the dataset, most important first
    is_untrained: bool = False  # whether the network started from random weights
    teacher: TeacherScores | None = None  # scores of the teacher of a distillation
    # path of a mistake -> JPEG of a saliency map of the wrong prediction
    evidence: Mapping[str, bytes] = field(default_factory=dict)
    # path of a mistake -> its nearest training images, nearest first
    neighbours: Mapping[str, Sequence[Neighbour]] = field(default_factory=dict)
    training: TrainingFigures | None = None  # figures of the training; None for an evaluation
    # number of images of each class that the model does not know
    unknown_classes: Mapping[str, int] = field(default_factory=dict)
