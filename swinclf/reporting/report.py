"""The report of an evaluation: one HTML file that works offline, in a mail, in the dark, on paper.

Knows measures, texts and finished pictures; knows nothing about networks or datasets. The look is
in report.html.jinja and report.css, what moves is in report.js; this module chooses what goes in,
bounds how much, and makes names safe.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from swinclf import __version__
from swinclf.files import write_text
from swinclf.metrics import (
    PROBE_NOTE,
    SELECTION_NOTE,
    UNBIASED_NOTE,
    UNTRAINED_NOTE,
    Metrics,
)
from swinclf.reporting import svg_charts
from swinclf.reporting.charts import short_count
from swinclf.reporting.confusion import Pair, grid_of, pairs_of
from swinclf.reporting.display_names import printable, shortened
from swinclf.reporting.embedded_images import Thumbnails, embed
from swinclf.reporting.html import data_uri, page_template
from swinclf.reporting.report_data import EXAMPLES, Answer, Provenance, Sections

CLASS_ROWS, EPOCH_ROWS, SKIPPED_ROWS, CONFUSED_ROWS = 1000, 500, 200, 10
MISTAKES, SUSPECTS = 24, 24  # that are shown with their pictures
ROOMY_CLASSES = 12  # up to so many, the matrix has room for large cells and long names
DIAGRAMS_FROM = 10  # images; with fewer, a diagram of confidence would say nothing

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Bounded(Generic[Row]):
    """The head of a list, and how many rows were left out.

    Attributes:
        rows: At most so many as were asked for.
        more: How many there are besides.
    """

    rows: Sequence[Row]
    more: int

    @classmethod
    def of(cls, rows: Iterable[Row], limit: int) -> Bounded[Row]:
        """The first `limit` of `rows`, which are read once and not kept."""
        iterator = iter(rows)
        return cls(list(itertools.islice(iterator, limit)), sum(1 for _ in iterator))


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A line of the per-class table.

    Attributes:
        index: Place in the network's order, as in class_indices.json.
        name: The class.
        support: Its images.
        precision: In [0, 1].
        recall: In [0, 1]; None without images.
        f1: In [0, 1]; None without images.
    """

    index: int
    name: str
    support: int
    precision: float
    recall: float | None
    f1: float | None


def worst_mistakes(answers: Iterable[Answer]) -> list[Answer]:
    """The wrong answers that a report shows with their pictures, surest first."""
    wrong = (one for one in answers if one.label != one.predicted)
    return heapq.nlargest(MISTAKES, wrong, key=lambda one: one.probability)


def no_thumbnails(paths: Sequence[str]) -> Iterator[bytes | None]:
    """No picture of any image."""
    return iter([None] * len(paths))


def write_report(
    path: Path,
    provenance: Provenance,
    *,
    metrics: Metrics,
    answers: Sequence[Answer],
    matrix: Path | None,
    skipped: Sequence[tuple[str, str]],
    sections: Sections | None = None,
    thumbnails: Thumbnails = no_thumbnails,
) -> None:
    """Write the report as one HTML file that asks for nothing outside itself.

    Long lists are cut, and say how many lines are missing and in which file they stand. Pictures
    are embedded, the most telling first, up to `pictures.PICTURE_CHARS`.

    Args:
        path: The file, replaced if it is there.
        provenance: What was scored, and how it was trained.
        metrics: The scores.
        answers: All answers that `metrics` sums up; may be empty where they were not kept.
        matrix: A PNG file of the whole confusion matrix, embedded where it is too large for a
            grid; None for none.
        skipped: (path, reason) of the files that could not be read.
        sections: What else there is to show.
        thumbnails: Makes small JPEGs of images.

    Raises:
        FileNotFoundError: If the matrix is not there.
    """
    extra = sections or Sections()
    mistakes = worst_mistakes(answers)
    wrong_count = metrics.images - round(metrics.accuracy * metrics.images)
    confusion = _confusion(metrics, answers, matrix)
    uses = _uses(mistakes, extra, confusion["pairs"])
    page = page_template("reporting", "report.html.jinja").render(
        **confusion,
        **_training(provenance.history, metrics.split),
        box=svg_charts,
        short_count=short_count,
        provenance=provenance,
        metrics=metrics,
        untrained=UNTRAINED_NOTE if extra.is_untrained else None,
        right=metrics.images - wrong_count,
        class_rows=Bounded.of(_class_rows(metrics), CLASS_ROWS),
        confidence=_confidence(answers),
        learning=svg_charts.learning(extra.learning) if extra.learning else None,
        skipped=Bounded.of(skipped, SKIPPED_ROWS),
        mistakes=Bounded(mistakes, wrong_count - len(mistakes)),
        suspects=Bounded.of(extra.suspects, SUSPECTS),
        examples=EXAMPLES,
        extra=extra,
        pictures=embed(uses, thumbnails),
        evidence={file: data_uri(jpeg, "jpeg") for file, jpeg in extra.evidence.items()},
        version=__version__,
    )
    write_text(path, page)


def _confusion(metrics: Metrics, answers: Sequence[Answer], matrix: Path | None) -> dict[str, Any]:
    """The confusion matrix as a grid or a picture, and the images behind its cells."""
    grid, confused = grid_of(metrics), _confused(metrics)
    pairs = pairs_of(metrics, grid, [pair[:2] for pair in confused], answers)
    is_fine = len(grid.classes) > ROOMY_CLASSES
    return {
        "grid": grid,
        "is_fine": is_fine,
        "short_names": [
            shortened(printable(metrics.classes[index]), 16 if is_fine else 24)
            for index in grid.classes
        ],
        "confused": confused,
        "pairs": pairs,
        "linked": {(pair.true, pair.predicted) for pair in pairs},
        "matrix": data_uri(matrix.read_bytes(), "png") if matrix and not grid.is_whole else None,
    }


def _training(history: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """The epochs as curves and as a table, and what was selected by the split that is scored."""
    epochs = [row for row in history if row["epoch"]]  # none of a linear probe
    return {
        "selection": (SELECTION_NOTE, UNBIASED_NOTE) if epochs and split == "val" else None,
        "curves": svg_charts.curves(epochs) if epochs else [],
        "probe": PROBE_NOTE if history and not epochs else None,
        "epochs": Bounded.of(history, EPOCH_ROWS),
    }


def _confused(metrics: Metrics) -> list[tuple[int, int, int]]:
    """The pairs of classes mistaken most often, as indices, with their count."""
    index = {name: number for number, name in enumerate(metrics.classes)}
    return [
        (index[true], index[predicted], count)
        for true, predicted, count in metrics.most_confused(CONFUSED_ROWS)
    ]


def _uses(mistakes: Sequence[Answer], extra: Sections, pairs: Sequence[Pair]) -> list[str]:
    """The images of a page, the most telling first, one for each place."""
    uses = [one.path for one in mistakes]
    near = (near for one in mistakes for near in extra.neighbours.get(one.path, ()))
    uses += [one.file for one in near if one.file is not None]
    uses += [one.path for one in extra.suspects[:SUSPECTS]]
    uses += [file for finding in extra.audit for file in finding.examples[:EXAMPLES]]
    # The first image of every cell before the second of any.
    longest = max((len(pair.answers) for pair in pairs), default=0)
    for place in range(longest):
        uses += [pair.answers[place].path for pair in pairs if place < len(pair.answers)]
    return uses


def _confidence(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """The diagrams and tables of confidence; None where there are too few answers for them."""
    if len(answers) < DIAGRAMS_FROM:
        return None
    confidence, is_right = svg_charts.confidences(answers)
    bins = svg_charts.reliability_bins(confidence, is_right)
    curve = svg_charts.coverage_curve(confidence, is_right)
    return {
        "diagrams": [svg_charts.reliability(bins), svg_charts.coverage(curve, len(answers))],
        "bins": bins,
        "kept": svg_charts.coverage_rows(curve),
    }


def _class_rows(metrics: Metrics) -> list[ClassRow]:
    """The classes, lowest F1 first, those without images last: recall of nothing is no number."""
    rows = [
        ClassRow(
            index=index,
            name=name,
            support=row.support,
            precision=row.precision,
            recall=row.recall if row.support else None,
            f1=row.f1 if row.support else None,
        )
        for index, (name, row) in enumerate(metrics.per_class.items())
    ]
    return sorted(rows, key=lambda row: (row.f1 is None, row.f1))
