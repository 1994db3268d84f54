"""What the steps of a training hand on: where it runs, and all that is settled before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swinclf.card import ModelCard
from swinclf.config import Settings, TrainConfig, key_values
from swinclf.data.dataset import Dataset
from swinclf.data.folder import TEST, TRAIN, VAL, dataset_digest
from swinclf.data.layout import some
from swinclf.models.compute import is_convolutional
from swinclf.models.embedded import architecture_name
from swinclf.pipeline.preprocessing import NAMES as PREPROCESS_NAMES
from swinclf.pipeline.preprocessing import preprocess_line
from swinclf.pipeline.start import Start
from swinclf.progress import Reporter
from swinclf.runtime import Hardware, StopFlag, versions
from swinclf.training.features import Look
from swinclf.training.recipe import Facts, Regime, choose_schedule

RISKY_LR = 5e-4  # above it, fine-tuning with AdamW is known to destroy a pretrained transformer


@dataclass(frozen=True)
class Context:
    """Where a training runs, and whom it talks and listens to.

    Attributes:
        hardware: Device and precision.
        report: Told of progress, choices and their reasons.
        stop: Set by a signal.
    """

    hardware: Hardware
    report: Reporter
    stop: StopFlag


@dataclass(frozen=True)
class Plan:
    """A training of which all is settled.

    Attributes:
        settings: Every one, given or chosen.
        start: The network.
        dataset: The images that can be read, each in its split.
        look: What became of every file, and what the network saw in it.
    """

    settings: Settings
    start: Start
    dataset: Dataset
    look: Look

    @property
    def config(self) -> TrainConfig:
        """The settings' values."""
        return self.settings.config

    def card(self, hardware: Hardware) -> ModelCard:
        """What the weights are stored with."""
        config = self.config
        assert config.impl is not None
        return ModelCard(
            model=architecture_name(config.model),
            impl=config.impl,
            model_args=key_values(config.model_arg),
            classes=self.dataset.classes,
            preprocess=self.start.preprocess,
            precision=hardware.precision,
            split={
                "seed": config.seed,
                "val_split": config.val_split,
                "dataset": dataset_digest(self.dataset.root),
            },
            versions=versions(),
        )


def settle_plan(settings: Settings, start: Start, dataset: Dataset, look: Look) -> Plan:
    """Settles what depends on how many images there are; then all is."""
    facts = Facts(
        trained_weights=start.trained_weights,
        train_count=len(dataset.rows(TRAIN)),
        class_counts=dataset.counts(TRAIN),
        is_vit=hasattr(start.network, "pos_embed"),
        is_convolutional=is_convolutional(start.network),
    )
    return Plan(choose_schedule(settings, start.regime, facts), start, dataset, look)


def tell_plan(plan: Plan, context: Context, changes: Sequence[str]) -> None:
    """Says what is about to happen: the data, the network, and every choice with its reason.

    Args:
        plan: What.
        context: Where, and to whom.
        changes: What is not as it was when a resumed run began, and may.
    """
    config, start, dataset = plan.config, plan.start, plan.dataset
    report, hardware = context.report, context.hardware
    counts = {split: len(dataset.rows(split)) for split in (TRAIN, VAL, TEST)}
    held = f"{counts[VAL]:,} to check with" + (
        f", {counts[TEST]:,} for a test" if counts[TEST] else ""
    )
    report.note(f"{len(dataset.classes)} classes, {counts[TRAIN]:,} images to train on, {held}")
    for note in dataset.notes.notes():
        report.note(note)
    if dataset.empty:
        report.note(f"folders without an image are no classes: {some(dataset.empty)}")
    for warning in dataset.warnings():
        report.warn(warning)
    if dataset.skipped:
        report.warn(
            f"{len(dataset.skipped)} files skipped, e.g. {dataset.skipped[0].path}: "
            f"{dataset.skipped[0].reason} (all in skipped.csv)"
        )
    report.note(f"{config.model} on {hardware.device} in {hardware.precision} ({hardware.reason})")
    for change in changes:
        report.note(f"since this run began: {change}")
    report.note(preprocess_line(plan.settings))
    report.note("chosen, as not given:")
    for name, reason in plan.settings.reasons.items():
        if name not in ("device", "precision", *PREPROCESS_NAMES):
            report.note(f"  {name.replace('_', '-')} {getattr(config, name)} ({reason})")
    tunes = start.trained_weights and start.regime is not Regime.HEAD
    risky = tunes and not is_convolutional(start.network)
    if risky and config.lr is not None and config.lr > RISKY_LR:
        report.warn(f"--lr {config.lr:g} is known to destroy trained weights; 1e-4 is a usual rate")
    if start.regime is Regime.HEAD and not start.trained_weights:
        report.warn("only the head trains, on a network of random weights: expect little of it")
