"""The output of `train`: the result, the next steps, and the forecast of a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinclf.cli.tables import accuracy_with_interval
from swinclf.durations import duration_text
from swinclf.reporter import format_percent
from swinclf.terminal import wrapped

if TYPE_CHECKING:
    from swinclf.commands.train import Run
    from swinclf.pipeline.forecast import Forecast
    from swinclf.pipeline.plan import Plan

SUMMARY_WIDTH = 74  # columns of a text in a box 80 columns wide


def training_summary(run: Run) -> tuple[str, str]:
    """Return title and text of the result of a training."""
    from swinclf.metrics import SELECTION_NOTE, describe_split

    metrics = run.metrics
    lines = [
        f"accuracy {accuracy_with_interval(metrics)}",
        f"on {metrics.images:,} {describe_split(metrics.split)}",
        f"always answering the largest class: {format_percent(metrics.majority_accuracy)}",
    ]
    if run.epochs and run.probe_accuracy is not None and metrics.split == "val":
        lines.append(f"linear probe, without training epochs: {format_percent(run.probe_accuracy)}")
    lines.append(
        f"balanced accuracy {format_percent(metrics.balanced_accuracy)}, "
        f"macro F1 {format_percent(metrics.macro_f1)}"
    )
    if metrics.split == "val" and run.epochs:
        lines.append(SELECTION_NOTE)
    lines += [f"warning: {text}" for text in run.warnings]
    if run.skipped:
        lines.append(f"{len(run.skipped):,} files skipped: {run.folder.skipped}")
    title = "done, but read the warning" if run.warnings else "done"
    return title, "\n".join(wrapped(line, SUMMARY_WIDTH) for line in lines)


def forecast_text(plan: Plan, cost: Forecast) -> str:
    """Return the expected time, memory and disk space of a training."""
    config = plan.config
    epochs = f"{config.epochs} epochs" if config.epochs else "linear probe"
    most = "at most " if config.patience else ""
    lines = [
        f"time    {most}about {duration_text(cost.seconds)} on {config.device}:",
        f"        features {duration_text(cost.features_s)} (0 once cached), "
        f"{epochs} {duration_text(cost.epochs_s)}, evaluation {duration_text(cost.evaluation_s)}",
        f"disk    {cost.disk_bytes / 1e6:,.0f} MB in {config.out}",
    ]
    if cost.memory_bytes is not None:
        lines.append(f"memory  {cost.memory_bytes / 1e9:.1f} GB, and a cache of decoded images")
    return "\n".join(lines)


def next_steps(run: Run) -> str:
    """Return the paths of a finished training, and the commands to go on with."""
    held_out = run.metrics.split in ("val", "test")
    lines = [
        f"Run:     {run.path}",
        f"Report:  {run.path / 'report.html'}",
        "",
        "Next steps:",
        f"  swinclf predict IMAGE --run {run.path}",
        f"  swinclf eval {'' if held_out else 'OTHER '}--run {run.path}",
        f"  swinclf export --run {run.path} --format onnx",
    ]
    if run.metrics.split == "val" and run.epochs:
        from swinclf.metrics import UNBIASED_NOTE

        lines += [f"  {UNBIASED_NOTE}:", f"  swinclf eval OTHER --run {run.path}"]
    return "\n".join(lines)
