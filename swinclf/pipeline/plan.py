"""What the steps of a training hand on: where it runs, and all that is settled before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from swinclf.card import ModelCard
from swinclf.config import ResolvedConfig
from swinclf.data.dataset import Dataset
from swinclf.data.dataset_layout import list_some
from swinclf.data.folder import TEST, TRAIN, VAL, dataset_digest
from swinclf.data.relocate import content_sample
from swinclf.data.unlabelled import UnlabelledImages
from swinclf.device import Hardware, StopFlag, versions
from swinclf.metrics import UNTRAINED_NOTE
from swinclf.models.compute import is_convolutional
from swinclf.models.embedded import architecture_name
from swinclf.pipeline.preprocessing import NAMES as PREPROCESS_NAMES
from swinclf.pipeline.preprocessing import preprocess_line
from swinclf.pipeline.start import Start
from swinclf.reporter import Reporter
from swinclf.settings import Settings, key_values
from swinclf.training.defaults import Facts, Regime, choose_schedule
from swinclf.training.distillation import DistillationTerms
from swinclf.training.feature_extraction import FeatureTable, Look
from swinclf.training.logistic_regression import fits_all
from swinclf.training.teacher_features import CompactTable, OnlineFeatures

RISKY_LR = 5e-4  # above it, fine-tuning with AdamW is known to destroy a pretrained transformer
OF_EPOCHS = ("batch_size", "lrf", "warmup", "clip_norm", "patience", "weight_decay")


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
class Teaching:
    """What a teacher knows of the images.

    Attributes:
        name: The teacher.
        digest: Of its weights.
        head: Its classification head, with the dataset's classes, on the CPU.
        table: Its features: of each labelled image; where they are cached, of all views in which
            images are trained on.
        online: Computes its features of each batch; None where they are cached.
        unlabelled: Images to train on without a label; None for none.
        student: What a frozen student sees in these; None where it is not frozen.
        terms: How much each part of the loss counts.
    """

    name: str
    digest: str
    head: nn.Linear
    table: CompactTable
    online: OnlineFeatures | None
    unlabelled: UnlabelledImages | None
    student: FeatureTable | None
    terms: DistillationTerms


@dataclass(frozen=True)
class Plan:
    """A training of which all is settled.

    Attributes:
        settings: Where the value of each setting came from, and why it is what it is.
        config: The values, each given or chosen.
        start: The network.
        dataset: The images that can be read, each in its split.
        look: What became of every file, and what the network saw in it.
        teaching: What there is to learn of a teacher; None without one.
    """

    settings: Settings
    config: ResolvedConfig
    start: Start
    dataset: Dataset
    look: Look
    teaching: Teaching | None = None

    def card(self, hardware: Hardware) -> ModelCard:
        """What the weights are stored with."""
        config = self.config
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
                "content": content_sample(self.dataset.images, self.look.digests),
            },
            versions=versions(),
        )


def settle_plan(
    settings: Settings, start: Start, dataset: Dataset, look: Look, teaching: Teaching | None
) -> Plan:
    """Settles what depends on how many images there are; then all is."""
    more = teaching.unlabelled if teaching is not None else None
    facts = Facts(
        trained_weights=start.trained_weights,
        train_count=len(dataset.rows(TRAIN)) + (len(more.paths) if more is not None else 0),
        class_counts=dataset.counts(TRAIN),
        img_size=start.preprocess.height,
        is_vit=hasattr(start.network, "pos_embed"),
        is_convolutional=is_convolutional(start.network),
        is_probe_exact=teaching is None and _is_probe_exact(start.extraction.mirror, dataset, look),
    )
    settings = choose_schedule(settings, start.regime, facts)
    return Plan(settings, settings.resolved(), start, dataset, look, teaching)


def _is_probe_exact(mirror: bool, dataset: Dataset, look: Look) -> bool:
    """Whether L-BFGS can fit a head on the features of all training images."""
    if look.features is None:
        return False
    width = look.features.gather([]).shape[1]
    views, classes = 2 if mirror else 1, len(dataset.classes)
    return fits_all(len(dataset.rows(TRAIN)), views=views, width=width, classes=classes)


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
        report.note(f"folders without an image are no classes: {list_some(dataset.empty)}")
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
    unused = [name for name in OF_EPOCHS if plan.settings.is_given(name)]
    if config.epochs == 0 and unused:
        flags = ", ".join("--" + name.replace("_", "-") for name in unused)
        report.warn(
            f"{flags}: without effect on a linear probe; --epochs N trains the head by AdamW"
        )
    tunes = start.trained_weights and start.regime is not Regime.HEAD
    risky = tunes and not is_convolutional(start.network)
    if risky and config.lr > RISKY_LR:
        report.warn(f"--lr {config.lr:g} is known to destroy trained weights; 1e-4 is a usual rate")
    if start.regime is Regime.HEAD and not start.trained_weights:
        report.warn("only the head trains, on a network of random weights: expect little of it")
    if not start.trained_weights:
        report.note(UNTRAINED_NOTE)
