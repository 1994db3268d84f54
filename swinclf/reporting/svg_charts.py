"""The diagrams of a report: reliability, coverage and curves, as coordinates for inline SVG.

Computes where lines, points and ticks stand; what they look like is the page's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from swinclf.metrics import ECE_BINS, calibration_bins, wilson_interval
from swinclf.reporting.report_data import Answer, LearningCurve, LearningPoint

WIDTH, HEIGHT = 340, 240  # of the view box; a phone shows about one pixel a unit
LEFT, RIGHT, TOP, BOTTOM = 50, 22, 12, 42  # of what is around the axes
MOST_POINTS = 300  # of a line
MARKED_UP_TO = 40  # points; beyond, a marker each is a smear
TICKS = 5
FEWEST_IMAGES = 10  # below this, the accuracy of the surest answers is chance
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points.

    Attributes:
        name: For the legend; empty for none.
        look: How it is drawn: `a`, `b`, `guide` or `forecast`.
        points: (x, y) in the diagram's units; a y that is None or not finite leaves a gap.
        band: (low, high) for each point; empty for none.
        sizes: Radius of each point's mark; empty for the usual marks.
    """

    name: str
    look: str
    points: Sequence[tuple[float, float | None]]
    band: Sequence[tuple[float, float]] = ()
    sizes: Sequence[float] = ()


class Drawn(NamedTuple):
    """A line as SVG: `path` and `marks` (x, y, radius); `whiskers` are (x, low y, high y)."""

    name: str
    look: str
    path: str
    marks: Sequence[tuple[float, float, float]]
    whiskers: Sequence[tuple[float, float, float]]


class Tick(NamedTuple):
    """A place on an axis in the view box, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Diagram:
    """All that an SVG needs.

    Attributes:
        title: Above it.
        summary: What it shows, in words, for those who cannot see it.
        x_label: Below the x axis.
        x_ticks: Left to right.
        y_ticks: Bottom to top.
        lines: In drawing order.
    """

    title: str
    summary: str
    x_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Drawn]


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale: its range and how its numbers are written."""

    label: str
    low: float
    high: float
    write: Callable[[float], str]
    whole: bool = False

    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        locator = MaxNLocator(
            nbins=TICKS, steps=[1, 2, 2.5, 5, 10], integer=self.whole, min_n_ticks=1
        )
        values = np.asarray(locator.tick_values(self.low, self.high)).tolist()
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]


def as_percent(value: float) -> str:
    """A share on an axis: whole percent where it is whole."""
    return f"{100 * value:.4g} %"


def as_number(value: float) -> str:
    """A number on an axis."""
    return f"{value:.3g}"


def draw(title: str, summary: str, x: Axis, y: Axis, lines: Iterable[Line]) -> Diagram:
    """A diagram with its lines, points and ticks put into the view box."""

    def at_x(value: float) -> float:
        return LEFT + (value - x.low) / (x.high - x.low) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        share = (value - y.low) / (y.high - y.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    return Diagram(
        title=title,
        summary=summary,
        x_label=x.label,
        x_ticks=[Tick(at_x(value), x.write(value)) for value in x.ticks()],
        y_ticks=[Tick(at_y(value), y.write(value)) for value in y.ticks()],
        lines=[_drawn(line, at_x, at_y) for line in lines],
    )


def _drawn(line: Line, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> Drawn:
    """One line in the view box; a long one is thinned, its ends kept."""
    count = len(line.points)
    kept = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    path, marks, whiskers, broken = [], [], [], True
    is_marked = line.look in ("a", "b") and (bool(line.sizes) or count <= MARKED_UP_TO)
    for index in kept.tolist():
        x, y = line.points[index]
        if y is None or not math.isfinite(y):
            broken = True
            continue
        place = (at_x(x), at_y(y))
        path.append(f"{'M' if broken else 'L'}{place[0]:.1f} {place[1]:.1f}")
        broken = False
        if is_marked:
            marks.append((*place, line.sizes[index] if line.sizes else 2.5))
        if line.band:
            low, high = line.band[index]
            whiskers.append((place[0], at_y(low), at_y(high)))
    return Drawn(line.name, line.look, "".join(path), marks, whiskers)


def curves(history: Sequence[Mapping[str, Any]]) -> list[Diagram]:
    """Loss, accuracy and learning rate over the epochs, as far as the history has them."""
    diagrams = []
    for measure in ("loss", "accuracy"):
        lines = [
            Line(split, look, _column(history, f"{split}_{measure}"))
            for split, look in (("train", "a"), ("val", "b"))
        ]
        y_range = _range(lines, at_least=0.1, top=1.0 if measure == "accuracy" else None)
        if y_range is not None:
            write = as_percent if measure == "accuracy" else as_number
            y = Axis(measure, *y_range, write)
            summary = f"{measure} of the training and the held-out images over the epochs"
            diagrams.append(draw(measure.capitalize(), summary, _epochs(history), y, lines))
    lines = [Line("", "a", _column(history, "lr"))]
    rates = [value for _, value in lines[0].points if value is not None]
    if rates:
        y = Axis("learning rate", 0, max(rates) * 1.05 or 1, as_number)
        summary = f"from {rates[0]:.3g} to {rates[-1]:.3g}"
        diagrams.append(draw("Learning rate", summary, _epochs(history), y, lines))
    return diagrams


def _epochs(history: Sequence[Mapping[str, Any]]) -> Axis:
    """The x axis of curves, with room around a single epoch."""
    epochs = [float(row["epoch"]) for row in history]
    return Axis("epoch", min(epochs) - 0.5, max(epochs) + 0.5, as_number, whole=True)


def _column(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float | None]]:
    """(epoch, value); what is missing or infinite becomes None."""
    values = [row.get(key) for row in history]
    numbers = [None if value in (None, "") else float(str(value)) for value in values]
    return [
        (float(row["epoch"]), None if value is None or not math.isfinite(value) else value)
        for row, value in zip(history, numbers, strict=True)
    ]


def _range(
    lines: Sequence[Line], *, at_least: float, top: float | None = None
) -> tuple[float, float] | None:
    """A range that holds all points and is no narrower than `at_least`; None without points."""
    values = [y for line in lines for _, y in line.points if y is not None]
    values += [end for line in lines for ends in line.band for end in ends]
    if not values:
        return None
    low, high = min(values), max(values)
    spare = max(at_least - (high - low), 0) / 2 + 0.04 * max(high - low, at_least)
    low, high = max(0.0, low - spare), high + spare
    if top is not None and high > top:
        low, high = max(0.0, low - (high - top)), top
    return low, high


class Bin(NamedTuple):
    """Answers that were about as sure as each other.

    Attributes:
        low: Least confidence, exclusive.
        high: Largest confidence, inclusive.
        images: How many, at least 1.
        confidence: Mean.
        accuracy: Share that was right.
        interval: Of the accuracy, 95 %.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def reliability_bins(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]
) -> list[Bin]:
    """The bins of the expected calibration error that have images, least sure first.

    Args:
        confidence: Probability of each predicted class, (N,).
        is_right: Whether it was the true one, (N,).
    """
    places = calibration_bins(confidence)
    bins = []
    for place in np.unique(places).tolist():
        inside = places == place
        count, right = int(inside.sum()), int(is_right[inside].sum())
        bins.append(
            Bin(
                low=place / ECE_BINS,
                high=(place + 1) / ECE_BINS,
                images=count,
                confidence=float(confidence[inside].mean()),
                accuracy=right / count,
                interval=wilson_interval(right, count),
            )
        )
    return bins


def reliability(bins: Sequence[Bin]) -> Diagram:
    """How often answers are right, by how sure they are; a point a bin, its area the images."""
    most = max(one.images for one in bins)
    points = Line(
        "answers, 95 % interval",
        "a",
        [(one.confidence, one.accuracy) for one in bins],
        band=[one.interval for one in bins],
        sizes=[2.5 + 5.5 * math.sqrt(one.images / most) for one in bins],
    )
    guide = Line("as sure as right", "guide", [(0, 0), (1, 1)])
    x = Axis("confidence", 0, 1, as_percent)
    y = Axis("right", 0, 1, as_percent)
    summary = "; ".join(f"at {b.confidence:.0%} sure, {b.accuracy:.0%} right" for b in bins)
    return draw("How sure, and how often right", summary, x, y, [guide, points])


class Kept(NamedTuple):
    """What is left when only answers of at least `threshold` are given."""

    coverage: float
    accuracy: float
    threshold: float


def coverage_curve(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]
) -> list[Kept]:
    """Accuracy of the surest answers, for every threshold that there is, surest first.

    Args:
        confidence: Probability of each predicted class, (N,).
        is_right: Whether it was the true one, (N,).

    Source: risk-coverage curve, El-Yaniv & Wiener 2010, On the Foundations of Noise-free
    Selective Classification, sec. 2.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, right = confidence[order], np.cumsum(is_right[order])
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))  # ties are kept together
    counts = ends + 1
    shares, accuracies = counts / len(sure), right[ends] / counts
    rows = zip(shares.tolist(), accuracies.tolist(), sure[ends].tolist(), strict=True)
    return [Kept(*row) for row in rows]


def coverage(curve: Sequence[Kept], images: int) -> Diagram:
    """Accuracy against coverage; what rests on too few images is left out."""
    fewest = min(FEWEST_IMAGES, images) / images
    points: list[tuple[float, float | None]] = [
        (one.coverage, one.accuracy) for one in curve if one.coverage >= fewest
    ]
    lines = [Line("", "line", points)]
    y_range = _range(lines, at_least=0.05, top=1.0)
    assert y_range is not None  # the last point stands for all images
    x = Axis("answered, surest first", 0, 1, as_percent)
    y = Axis("right", *y_range, as_percent)
    summary = f"all answered: {curve[-1].accuracy:.1%} right"
    return draw("If only sure answers count", summary, x, y, lines)


def coverage_rows(curve: Sequence[Kept]) -> list[Kept]:
    """The curve where it covers at least each of `COVERAGES`, each point once."""
    rows = [next(one for one in curve if one.coverage >= share - 1e-12) for share in COVERAGES]
    return list(dict.fromkeys(rows))


def confidences(
    answers: Sequence[Answer],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """How sure each answer was, and whether it was right."""
    confidence = np.array([one.probability for one in answers], dtype=np.float64)
    is_right = np.array([one.label == one.predicted for one in answers], dtype=np.bool_)
    return confidence, is_right


def learning(curve: LearningCurve) -> Diagram:
    """Accuracy against the number of training images, measured and forecast."""

    def line(name: str, look: str, points: Sequence[LearningPoint]) -> Line:
        places: list[tuple[float, float | None]] = [(one.images, one.accuracy) for one in points]
        return Line(name, look, places, band=[(one.low, one.high) for one in points])

    lines = [line("measured, with interval", "a", curve.points)]
    if curve.forecast:
        lines.append(line("forecast", "forecast", [*curve.points[-1:], *curve.forecast]))
    y_range = _range(lines, at_least=0.05, top=1.0)
    assert y_range is not None  # a learning curve has points
    most = max(x for one in lines for x, _ in one.points)
    x = Axis("training images", 0, most * 1.05, lambda value: f"{value:,.0f}", whole=True)
    y = Axis("accuracy", *y_range, as_percent)
    summary = "; ".join(f"{p.images:,} images: {p.accuracy:.1%}" for p in curve.points)
    return draw("Accuracy by number of training images", summary, x, y, lines)
