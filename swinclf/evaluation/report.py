"""The report of an evaluation: one HTML file that works offline, in a mail, in the dark, on paper.

Knows measures, texts and finished pictures; knows nothing about networks or datasets. The look is
in report.html.jinja; this module chooses what goes in, bounds how much, and makes names safe.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from swinclf import __version__
from swinclf.evaluation.metrics import Metrics
from swinclf.evaluation.page import data_uri, page_template
from swinclf.files import write_text

CLASS_ROWS, EPOCH_ROWS, SKIPPED_ROWS, MISTAKE_ROWS, CONFUSED_ROWS = 1000, 500, 200, 50, 10

Row = TypeVar("Row")


class SettingLike(Protocol):
    """A setting as resolved: its value, where it came from and why."""

    @property
    def value(self) -> object:
        """What the run used."""

    @property
    def source(self) -> object:
        """Where it came from: default, auto, file or flag."""

    @property
    def reason(self) -> str | None:
        """Why it was chosen; empty or None where nobody had to choose."""


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


def write_report(
    path: Path,
    *,
    title: str,
    metrics: Metrics,
    settings: Mapping[str, SettingLike],
    history: Sequence[Mapping[str, Any]],
    images: Mapping[str, Path],
    skipped: Sequence[tuple[str, str]],
    mistakes: Sequence[tuple[str, str, str, float]],
    command: str,
    data: str,
) -> None:
    """Write the report as one HTML file without scripts and without outside requests.

    Long lists are cut, and say how many lines are missing and in which file they stand.

    Args:
        path: The file, replaced if it is there.
        title: Its heading, such as the run's name.
        metrics: What was scored.
        settings: Name -> value, source and reason, in the order to be shown; may be empty.
        history: A row an epoch with the keys of history.csv; empty where nothing was trained.
        images: PNG files to embed: `confusion_matrix` and `curves` stand in their sections, any
            other at the end under its key.
        skipped: (path, reason) of the files that could not be read.
        mistakes: (path, label, predicted, probability) of wrong answers, worst first.
        command: What to type for the same result.
        data: The folder that was scored.

    Raises:
        FileNotFoundError: If one of the images is not there.
    """
    pictures = {name: data_uri(file.read_bytes(), "png") for name, file in images.items()}
    page = page_template("evaluation", "report.html.jinja").render(
        title=title,
        metrics=metrics,
        right=round(metrics.accuracy * metrics.images),
        class_rows=Bounded.of(_class_rows(metrics), CLASS_ROWS),
        confused=metrics.most_confused(CONFUSED_ROWS),
        settings=settings,
        epochs=Bounded.of(history, EPOCH_ROWS),
        matrix=pictures.pop("confusion_matrix", None),
        curves=pictures.pop("curves", None),
        pictures=pictures,
        skipped=Bounded.of(skipped, SKIPPED_ROWS),
        mistakes=Bounded.of(mistakes, MISTAKE_ROWS),
        command=command,
        data=data,
        version=__version__,
    )
    write_text(path, page)


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
