"""The diagrams of the HTML report as coordinates for inline SVG: reliability, coverage and curves.

report.html.jinja draws them, and report.css has their styles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from swinclf.metrics import ECE_BINS, calibration_bins, wilson_interval
from swinclf.reporter import format_percent
from swinclf.reporting.charts import as_percent, history_column
from swinclf.reporting.report_data import LearningCurve, LearningPoint

WIDTH, HEIGHT = 340, 240  # of the view box; a phone shows about one pixel a unit
LEFT, RIGHT, TOP, BOTTOM = 50, 22, 12, 42  # margins around the axes
MAX_POINTS = 300  # of a line
MARKED, MAX_MARKERS = ("a", "train", "val"), 40  # styles; points: more markers would overlap
TICKS = 5
MIN_COVERED = 10  # images; the accuracy of fewer is noise
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)


class Point(NamedTuple):
    """A point in data coordinates; a y that is not finite leaves a gap in the line."""

    x: float
    y: float
    interval: tuple[float, float] | None = None  # its ends on the y axis
    radius: float = 2.5  # of its marker


@dataclass(frozen=True, slots=True)
class Line:
    """A line in data coordinates."""

    name: str  # for the legend; empty for none
    style: str  # CSS class: `a`, `train`, `val`, `guide`, `line` or `forecast`
    points: Sequence[Point]

    @property
    def marks(self) -> list[Point]:
        """The points that have a marker."""
        is_marked = self.style in MARKED and len(self.points) <= MAX_MARKERS
        return [one for one in self.points if is_marked and math.isfinite(one.y)]

    @property
    def values(self) -> list[float]:
        """The y coordinates of points and intervals, as far as they are finite."""
        ends = (end for one in self.points for end in (one.y, *(one.interval or ())))
        return [end for end in ends if math.isfinite(end)]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: the ends of its range, its format of numbers, and its ends in the view box."""

    low: float
    high: float
    write: Callable[[float], str]
    start: int
    end: int
    whole: bool = False

    def ticks(self) -> list[float]:
        """Return round numbers within the range."""
        locator = MaxNLocator(
            nbins=TICKS, steps=[1, 2, 2.5, 5, 10], integer=self.whole, min_n_ticks=1
        )
        values = np.asarray(locator.tick_values(self.low, self.high)).tolist()
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]

    def at(self, value: float) -> float:
        """Return the coordinate of a value in the view box."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _x_axis(low: float, high: float, write: Callable[[float], str], *, whole: bool = False) -> Axis:
    return Axis(low, high, write, LEFT, WIDTH - RIGHT, whole)


def _y_axis(low: float, high: float, write: Callable[[float], str]) -> Axis:
    return Axis(low, high, write, HEIGHT - BOTTOM, TOP)


@dataclass(frozen=True, slots=True)
class Diagram:
    """A diagram; its template draws it."""

    title: str
    summary: str  # a description for screen readers
    x_label: str
    x: Axis
    y: Axis
    lines: Sequence[Line]  # in drawing order

    def path(self, line: Line) -> str:
        """Return the path of a line, thinned out if it is long, in the coordinates of SVG."""
        count = len(line.points)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))
        path, command = "", "M"
        for one in (line.points[index] for index in chosen.tolist()):
            if math.isfinite(one.y):
                path += f"{command}{self.x.at(one.x)} {self.y.at(one.y)}"
            command = "L" if math.isfinite(one.y) else "M"
        return path


def as_number(value: float) -> str:
    """Return the tick label of a number, short enough for the margin.

    >>> as_number(0.00025), as_number(0.05), as_number(12684)
    ('2.5e-4', '0.05', '1.27e4')
    """
    if value and not 0.001 <= abs(value) < 10_000:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def curves(history: Sequence[Mapping[str, Any]]) -> list[Diagram]:
    """Return diagrams of loss, accuracy and learning rate over the epochs, where recorded."""

    def line(name: str, style: str, key: str) -> Line:
        return Line(name, style, list(map(Point, epochs, history_column(history, key).tolist())))

    epochs = history_column(history, "epoch").tolist()
    x = _x_axis(min(epochs) - 0.5, max(epochs) + 0.5, as_number, whole=True)
    diagrams = []
    for measure in ("loss", "accuracy"):
        lines = [line(split, split, f"{split}_{measure}") for split in ("train", "val")]
        is_share = measure == "accuracy"
        y = _fit(lines, as_percent if is_share else as_number, at_least=0.1, is_share=is_share)
        if y is not None:
            summary = f"{measure} of the training and the held-out images over the epochs"
            diagrams.append(Diagram(measure.capitalize(), summary, "epoch", x, y, lines))
    rate = line("", "a", "lr")
    if rates := rate.values:
        y = _y_axis(0, max(rates) * 1.05 or 1, as_number)
        summary = f"from {rates[0]:.3g} to {rates[-1]:.3g}"
        diagrams.append(Diagram("Learning rate", summary, "epoch", x, y, [rate]))
    return diagrams


def _fit(
    lines: Sequence[Line], write: Callable[[float], str], *, at_least: float, is_share: bool
) -> Axis | None:
    """Return a y axis for all values, no narrower than `at_least`; None without any."""
    values = [value for line in lines for value in line.values]
    if not values:
        return None
    low, high = min(values), max(values)
    spare = max(at_least - (high - low), 0) / 2 + 0.04 * max(high - low, at_least)
    excess = max(0.0, high + spare - 1) if is_share else 0.0
    return _y_axis(max(0.0, low - spare - excess), high + spare - excess, write)


class ReliabilityBin(NamedTuple):
    """A bin of predictions of similar confidence."""

    low: float  # lower end, exclusive
    high: float  # upper end, inclusive
    images: int  # number of images, at least 1
    confidence: float  # mean confidence
    accuracy: float  # share of correct predictions
    interval: tuple[float, float]  # 95 % interval of the accuracy


def reliability_bins(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]
) -> list[ReliabilityBin]:
    """Return the bins of the expected calibration error that have images, in ascending order.

    (N,) probabilities of the predicted classes, and (N,) whether they are correct.
    """
    indices = calibration_bins(confidence)
    bins = []
    for index in np.unique(indices).tolist():
        inside = indices == index
        count, right = int(inside.sum()), int(is_right[inside].sum())
        bins.append(
            ReliabilityBin(
                low=index / ECE_BINS,
                high=(index + 1) / ECE_BINS,
                images=count,
                confidence=float(confidence[inside].mean()),
                accuracy=right / count,
                interval=wilson_interval(right, count),
            )
        )
    return bins


def reliability(bins: Sequence[ReliabilityBin]) -> Diagram:
    """Return the reliability diagram: accuracy by confidence, marker area by number of images."""
    most = max(one.images for one in bins)
    radii = (2.5 + 5.5 * math.sqrt(one.images / most) for one in bins)
    points = [
        Point(one.confidence, one.accuracy, one.interval, radius)
        for one, radius in zip(bins, radii, strict=True)
    ]
    lines = [
        Line("perfect calibration", "guide", [Point(0, 0), Point(1, 1)]),
        Line("accuracy, 95 % interval", "a", points),
    ]
    x, y = _x_axis(0, 1, as_percent), _y_axis(0, 1, as_percent)
    summary = "; ".join(
        f"confidence {format_percent(b.confidence, 0)}, accuracy {format_percent(b.accuracy, 0)}"
        for b in bins
    )
    return Diagram("Reliability diagram", summary, "confidence", x, y, lines)


class CoveragePoint(NamedTuple):
    """Coverage and accuracy of the predictions with a probability of at least `threshold`."""

    coverage: float
    accuracy: float
    threshold: float


def coverage_curve(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]
) -> list[CoveragePoint]:
    """Return coverage and accuracy for every threshold, highest first; arguments (N,).

    Source: risk-coverage curve, El-Yaniv & Wiener 2010, On the Foundations of Noise-free
    Selective Classification, sec. 2.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, right = confidence[order], np.cumsum(is_right[order])
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))  # ties stay together
    counts = ends + 1
    shares, accuracies = counts / len(sure), right[ends] / counts
    rows = zip(shares.tolist(), accuracies.tolist(), sure[ends].tolist(), strict=True)
    return [CoveragePoint(*row) for row in rows]


def coverage(curve: Sequence[CoveragePoint], images: int) -> Diagram:
    """Return the diagram of accuracy against coverage, without points of too few images."""
    fewest = min(MIN_COVERED, images) / images
    points = [Point(one.coverage, one.accuracy) for one in curve if one.coverage >= fewest]
    lines = [Line("", "line", points)]
    y = _fit(lines, as_percent, at_least=0.05, is_share=True)
    assert y is not None  # the last point stands for all images
    summary = f"accuracy {format_percent(curve[-1].accuracy)} at full coverage"
    x = _x_axis(0, 1, as_percent)
    return Diagram("Accuracy by coverage", summary, "coverage", x, y, lines)


def coverage_rows(curve: Sequence[CoveragePoint]) -> list[CoveragePoint]:
    """Return the points of the curve with at least each of `COVERAGES`, without repeats."""
    rows = [next(one for one in curve if one.coverage >= share - 1e-12) for share in COVERAGES]
    return list(dict.fromkeys(rows))


def learning(curve: LearningCurve) -> Diagram:
    """Return the learning curve: accuracy by number of training images, measured and forecast."""

    def line(name: str, style: str, points: Sequence[LearningPoint]) -> Line:
        found = [Point(one.images, one.accuracy, (one.low, one.high)) for one in points]
        return Line(name, style, found)

    lines = [line("measured, with interval", "a", curve.points)]
    if curve.forecast:
        lines.append(line("forecast", "forecast", [*curve.points[-1:], *curve.forecast]))
    y = _fit(lines, as_percent, at_least=0.05, is_share=True)
    assert y is not None  # a learning curve has points
    most = max(one.x for each in lines for one in each.points)
    x = _x_axis(0, most * 1.05, lambda value: f"{value:,.0f}", whole=True)
    summary = "; ".join(f"{p.images:,} images: {format_percent(p.accuracy)}" for p in curve.points)
    title = "Accuracy by number of training images"
    return Diagram(title, summary, "training images", x, y, lines)
