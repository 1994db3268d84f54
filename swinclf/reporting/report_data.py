"""The contents of a report besides the metrics: plain values, all optional.

Shares and probabilities are in [0, 1]; paths are relative to the dataset, as in predictions.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from swinclf.confidence.parameters import Confidence
from swinclf.confidence.selective import RejectionScores
from swinclf.confidence.temperature import Calibration
from swinclf.reporting.teacher_scores import TeacherScores
from swinclf.reporting.verdict import LabelReview

EXAMPLES = 6  # shown of each finding


class PredictionRow(NamedTuple):
    """A row of predictions.csv.

    Attributes:
        path: The image.
        label: Its class, by its folder.
        predicted: The predicted class.
        probability: Of the predicted class.
    """

    path: str
    label: str
    predicted: str
    probability: float


class ReportedSetting(NamedTuple):
    """A setting as resolved.

    Attributes:
        value: What the run used.
        source: Where it came from: default, auto, file or flag.
        reason: Why it was chosen; None where nobody had to choose.
    """

    value: object
    source: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where scores come from. The page shows absolute paths by their last part only.

    Attributes:
        title: The heading, such as the run's name.
        data: The name of the folder that was scored.
        command: What to type for the same result.
        settings: Of the training, by name, in the order to be shown; may be empty.
        history: A row an epoch with the keys of history.csv; empty where nothing was trained.
    """

    title: str
    data: str
    command: str
    settings: Mapping[str, ReportedSetting] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Suspect:
    """An image whose label may be wrong.

    Attributes:
        path: The image.
        label: Its label.
        suggested: The class predicted by a model that was not trained on the image.
        probability: Of `suggested`.
    """

    path: str
    label: str
    suggested: str
    probability: float


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """The accuracy with a part of the training images.

    Attributes:
        share: Share of the training images of each class; above 1 in a forecast.
        images: Number of training images.
        accuracy: Measured or forecast.
        low: Lower end of its interval.
        high: Upper end of its interval.
    """

    share: float
    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The accuracy as a function of the number of training images.

    Attributes:
        points: Measured, fewest images first.
        forecast: Extrapolated to more images.
        notes: Remarks, a sentence each.
    """

    points: Sequence[LearningPoint]
    forecast: Sequence[LearningPoint] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class FindingSummary:
    """A problem of a dataset, as the report shows it.

    Attributes:
        says: The problem, with its count.
        advice: What to do.
        examples: Images to show.
        notes: Other details, such as class names.
    """

    says: str
    advice: str
    examples: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training image that is similar to another image.

    Attributes:
        path: The training image, as in split.csv.
        label: Its label.
        similarity: Cosine of the angle between both images' features, in [-1, 1].
        file: Path of the image file, relative to the reported folder or absolute; None if unknown.
    """

    path: str
    label: str
    similarity: float
    file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFigures:
    """Figures of a training that the verdict depends on.

    Attributes:
        counts: Number of training images of each class.
        probe_accuracy: Of a linear probe on the held-out images; None if unknown.
        image_px: Median shorter side of the images; None if unknown.
        input_px: Side of the network's input.
    """

    counts: Mapping[str, int]
    probe_accuracy: float | None
    image_px: float | None
    input_px: int


@dataclass(frozen=True, slots=True)
class ReportSections:
    """The optional sections of a report. What is None or empty is left out.

    Attributes:
        calibration: Of the probabilities.
        confidence: Of the model, with its rejection thresholds.
        rejection: The effect of rejection, where it was measured.
        suspects: Suspect labels, most likely wrong first.
        labels: The review of all labels; None if they were not reviewed.
        learning: The learning curve.
        audit: Findings in the dataset, most important first.
        is_untrained: Whether the network started from random weights.
        teacher: Scores of the teacher of a distillation.
        evidence: Path of a mistake -> JPEG of a saliency map of the wrong prediction.
        neighbours: Path of a mistake -> its nearest training images, nearest first.
        training: Figures of the training; None for an evaluation.
        unknown_classes: Number of images of each class that the model does not know.
    """

    calibration: Calibration | None = None
    confidence: Confidence = field(default_factory=Confidence)
    rejection: RejectionScores | None = None
    suspects: Sequence[Suspect] = ()
    labels: LabelReview | None = None
    learning: LearningCurve | None = None
    audit: Sequence[FindingSummary] = ()
    is_untrained: bool = False
    teacher: TeacherScores | None = None
    evidence: Mapping[str, bytes] = field(default_factory=dict)
    neighbours: Mapping[str, Sequence[Neighbour]] = field(default_factory=dict)
    training: TrainingFigures | None = None
    unknown_classes: Mapping[str, int] = field(default_factory=dict)
