"""The files of an evaluation that programs read: metrics.json and confusion_matrix.csv.

Both write the confusion matrix a row at a time, and of a great many classes only the pairs that
occurred: ten thousand classes would make files of hundreds of megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path

from swinclf.files import spreadsheet_safe, write_csv, write_text
from swinclf.metrics import Metrics
from swinclf.reporting.teacher import TeacherScores


def write_metrics_json(
    path: Path, metrics: Metrics, *, skipped: int = 0, teacher: TeacherScores | None = None
) -> None:
    """Write `metrics` as JSON: a line a measure, a class and a row of the confusion matrix.

    Names are written as they read. If one is no valid Unicode (a file name of another encoding),
    everything beyond ASCII is escaped, which is the one way JSON can hold it.

    Args:
        path: The file, replaced if it is there.
        metrics: What to write; its `to_dict()` is what the file parses to.
        skipped: Files that could not be used; where there are any, the key `skipped` says so.
        teacher: What a teacher scored on the same images; where there is one, the key `teacher`.
    """
    named = teacher.name if teacher is not None else ""
    ascii_only = not _is_unicode(*metrics.classes, metrics.split, named)
    text = _json_text(metrics, skipped, teacher, ascii_only=ascii_only)
    write_text(path, text)


def write_confusion_csv(path: Path, metrics: Metrics) -> None:
    """Write the confusion matrix as CSV: a row a true class, a column a predicted one.

    Args:
        path: The file, replaced if it is there. The first row and column are the class names, made
            harmless for spreadsheets.
            Beyond `MATRIX_CLASSES` classes, a row a pair that occurred: true, predicted, count.
        metrics: Where the counts are.
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


def _json_text(
    metrics: Metrics, skipped: int, teacher: TeacherScores | None, *, ascii_only: bool
) -> str:
    """Every key of `Metrics.to_dict` in its order, laid out for reading."""
    dumps = partial(json.dumps, ensure_ascii=ascii_only, allow_nan=False)
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
        **({"skipped": skipped} if skipped else {}),
        **({"teacher": teacher.to_dict()} if teacher is not None else {}),
    }
    lines = [f'  "{key}": {dumps(value)},\n' for key, value in plain.items()]
    rows = [f"    {dumps(name)}: {dumps(asdict(row))}" for name, row in metrics.per_class.items()]
    if metrics.has_matrix:
        key, table = "confusion_matrix", _matrix_rows(metrics)
    else:
        key, table = "confusions", map(list, metrics.confusions)
    counts = [f"    [{', '.join(map(str, row))}]" for row in table]
    lines.append('  "per_class": {\n' + ",\n".join(rows) + "\n  },\n")
    lines.append(f'  "{key}": [\n' + ",\n".join(counts) + "\n  ]\n")
    return "{\n" + "".join(lines) + "}\n"


def _matrix_rows(metrics: Metrics) -> Iterator[list[int]]:
    """The rows of the confusion matrix, one at a time."""
    groups = groupby(metrics.confusions, key=lambda pair: pair[0])
    by_row = {true: list(pairs) for true, pairs in groups}
    for true in range(len(metrics.classes)):
        row = [0] * len(metrics.classes)
        for _, pred, count in by_row.get(true, ()):
            row[pred] = count
        yield row


def _is_unicode(*names: str) -> bool:
    """Whether the names can be written as UTF-8: no lone surrogates."""
    try:
        "".join(names).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
