"""The machine-readable files of an evaluation: metrics.json and confusion_matrix.csv.

With very many classes only the pairs that occurred are written: a dense matrix of ten thousand
classes would be a file of hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    probe_accuracy: float | None = None,
    is_training_dataset: bool = True,
    teacher: TeacherScores | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write `metrics` as JSON: a line for each measure, class and row of the confusion matrix.

    The keys `skipped` (number of unreadable files), `probe_accuracy` (of a linear probe, on the
    validation images), `teacher` and `verdict` are written if there are any, and `other_folder`,
    true, if the images are not of the dataset of the training.
    """
    extras = {
        "skipped": skipped or None,
        "probe_accuracy": probe_accuracy,
        "other_folder": None if is_training_dataset else True,
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
    table = metrics.confusion_matrix.tolist()
    rows = ((name, *row) for name, row in zip(names, table, strict=True))
    write_csv(path, ("true/predicted", *names), rows)


def _metrics_json(metrics: Metrics, extras: Mapping[str, object]) -> str:
    """Return the JSON of `Metrics.to_dict` and of what there is of `extras`."""
    values = metrics.to_dict()
    key, table = values.popitem()  # the confusion matrix, or its pairs
    per_class = values.pop("per_class")
    values |= {name: value for name, value in extras.items() if value is not None}
    lines = [f'  "{name}": {json_text(value)},\n' for name, value in values.items()]
    classes = [f"    {json_text(name)}: {json_text(row)}" for name, row in per_class.items()]
    counts = [f"    [{', '.join(map(str, row))}]" for row in table]
    lines.append('  "per_class": {\n' + ",\n".join(classes) + "\n  },\n")
    lines.append(f'  "{key}": [\n' + ",\n".join(counts) + "\n  ]\n")
    return "{\n" + "".join(lines) + "}\n"
