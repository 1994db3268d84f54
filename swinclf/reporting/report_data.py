"""What a report can show besides the scores: plain values, each made elsewhere, each optional.

Shares and probabilities are in [0, 1]; paths are relative to the dataset, as in predictions.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from swinclf.confidence.parameters import Confidence
from swinclf.confidence.temperature import Calibration
from swinclf.reporting.teacher import TeacherScores

EXAMPLES = 6  # of a finding that a report shows


class Answer(Protocol):
    """A row of predictions.csv."""

    @property
    def path(self) -> str:
        """The image."""

    @property
    def label(self) -> str:
        """What it is, by its folder."""

    @property
    def predicted(self) -> str:
        """What it was called."""

    @property
    def probability(self) -> float:
        """How sure that was."""


class Rejection(Protocol):
    """What withholding answers did to images of known and of unknown classes."""

    @property
    def precision(self) -> float:
        """Share of right answers that was asked for."""

    @property
    def known(self) -> int:
        """Images of the model's own classes."""

    @property
    def known_answered(self) -> float:
        """Share of them that were answered."""

    @property
    def right(self) -> float:
        """Share of these answers that were right; nan without any."""

    @property
    def unknown(self) -> int:
        """Images of other classes."""

    @property
    def unknown_answered(self) -> float:
        """Share of them that were answered all the same; nan without any."""

    @property
    def auroc_probability(self) -> float:
        """How well a low probability tells unknown from known; nan where that is not known."""

    @property
    def auroc_strangeness(self) -> float:
        """The same of strangeness."""

    @property
    def fewer(self) -> tuple[float, float]:
        """By how much a smaller share of the unknown was answered: a 95 % interval."""

    @property
    def tells_unknown(self) -> bool:
        """Whether it was seen to answer fewer of the unknown."""


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
    """Where scores come from.

    Attributes:
        title: The heading, such as the run's name.
        data: The folder that was scored.
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
        suggested: The class that a model which never saw it takes it for.
        probability: Of `suggested`.
    """

    path: str
    label: str
    suggested: str
    probability: float


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """Accuracy with a part of the training images.

    Attributes:
        share: Of the training images of each class; above 1 in a forecast.
        images: How many that is.
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
    """What more images are worth.

    Attributes:
        points: Measured, fewest images first.
        forecast: Not measured: what more images would bring.
        notes: What to say about it, a sentence each.
    """

    points: Sequence[LearningPoint]
    forecast: Sequence[LearningPoint] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of trouble in a dataset.

    Attributes:
        says: What was found, with its count.
        advice: What to do.
        examples: Images to show.
        notes: What else to name, such as classes.
    """

    says: str
    advice: str
    examples: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training image that is like another one.

    Attributes:
        path: The training image, as in split.csv.
        label: Its label.
        similarity: Cosine of the angle between both images' features, in [-1, 1].
        file: Where its picture is: relative to the folder that is reported on, or absolute; None
            where that is not known.
    """

    path: str
    label: str
    similarity: float
    file: str | None


@dataclass(frozen=True, slots=True)
class Sections:
    """All that a report can show besides the scores. What is None or empty is left out.

    Attributes:
        calibration: Of the probabilities.
        confidence: Of the model: from which probability on to answer, by wished precision.
        rejection: What that did, where it was measured.
        suspects: Most likely wrong label first.
        learning: What more images are worth.
        audit: Of the dataset, most important first.
        is_untrained: Whether the network that was trained started from random weights.
        evidence: Path of a mistake -> JPEG of what spoke for the wrong answer.
        teacher: What the teacher of a distillation scores on the same images.
        neighbours: Path of a mistake -> its nearest training images, nearest first.
    """

    calibration: Calibration | None = None
    confidence: Confidence = field(default_factory=Confidence)
    rejection: Rejection | None = None
    suspects: Sequence[Suspect] = ()
    learning: LearningCurve | None = None
    audit: Sequence[Finding] = ()
    is_untrained: bool = False
    teacher: TeacherScores | None = None
    evidence: Mapping[str, bytes] = field(default_factory=dict)
    neighbours: Mapping[str, Sequence[Neighbour]] = field(default_factory=dict)
