"""What a scoring leaves in a folder: numbers for programs, pictures and a page for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from swinclf.data.loader import batched
from swinclf.data.thumbnails import thumbnails
from swinclf.files import write_csv
from swinclf.inference.score import Scored
from swinclf.preprocess import ValueRange
from swinclf.reporting.charts import draw_confusion_matrix, draw_curves
from swinclf.reporting.metrics_files import write_confusion_csv, write_metrics_json
from swinclf.reporting.report import worst_mistakes, write_report
from swinclf.reporting.report_data import Neighbour, Provenance, Sections

EVIDENCE_MOST, EVIDENCE_S = 12, 20.0  # mistakes that are explained, and the most time for it
EVIDENCE_TOGETHER = 4  # in one look

SUSPECT_COLUMNS = ["path", "label", "suggested", "probability"]


@dataclass(frozen=True)
class Illustrations:
    """What makes a report's pictures.

    Attributes:
        root: The folder that the images' paths are relative to.
        workers: Threads that read images.
        ranges: Which values of more than 8 bits are black and white.
        evidence: Paths and their wrong labels -> a JPEG each of what spoke for it, or None where
            it cannot be had.
        neighbours: Paths -> the nearest training images of each, as far as they are known.
    """

    root: Path
    workers: int
    ranges: tuple[ValueRange, ...] = ()
    evidence: Callable[[Sequence[tuple[str, str]]], Sequence[bytes | None]] | None = None
    neighbours: Callable[[Sequence[str]], Mapping[str, Sequence[Neighbour]]] | None = None


def write_results(
    folder: Path,
    scored: Scored,
    provenance: Provenance,
    *,
    illustrations: Illustrations,
    sections: Sections,
    others: Future[None] | None = None,
) -> None:
    """Writes predictions, matrix, pictures and report, and last the metrics.

    Args:
        folder: Where to.
        scored: What to write.
        provenance: Where it comes from.
        illustrations: Makes the report's pictures.
        sections: What else the report shows; evidence and neighbours are added here.
        others: What is written elsewhere at the same time: waited for before the metrics, whose
            being there says that all of it is.

    Raises:
        RunError: If the folder cannot be written to.
    """
    write_csv(
        folder / "predictions.csv", ["path", "label", "predicted", "probability"], scored.rows
    )
    if scored.skipped:
        write_skipped(folder / "skipped.csv", [(one.path, one.reason) for one in scored.skipped])
    write_confusion_csv(folder / "confusion_matrix.csv", scored.metrics)
    if sections.suspects:
        write_csv(folder / "suspects.csv", SUSPECT_COLUMNS, map(astuple, sections.suspects))
    matrix = folder / "confusion_matrix.png"
    draw_confusion_matrix(scored.metrics, matrix)
    if provenance.history:
        draw_curves(provenance.history, folder / "curves.png")
    write_report(
        folder / "report.html",
        provenance,
        metrics=scored.metrics,
        answers=scored.rows,
        matrix=matrix,
        skipped=[(one.path, one.reason) for one in scored.skipped],
        sections=_illustrated(sections, scored, illustrations),
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
        scored.metrics,
        skipped=len(scored.skipped),
        teacher=sections.teacher,
    )


def _illustrated(sections: Sections, scored: Scored, illustrations: Illustrations) -> Sections:
    """Adds what can be shown beside the worst mistakes."""
    mistakes = worst_mistakes(scored.rows)
    if illustrations.evidence is not None:
        evidence: dict[str, bytes] = {}
        begun = time.monotonic()
        for few in batched(mistakes[:EVIDENCE_MOST], EVIDENCE_TOGETHER):
            if time.monotonic() - begun > EVIDENCE_S:
                break  # a large network on a small machine: the worst mistakes have theirs
            drawn = illustrations.evidence([(one.path, one.predicted) for one in few])
            evidence |= {one.path: jpeg for one, jpeg in zip(few, drawn, strict=True) if jpeg}
        sections = replace(sections, evidence=evidence)
    if illustrations.neighbours is not None:
        neighbours = illustrations.neighbours([one.path for one in mistakes])
        sections = replace(sections, neighbours=neighbours)
    return sections


def write_skipped(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Writes skipped.csv."""
    write_csv(path, ["path", "reason"], rows)
