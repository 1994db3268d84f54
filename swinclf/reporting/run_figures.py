"""The figures of a run that its verdict is based on, collected from its report's contents."""

from __future__ import annotations

from swinclf.metrics import Metrics
from swinclf.reporting.report_data import LearningCurve, Provenance, ReportSections
from swinclf.reporting.verdict import RunFigures


def to_figures(metrics: Metrics, provenance: Provenance, sections: ReportSections) -> RunFigures:
    """Return the figures of a run or an evaluation."""
    training = sections.training
    epochs = [row for row in provenance.history if row["epoch"]]
    losses = [
        (row["train_loss"], row["val_loss"])
        for row in epochs
        if row.get("train_loss") is not None and row.get("val_loss") is not None
    ]
    # Without epochs the model itself is the linear probe.
    probe = training.probe_accuracy if training and epochs else None
    return RunFigures(
        accuracy=metrics.accuracy,
        interval=metrics.accuracy_ci95,
        images=metrics.images,
        majority=max(one.support for one in metrics.per_class.values()) / metrics.images,
        probe_accuracy=probe,
        is_selected=selects_epoch(provenance, metrics.split),
        train_counts=training.counts if training else None,
        per_class=metrics.per_class,
        train_losses=[train for train, _ in losses],
        val_losses=[val for _, val in losses],
        gain=_gain(sections.learning),
        labels=sections.labels,
        image_px=training.image_px if training else None,
        input_px=training.input_px if training else None,
    )


def selects_epoch(provenance: Provenance, split: str) -> bool:
    """Return whether the scored images also selected the epoch; a linear probe has none."""
    return split == "val" and any(row["epoch"] for row in provenance.history)


def _gain(curve: LearningCurve | None) -> tuple[float, float] | None:
    if curve is None or not curve.forecast:
        return None
    now, forecast = curve.points[-1].accuracy, curve.forecast[0]
    return forecast.accuracy - now, forecast.low - now
