"""The report of an evaluation: one self-contained HTML file with a dark mode and a print style.

Knows metrics, texts and encoded images; knows nothing about networks or datasets. The layout is in
report.html.jinja and report.css, the behaviour in report.js; this module selects the contents,
limits their size and escapes names.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swinclf.files import write_text
from swinclf.metrics import (
    PROBE_NOTE,
    UNTRAINED_NOTE,
    ClassMetrics,
    Metrics,
    describe_split,
)
from swinclf.reporting import svg_charts
from swinclf.reporting.charts import short_count
from swinclf.reporting.confusion import (
    CellImages,
    build_grid,
    collect_cell_images,
)
from swinclf.reporting.display_names import distinct_labels, wrap_label
from swinclf.reporting.html import Thumbnails, data_uri, embed, page_template
from swinclf.reporting.report_data import (
    EXAMPLES,
    PredictionRow,
    Provenance,
    ReportSections,
)
from swinclf.reporting.verdict import RunFigures, Verdict, find_weak_sections, judge

CLASS_ROWS, EPOCH_ROWS, SKIPPED_ROWS, CONFUSED_ROWS = 1000, 500, 200, 10
MISTAKES, SUSPECTS = 24, 24  # shown with thumbnails
MAX_GALLERY = 300  # images
MAX_ROOMY = 12  # classes up to which the matrix has large cells
MAX_LINE = 40  # columns of a line of a class name in the matrix; a name has two at most
MIN_DIAGRAM_IMAGES = 10  # fewer make no meaningful confidence diagram
CONSTANTS = {
    "box": svg_charts,
    "short_count": short_count,
    "examples": EXAMPLES,
}


def worst_mistakes(rows: Iterable[PredictionRow]) -> list[PredictionRow]:
    """Return the mistakes that a report shows with thumbnails, most confident first."""
    wrong = (one for one in rows if not one.is_right)
    return heapq.nlargest(MISTAKES, wrong, key=lambda one: one.probability)


def write_report(
    path: Path,
    provenance: Provenance,
    *,
    metrics: Metrics,
    rows: Sequence[PredictionRow],
    matrix: Path | None,
    skipped: Sequence[tuple[str, str]],
    sections: ReportSections,
    thumbnails: Thumbnails,
) -> Verdict:
    """Write the report as one HTML file without external resources; return its verdict.

    Long lists are truncated, with the number of missing rows and the file that has them. Thumbnails
    are embedded in order of importance, up to `html.MAX_CHARS`.

    `rows` are all predictions that `metrics` is computed from, `skipped` (path, reason) of the
    files that could not be read. `matrix` is a PNG file of the whole confusion matrix, embedded if
    it is too large for a grid.
    """
    mistakes = worst_mistakes(rows)
    figures = to_figures(metrics, provenance, sections)
    verdict, gallery = judge(figures), choose_gallery(rows)
    scores, confusion = _scores(metrics, rows, figures), _confusion(metrics, rows, matrix)
    split = describe_split(metrics.split, is_training_dataset=provenance.is_training_dataset)
    unseen = metrics.images - scores["right"] - len(mistakes)
    uses = _uses(mistakes, sections, confusion["pairs"]) + [one.path for one in gallery.rows]
    page = page_template("reporting", "report.html.jinja").render(
        **CONSTANTS,
        **scores,
        **confusion,
        **_training(provenance.history),
        provenance=provenance,
        split=split,
        untrained=UNTRAINED_NOTE if sections.is_untrained else None,
        verdict=verdict,
        gallery=gallery,
        learning=svg_charts.learning(sections.learning) if sections.learning else None,
        skipped=_first(skipped, SKIPPED_ROWS),
        mistakes={"rows": mistakes, "more": unseen},
        suspects=_first(sections.suspects, SUSPECTS),
        extra=sections,
        thumbnails=embed(uses, thumbnails),
        evidence={file: data_uri(jpeg, "jpeg") for file, jpeg in sections.evidence.items()},
    )
    write_text(path, page)
    return verdict


def _first(rows: Sequence[Any], limit: int) -> dict[str, Any]:
    """Return the first rows of a list, and the number of the others."""
    return {"rows": rows[:limit], "more": len(rows[limit:])}


def _scores(metrics: Metrics, rows: Sequence[PredictionRow], figures: RunFigures) -> dict[str, Any]:
    """The scores, overall and of each class, and the sections that they cannot support."""
    confidence = _confidence(rows)
    return {
        "metrics": metrics,
        "right": round(metrics.accuracy * metrics.images),
        "with_images": sum(one.support > 0 for one in metrics.per_class.values()),
        "class_rows": _first(_class_rows(metrics), CLASS_ROWS),
        "confidence": confidence,
        "weak": find_weak_sections(figures, metrics.ece_ideal if confidence else None),
    }


def _confusion(
    metrics: Metrics, rows: Sequence[PredictionRow], matrix: Path | None
) -> dict[str, Any]:
    """The confusion matrix as a grid or a picture, and the images behind its cells."""
    grid, confused = build_grid(metrics), metrics.frequent_mistakes[:CONFUSED_ROWS]
    pairs = collect_cell_images(metrics, grid, [pair[:2] for pair in confused], rows)
    is_fine = len(grid.classes) > MAX_ROOMY
    names = {index: metrics.classes[index] for index in grid.classes}
    return {
        "grid": grid,
        "is_fine": is_fine,
        "labels": {
            index: wrap_label(label, MAX_LINE)
            for index, label in distinct_labels(names, 2 * MAX_LINE).items()
        },
        "confused": confused,
        "pairs": pairs,
        "linked": {(pair.true, pair.predicted) for pair in pairs},
        "matrix": data_uri(matrix.read_bytes(), "png") if matrix and not grid.is_whole else None,
    }


def _training(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    epochs = [row for row in history if row["epoch"]]  # none of a linear probe
    return {
        "curves": svg_charts.curves(epochs) if epochs else [],
        "probe": PROBE_NOTE if history and not epochs else None,
        "epochs": _first(history, EPOCH_ROWS),
    }


def _uses(
    mistakes: Sequence[PredictionRow], extra: ReportSections, pairs: Sequence[CellImages]
) -> list[str]:
    """Return the images of the page in order of importance, once for each use."""
    uses = [one.path for one in mistakes]
    near = (near for one in mistakes for near in extra.neighbours.get(one.path, ()))
    uses += [one.file for one in near if one.file is not None]
    uses += [one.path for one in extra.suspects[:SUSPECTS]]
    uses += [file for finding in extra.audit for file in finding.examples[:EXAMPLES]]
    # The first image of every cell before the second of any.
    longest = max((len(pair.rows) for pair in pairs), default=0)
    for index in range(longest):
        uses += [pair.rows[index].path for pair in pairs if index < len(pair.rows)]
    return uses


def _confidence(rows: Sequence[PredictionRow]) -> dict[str, Any] | None:
    """Return the diagrams and tables of confidence; None if there are too few predictions."""
    if len(rows) < MIN_DIAGRAM_IMAGES:
        return None
    confidence = np.array([one.probability for one in rows])
    is_right = np.array([one.is_right for one in rows])
    bins = svg_charts.reliability_bins(confidence, is_right)
    curve = svg_charts.coverage_curve(confidence, is_right)
    return {
        "diagrams": [svg_charts.reliability(bins), svg_charts.coverage(curve, len(rows))],
        "bins": bins,
        "coverage": svg_charts.coverage_rows(curve),
    }


def _class_rows(metrics: Metrics) -> list[tuple[int, str, ClassMetrics]]:
    """Return index, name and scores of the classes, lowest F1 first, those without images last."""
    rows = [(index, name, one) for index, (name, one) in enumerate(metrics.per_class.items())]
    return sorted(rows, key=lambda row: (not row[2].support, row[2].f1))


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a gallery."""

    # mistakes, most confident first, then correct predictions, least confident first
    rows: Sequence[PredictionRow]
    labels: Sequence[str]  # their true classes, sorted
    images: int  # number of images that they are chosen from


def choose_gallery(rows: Sequence[PredictionRow], *, limit: int = MAX_GALLERY) -> Gallery:
    """Return all mistakes, then a random sample of the other images, the same in every report.

    Of more mistakes than the limit a random sample is taken.
    """
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    shuffled = [rows[index] for index in order]
    chosen = sorted(shuffled, key=lambda row: row.is_right)[:limit]  # stable: a random sample
    chosen.sort(key=lambda row: (row.is_right, row.probability * (1 if row.is_right else -1)))
    return Gallery(chosen, sorted({row.label for row in chosen}), len(rows))


def to_figures(metrics: Metrics, provenance: Provenance, sections: ReportSections) -> RunFigures:
    """Return the figures of a run or an evaluation."""
    training = sections.training
    epochs = [row for row in provenance.history if row["epoch"]]
    losses = [
        (row["train_loss"], row["val_loss"])
        for row in epochs
        if row.get("train_loss") is not None and row.get("val_loss") is not None
    ]
    # Of another folder, the split says nothing of the training.
    role = metrics.split if provenance.is_training_dataset else None
    # The probe is scored on the validation images; without epochs it is the model itself.
    has_probe = role == "val" and bool(epochs)
    probe = training.probe_accuracy if training and has_probe else None
    return RunFigures(
        accuracy=metrics.accuracy,
        interval=metrics.accuracy_ci95,
        images=metrics.images,
        majority=metrics.majority_accuracy,
        probe_accuracy=probe,
        # The scored images also selected the epoch; a linear probe has none.
        is_selected=role == "val" and provenance.epochs > 0,
        is_trained_on=role == "train",
        train_counts=training.counts if training else None,
        per_class=metrics.per_class,
        train_losses=[train for train, _ in losses],
        val_losses=[val for _, val in losses],
        gain=sections.learning.gain if sections.learning else None,
        curve_images=sections.learning.held_out if sections.learning else None,
        labels=sections.labels,
        image_px=training.image_px if training else None,
        input_px=training.input_px if training else None,
    )
