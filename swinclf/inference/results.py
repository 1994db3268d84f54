"""The results of a scoring in a folder: tables for programs, plots and a report for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from swinclf.data.loader import batched
from swinclf.data.thumbnails import thumbnails
from swinclf.files import remove_file, write_csv
from swinclf.inference.score import ScoringResult
from swinclf.preprocess import ValueRange
from swinclf.reporter import SILENT, Reporter, timed
from swinclf.reporting.charts import draw_confusion_matrix, draw_curves
from swinclf.reporting.metrics_files import write_confusion_csv, write_metrics_json
from swinclf.reporting.report import worst_mistakes, write_report
from swinclf.reporting.report_data import Neighbour, Provenance, ReportSections

MAX_EVIDENCE, MAX_EVIDENCE_S = 12, 20.0  # mistakes that are explained, and the time limit for it
EVIDENCE_BATCH = 4

PREDICTION_COLUMNS = ["path", "label", "predicted", "probability"]
SUSPECT_COLUMNS = ["path", "label", "suggested", "probability"]


@dataclass(frozen=True)
class Illustrations:
    """The sources of a report's pictures."""

    root: Path  # the folder that the images' paths are relative to
    workers: int
    ranges: tuple[ValueRange, ...] = ()  # value ranges of images with more than 8 bits
    # draws saliency maps: (path, predicted label) pairs -> a JPEG each, or None where there is none
    evidence: Callable[[Sequence[tuple[str, str]]], Sequence[bytes | None]] | None = None
    # finds the nearest training images of paths, for those with features
    neighbours: Callable[[Sequence[str]], Mapping[str, Sequence[Neighbour]]] | None = None
    report: Reporter = SILENT


def write_results(
    folder: Path,
    result: ScoringResult,
    provenance: Provenance,
    *,
    illustrations: Illustrations,
    sections: ReportSections,
    others: Future[None] | None = None,
) -> None:
    """Write predictions, confusion matrix, plots, report and, last, the metrics.

    Evidence and neighbours are added to `sections`. `others` is a write that runs at the same time;
    it is finished before the metrics are written, as metrics.json marks the folder as complete.

    Raises:
        RunError: If the folder cannot be written to.
    """
    write_csv(folder / "predictions.csv", PREDICTION_COLUMNS, result.rows)
    for name in ("skipped.csv", "suspects.csv"):  # of an earlier evaluation into the same folder
        remove_file(folder / name)
    skipped = [(one.path, one.reason) for one in result.skipped]
    if skipped:
        write_skipped(folder / "skipped.csv", skipped)
    write_confusion_csv(folder / "confusion_matrix.csv", result.metrics)
    if sections.suspects:
        write_csv(folder / "suspects.csv", SUSPECT_COLUMNS, map(astuple, sections.suspects))
    matrix = folder / "confusion_matrix.png"
    draw_confusion_matrix(result.metrics, matrix)
    if provenance.history:
        draw_curves(provenance.history, folder / "curves.png", saved_epoch=provenance.saved_epoch)
    verdict = write_report(
        folder / "report.html",
        provenance,
        metrics=result.metrics,
        rows=result.rows,
        matrix=matrix,
        skipped=[  # the report counts those of unknown classes
            (one.path, one.reason)
            for one in result.skipped
            if one.label not in sections.unknown_classes
        ],
        sections=_add_images(sections, result, illustrations),
        thumbnails=lambda files: thumbnails(
            illustrations.root,
            files,
            workers=illustrations.workers,
            ranges=illustrations.ranges,
        ),
    )
    if others is not None:
        others.result()
    write_metrics_json(
        folder / "metrics.json",
        result.metrics,
        skipped=len(skipped),
        probe_accuracy=sections.training.probe_accuracy if sections.training else None,
        teacher=sections.teacher,
        is_training_dataset=provenance.is_training_dataset,
        verdict=verdict if sections.training is not None else None,
    )


def _add_images(
    sections: ReportSections, result: ScoringResult, illustrations: Illustrations
) -> ReportSections:
    """Return the sections with evidence and neighbours of the worst mistakes."""
    mistakes = worst_mistakes(result.rows)
    if illustrations.evidence is not None:
        evidence: dict[str, bytes] = {}
        begun = time.monotonic()
        with timed(illustrations.report, "evidence"):
            for few in batched(mistakes[:MAX_EVIDENCE], EVIDENCE_BATCH):
                if time.monotonic() - begun > MAX_EVIDENCE_S:
                    break  # a large network on a small machine: only the first mistakes get theirs
                drawn = illustrations.evidence([(one.path, one.predicted) for one in few])
                evidence |= {one.path: jpeg for one, jpeg in zip(few, drawn, strict=True) if jpeg}
        sections = replace(sections, evidence=evidence)
    if illustrations.neighbours is not None:
        with timed(illustrations.report, "nearest training images"):
            neighbours = illustrations.neighbours([one.path for one in mistakes])
        sections = replace(sections, neighbours=neighbours)
    return sections


def write_skipped(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write skipped.csv."""
    write_csv(path, ["path", "reason"], rows)
