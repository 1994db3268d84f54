"""The machine-readable files of an evaluation: metrics.json and confusion_matrix.csv.

With very many classes only the pairs that occurred are written: a dense matrix of ten thousand
classes would be a file of hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from swinclf.files import json_text, spreadsheet_safe, write_csv, write_text
from swinclf.metrics import Metrics
from swinclf.reporting.paired_comparison import TeacherScores
from swinclf.reporting.verdict import Verdict


def write_metrics_json(
    path: Path,
    metrics: Metrics,
    *,
    skipped: int = 0,
    teacher: TeacherScores | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write `metrics` as JSON: a line for each measure, class and row of the confusion matrix.

    The keys `skipped` (number of unreadable files), `teacher` and `verdict` are written if there
    are any.
    """
    extras = {
        "skipped": skipped or None,
        "teacher": teacher.to_dict() if teacher is not None else None,
        "verdict": verdict.to_dict() if verdict is not None else None,
    }
    write_text(path, _metrics_json(metrics, extras))


def write_confusion_csv(path: Path, metrics: Metrics) -> None:
    """Write the confusion matrix as CSV: rows are true classes, columns predicted ones.

    The first row and column are the class names, escaped for spreadsheets. Beyond `MATRIX_CLASSES`
    classes, a row for each pair that occurred: true, predicted, count.
    """
    names = metrics.classes
    if not metrics.has_matrix:
        pairs = ((names[true], names[pred], count) for true, pred, count in metrics.confusions)
        write_csv(path, ("true", "predicted", "count"), pairs)
        return
    names = tuple(map(spreadsheet_safe, metrics.classes))
    named_rows = zip(names, _matrix_rows(metrics), strict=True)
    rows = ((name, *row) for name, row in named_rows)
    write_csv(path, ("true/predicted", *names), rows)


def _metrics_json(metrics: Metrics, extras: Mapping[str, object]) -> str:
    """Return the JSON of `Metrics.to_dict` and of what there is of `extras`, with keys in order."""
    plain = {
        "split": metrics.split,
        "images": metrics.images,
        "classes": metrics.classes,
        "accuracy": metrics.accuracy,
        "accuracy_ci95": metrics.accuracy_ci95,
        "top5_accuracy": metrics.top5_accuracy,
        "balanced_accuracy": metrics.balanced_accuracy,
        "macro_f1": metrics.macro_f1,
        "loss": metrics.loss,
        "ece": metrics.ece,
        **{key: value for key, value in extras.items() if value is not None},
    }
    lines = [f'  "{key}": {json_text(value)},\n' for key, value in plain.items()]
    per_class = metrics.per_class.items()
    rows = [f"    {json_text(name)}: {json_text(asdict(row))}" for name, row in per_class]
    if metrics.has_matrix:
        key, table = "confusion_matrix", _matrix_rows(metrics)
    else:
        key, table = "confusions", map(list, metrics.confusions)
    counts = [f"    [{', '.join(map(str, row))}]" for row in table]
    lines.append('  "per_class": {\n' + ",\n".join(rows) + "\n  },\n")
    lines.append(f'  "{key}": [\n' + ",\n".join(counts) + "\n  ]\n")
    return "{\n" + "".join(lines) + "}\n"


def _matrix_rows(metrics: Metrics) -> Iterator[list[int]]:
    groups = groupby(metrics.confusions, key=lambda pair: pair[0])
    by_row = {true: list(pairs) for true, pairs in groups}
    for true in range(len(metrics.classes)):
        row = [0] * len(metrics.classes)
        for _, pred, count in by_row.get(true, ()):
            row[pred] = count
        yield row
