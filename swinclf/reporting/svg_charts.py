"""The diagrams of the HTML report as coordinates for inline SVG: reliability, coverage and curves.

Computes the coordinates of lines, points and ticks; their styles are in the page's CSS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from swinclf.metrics import (
    ECE_BINS,
    calibration_bins,
    wilson_interval,
)
from swinclf.reporter import format_percent
from swinclf.reporting.charts import as_percent, history_column
from swinclf.reporting.report_data import LearningCurve, LearningPoint

WIDTH, HEIGHT = 340, 240  # of the view box; a phone shows about one pixel a unit
LEFT, RIGHT, TOP, BOTTOM = 50, 22, 12, 42  # margins around the axes
MAX_POINTS = 300  # of a line
MAX_MARKERS = 40  # points; more markers would overlap
TICKS = 5
MIN_COVERED = 10  # images; the accuracy of fewer is noise
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True, slots=True)
class Line:
    """A line in data coordinates."""

    name: str  # for the legend; empty for none
    style: str  # CSS class: `a`, `train`, `val`, `guide`, `line` or `forecast`
    points: Sequence[tuple[float, float]]  # (x, y); a y that is not finite leaves a gap
    band: Sequence[tuple[float, float]] = ()  # (low, high) interval of each point; empty for none
    sizes: Sequence[float] = ()  # radius of each point's marker; empty for the default


class SvgLine(NamedTuple):
    """A line in SVG coordinates: `path`, `marks` (x, y, radius), `whiskers` (x, low y, high y)."""

    name: str
    style: str
    path: str
    marks: Sequence[tuple[float, float, float]]
    whiskers: Sequence[tuple[float, float, float]]


class Tick(NamedTuple):
    """A tick of an axis: its SVG coordinate and its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Diagram:
    """The contents of an SVG."""

    title: str
    summary: str  # a description for screen readers
    x_label: str  # label of the x axis
    x_ticks: Sequence[Tick]  # left to right
    y_ticks: Sequence[Tick]  # bottom to top
    lines: Sequence[SvgLine]  # in drawing order


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its label, its range and the format of its numbers."""

    label: str
    low: float
    high: float
    write: Callable[[float], str]
    whole: bool = False

    def ticks(self) -> list[float]:
        """Return round numbers within the range."""
        locator = MaxNLocator(
            nbins=TICKS, steps=[1, 2, 2.5, 5, 10], integer=self.whole, min_n_ticks=1
        )
        values = np.asarray(locator.tick_values(self.low, self.high)).tolist()
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]


def as_number(value: float) -> str:
    """Return the tick label of a number, short enough for the margin.

    >>> as_number(0.00025), as_number(0.05), as_number(12684)
    ('2.5e-4', '0.05', '1.27e4')
    """
    if value and not 0.001 <= abs(value) < 10_000:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def draw(title: str, summary: str, x: Axis, y: Axis, lines: Iterable[Line]) -> Diagram:
    """Return a diagram with its lines, points and ticks in SVG coordinates."""

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
        lines=[_to_svg(line, at_x, at_y) for line in lines],
    )


def _to_svg(line: Line, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> SvgLine:
    """Return a line in SVG coordinates; a long one is thinned out, with its ends."""
    count = len(line.points)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))
    path, marks, whiskers, broken = [], [], [], True
    is_marked = line.style in ("a", "train", "val") and (bool(line.sizes) or count <= MAX_MARKERS)
    for index in chosen.tolist():
        x, y = line.points[index]
        if not math.isfinite(y):
            broken = True
            continue
        svg_x, svg_y = at_x(x), at_y(y)
        path.append(f"{'M' if broken else 'L'}{svg_x:.1f} {svg_y:.1f}")
        broken = False
        if is_marked:
            marks.append((svg_x, svg_y, line.sizes[index] if line.sizes else 2.5))
        if line.band:
            low, high = line.band[index]
            whiskers.append((svg_x, at_y(low), at_y(high)))
    return SvgLine(line.name, line.style, "".join(path), marks, whiskers)


def curves(history: Sequence[Mapping[str, Any]]) -> list[Diagram]:
    """Return diagrams of loss, accuracy and learning rate over the epochs, where recorded."""
    diagrams = []
    for measure in ("loss", "accuracy"):
        lines = [
            Line(split, split, _column(history, f"{split}_{measure}")) for split in ("train", "val")
        ]
        y_range = _range(lines, at_least=0.1, top=1.0 if measure == "accuracy" else None)
        if y_range is not None:
            write = as_percent if measure == "accuracy" else as_number
            y = Axis(measure, *y_range, write)
            summary = f"{measure} of the training and the held-out images over the epochs"
            diagrams.append(draw(measure.capitalize(), summary, _epochs(history), y, lines))
    lines = [Line("", "a", _column(history, "lr"))]
    rates = [value for _, value in lines[0].points if math.isfinite(value)]
    if rates:
        y = Axis("learning rate", 0, max(rates) * 1.05 or 1, as_number)
        summary = f"from {rates[0]:.3g} to {rates[-1]:.3g}"
        diagrams.append(draw("Learning rate", summary, _epochs(history), y, lines))
    return diagrams


def _epochs(history: Sequence[Mapping[str, Any]]) -> Axis:
    """Return the x axis of the curves, with a margin around a single epoch."""
    epochs = [float(row["epoch"]) for row in history]
    return Axis("epoch", min(epochs) - 0.5, max(epochs) + 0.5, as_number, whole=True)


def _column(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) pairs; a value that is missing or infinite is NaN."""
    columns = (history_column(history, one).tolist() for one in ("epoch", key))
    return list(zip(*columns, strict=True))


def _range(
    lines: Sequence[Line], *, at_least: float, top: float | None = None
) -> tuple[float, float] | None:
    """Return a range of all points, no narrower than `at_least`; None without points."""
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    values += [end for line in lines for ends in line.band for end in ends]
    if not values:
        return None
    low, high = min(values), max(values)
    spare = max(at_least - (high - low), 0) / 2 + 0.04 * max(high - low, at_least)
    low, high = max(0.0, low - spare), high + spare
    if top is not None and high > top:
        low, high = max(0.0, low - (high - top)), top
    return low, high


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
    points = Line(
        "accuracy, 95 % interval",
        "a",
        [(one.confidence, one.accuracy) for one in bins],
        band=[one.interval for one in bins],
        sizes=[2.5 + 5.5 * math.sqrt(one.images / most) for one in bins],
    )
    guide = Line("perfect calibration", "guide", [(0, 0), (1, 1)])
    x = Axis("confidence", 0, 1, as_percent)
    y = Axis("accuracy", 0, 1, as_percent)
    summary = "; ".join(
        f"confidence {format_percent(b.confidence, 0)}, accuracy {format_percent(b.accuracy, 0)}"
        for b in bins
    )
    return draw("Reliability diagram", summary, x, y, [guide, points])


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
    points = [(one.coverage, one.accuracy) for one in curve if one.coverage >= fewest]
    lines = [Line("", "line", points)]
    y_range = _range(lines, at_least=0.05, top=1.0)
    assert y_range is not None  # the last point stands for all images
    x = Axis("coverage", 0, 1, as_percent)
    y = Axis("accuracy", *y_range, as_percent)
    summary = f"accuracy {format_percent(curve[-1].accuracy)} at full coverage"
    return draw("Accuracy by coverage", summary, x, y, lines)


def coverage_rows(curve: Sequence[CoveragePoint]) -> list[CoveragePoint]:
    """Return the points of the curve with at least each of `COVERAGES`, without repeats."""
    rows = [next(one for one in curve if one.coverage >= share - 1e-12) for share in COVERAGES]
    return list(dict.fromkeys(rows))


def learning(curve: LearningCurve) -> Diagram:
    """Return the learning curve: accuracy by number of training images, measured and forecast."""

    def line(name: str, style: str, points: Sequence[LearningPoint]) -> Line:
        xy = [(one.images, one.accuracy) for one in points]
        return Line(name, style, xy, band=[(one.low, one.high) for one in points])

    lines = [line("measured, with interval", "a", curve.points)]
    if curve.forecast:
        lines.append(line("forecast", "forecast", [*curve.points[-1:], *curve.forecast]))
    y_range = _range(lines, at_least=0.05, top=1.0)
    assert y_range is not None  # a learning curve has points
    most = max(x for one in lines for x, _ in one.points)
    x = Axis("training images", 0, most * 1.05, lambda value: f"{value:,.0f}", whole=True)
    y = Axis("accuracy", *y_range, as_percent)
    summary = "; ".join(f"{p.images:,} images: {format_percent(p.accuracy)}" for p in curve.points)
    return draw("Accuracy by number of training images", summary, x, y, lines)
