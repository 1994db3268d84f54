"""What a scoring leaves in a folder: numbers for programs, pictures and a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swinclf.evaluation.files import write_confusion_csv, write_metrics_json
from swinclf.evaluation.plots import draw_confusion_matrix, draw_curves
from swinclf.evaluation.report import write_report
from swinclf.files import write_csv
from swinclf.inference.score import Scored

MISTAKES_SHOWN = 50


class ReportedSetting(NamedTuple):
    """A setting as the report shows it."""

    value: object
    source: object
    reason: str | None


def write_results(
    folder: Path,
    scored: Scored,
    *,
    title: str,
    data: str,
    command: str,
    settings: Mapping[str, ReportedSetting],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Writes predictions, matrix, pictures and report, and last the metrics.

    Args:
        folder: Where to.
        scored: What to write.
        title: The report's heading.
        data: The folder that was scored.
        command: What to type for the same result.
        settings: For the report.
        history: A mapping an epoch; empty where nothing was trained.

    Raises:
        RunError: If the folder cannot be written to.
    """
    write_csv(
        folder / "predictions.csv", ["path", "label", "predicted", "probability"], scored.rows
    )
    if scored.skipped:
        write_skipped(folder / "skipped.csv", [(one.path, one.reason) for one in scored.skipped])
    write_confusion_csv(folder / "confusion_matrix.csv", scored.metrics)
    images = {"confusion_matrix": folder / "confusion_matrix.png"}
    draw_confusion_matrix(scored.metrics, images["confusion_matrix"])
    if history:
        images["curves"] = folder / "curves.png"
        draw_curves(history, images["curves"])
    mistakes = sorted(
        (row for row in scored.rows if row.label != row.predicted), key=lambda row: -row.probability
    )
    write_report(
        folder / "report.html",
        title=title,
        metrics=scored.metrics,
        settings=settings,
        history=history,
        images=images,
        skipped=[(one.path, one.reason) for one in scored.skipped],
        mistakes=mistakes[:MISTAKES_SHOWN],
        command=command,
        data=data,
    )
    write_metrics_json(folder / "metrics.json", scored.metrics)


def write_skipped(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Writes skipped.csv."""
    write_csv(path, ["path", "reason"], rows)
