"""The plan of a training: everything that is resolved before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from swinclf.card import ModelCard
from swinclf.config import SETTINGS, OptimizerName, ResolvedConfig
from swinclf.data.dataset import describe_warnings
from swinclf.data.folder import (
    CROSS_VALIDATION,
    TEST,
    TRAIN,
    VAL,
    FolderIndex,
    ImageFile,
    dataset_digest,
)
from swinclf.data.relocate import content_sample
from swinclf.data.scanned_files import format_count
from swinclf.data.unlabelled import UnlabelledImages
from swinclf.device import Hardware, StopFlag, versions
from swinclf.metrics import UNTRAINED_NOTE
from swinclf.models.compute import is_convolutional
from swinclf.models.embedded import architecture_name
from swinclf.pipeline.starting_model import StartingModel, preprocess_line
from swinclf.processes import ALONE, Processes
from swinclf.reporter import Reporter
from swinclf.settings import Settings, Source, key_values, setting_text
from swinclf.training.defaults import Regime, TrainingFacts, choose_schedule
from swinclf.training.feature_extraction import ExtractedFeatures, FeatureTable
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.logistic_regression import fits_all
from swinclf.training.objective import DistillationTerms, OnlineFeatures

RISKY_LR = 5e-4  # above it, fine-tuning with AdamW is known to destroy a pretrained transformer
MAX_LR = 0.05  # of AdamW, for anything
LARGE_PARAMETERS, ENOUGH_IMAGES = 10_000_000, 20_000  # of training from random weights
OF_EPOCHS = (
    *("batch_size", "lrf", "warmup", "clip_norm", "patience", "weight_decay", "ema", "select"),
)
OF_NETWORK = (  # settings of the training of a network, without those that are refused for a head
    *("train_size", "augment", "min_crop", "rotate", "zoom", "layer_decay", "drop_path", "compile"),
)


@dataclass(frozen=True)
class Context:
    """Hardware, reporter and stop flag of a command, and the processes it runs in."""

    hardware: Hardware
    report: Reporter  # receives progress, defaults and their reasons
    stop: StopFlag  # set by a signal
    processes: Processes = ALONE  # which share the work


@dataclass(frozen=True)
class TeacherData:
    """The teacher's head and features, and what else distillation needs."""

    name: str
    digest: str  # of its weights
    head: nn.Linear  # its classification head, with the dataset's classes, on the CPU
    table: FeatureTable  # its features of each labelled image; if cached, of all views to train on
    online: OnlineFeatures | None  # computes its features of each batch; None if they are cached
    unlabelled: UnlabelledImages | None  # images to train on without a label; None without any
    student: FeatureTable | None  # features of these by a frozen student; None if it is not frozen
    terms: DistillationTerms  # weights of the loss terms


@dataclass(frozen=True)
class Plan:
    """A training with all settings resolved."""

    settings: Settings  # the source of each setting, and the reason of each default
    config: ResolvedConfig
    start: StartingModel  # the network before training
    dataset: FolderIndex  # the readable images, each in its split
    extracted: ExtractedFeatures  # content digests and features of the images
    teacher_data: TeacherData | None = None  # for distillation; None without a teacher

    @property
    def scored_split(self) -> str:
        """Return the split whose scores are the result of the training."""
        if self.config.folds:
            return CROSS_VALIDATION
        splits = (TEST, VAL) if self.config.test_split else (VAL,)
        return next((one for one in splits if self.dataset.rows(one)), TRAIN)

    def scored_images(self) -> list[ImageFile]:
        """Return the images of the scored split."""
        split = self.scored_split
        return self.dataset.of(TRAIN if split == CROSS_VALIDATION else split)

    def to_dict(self) -> dict[str, object]:
        """Return classes, images of each split and settings as JSON values."""
        counts = Counter(one.split for one in self.dataset.images)
        return {
            "classes": list(self.dataset.classes),
            "images": dict(counts),
            "skipped": len(self.dataset.skipped),
            "settings": self.settings.to_dict(),
        }

    def card(self, hardware: Hardware) -> ModelCard:
        """Return the model card to store with the weights."""
        config, rule = self.config, self.start.extraction.split
        return ModelCard(
            model=architecture_name(config.model),
            impl=config.impl,
            model_args=key_values(config.model_arg),
            classes=self.dataset.classes,
            preprocess=self.start.preprocess,
            precision=hardware.precision,
            split={
                **(replace(rule, val=0.0) if config.val else rule).to_dict(),
                "dataset": dataset_digest(self.dataset.root),
                "content": content_sample(self.dataset.images, self.extracted.digests),
            },
            versions=versions(),
        )


def resolve_plan(
    settings: Settings,
    start: StartingModel,
    dataset: FolderIndex,
    extracted: ExtractedFeatures,
    teacher_data: TeacherData | None,
) -> Plan:
    """Resolve the settings that depend on the number of images, and with them the plan."""
    unlabelled = teacher_data.unlabelled if teacher_data is not None else None
    facts = TrainingFacts(
        regime=start.regime,
        trained_weights=start.trained_weights,
        train_count=len(dataset.rows(TRAIN)) + (len(unlabelled.paths) if unlabelled else 0),
        class_counts=dataset.counts(TRAIN),
        img_size=start.preprocess.height,
        is_vit=hasattr(start.network, "pos_embed"),
        is_convolutional=is_convolutional(start.network),
        is_probe_exact=settings.config.teacher is None and _is_probe_exact(start, dataset),
        macs=_macs(settings, start),
    )
    settings = choose_schedule(_fewer_folds(settings, dataset, extracted), facts)
    return Plan(settings, settings.resolved(), start, dataset, extracted, teacher_data)


def _macs(settings: Settings, start: StartingModel) -> int:
    """Return the multiply-adds for an image, where `--compile auto` depends on them; else 0."""
    if start.regime is Regime.HEAD or not settings.config.device.startswith("cuda"):
        return 0
    from swinclf.models.complexity import count_macs  # imports much of torch

    return count_macs(start.network, (start.preprocess.height, start.preprocess.width))


def _fewer_folds(
    settings: Settings, dataset: FolderIndex, extracted: ExtractedFeatures
) -> Settings:
    """Return the settings with no more folds than distinct images, if these are known."""
    distinct = len({extracted.digests.get(image.path) for image in dataset.of(TRAIN)})
    folds = settings.config.folds or 0
    if not extracted.digests or folds <= distinct:
        return settings
    folds = distinct if distinct > 1 else 0
    reasons = {**settings.reasons, "folds": f"{distinct} distinct images"}
    return replace(settings, config=replace(settings.config, folds=folds), reasons=reasons)


def _is_probe_exact(start: StartingModel, dataset: FolderIndex) -> bool:
    """Return whether L-BFGS can fit a head on the features of all training images."""
    if not start.extracts_features:
        return False
    width = linear_classifiers(start.network)[0].in_features
    views, classes = 2 if start.extraction.mirror else 1, len(dataset.classes)
    return fits_all(len(dataset.rows(TRAIN)), views=views, width=width, classes=classes)


def report_plan(plan: Plan, context: Context, changes: Sequence[str]) -> None:
    """Report data, network and recipe in three lines; every setting with its reason as details.

    `changes` are the harmless ones since a resumed run began.
    """
    config, dataset = plan.config, plan.dataset
    report, hardware = context.report, context.hardware
    counts = {split: len(dataset.rows(split)) for split in (TRAIN, VAL, TEST)}
    scored = f"{counts[VAL]:,} validation images"
    if config.folds:
        scored = f"scored in {config.folds} folds"
    test = f", {counts[TEST]:,} test images" if counts[TEST] else ""
    report.note(
        f"data: {len(dataset.classes)} classes, {counts[TRAIN]:,} training images, {scored}{test}"
    )
    for note in dataset.notes:
        report.note(note)
    for warning in describe_warnings(dataset):
        report.warn(warning)
    if dataset.skipped:
        report.warn(
            f"{len(dataset.skipped)} files skipped, e.g. {dataset.skipped[0].path}: "
            f"{dataset.skipped[0].reason} (all in skipped.csv)"
        )
    report.note(_model_line(plan, hardware, context.processes.count))
    report.note(_recipe_line(plan))
    for change in changes:
        report.note(f"changed since this run began: {change}")
    report.detail(preprocess_line(plan.settings))
    report.detail("settings:")
    defaults = []
    for name in SETTINGS:
        text = f"{name.replace('_', '-')} {setting_text(getattr(config, name))}"
        reason, source = plan.settings.reasons.get(name), plan.settings.sources[name]
        if reason is None and source == Source.DEFAULT:
            defaults.append(text)
        else:
            report.detail(f"  {text} ({reason or f'by {source}'})")
    report.detail(f"defaults: {', '.join(defaults)}")
    _warn_of_settings(plan, report)
    report.record("plan", plan.to_dict())


def _model_line(plan: Plan, hardware: Hardware, processes: int) -> str:
    """Return network, size, device, precision and number of processes in one line."""
    config = plan.config
    size = f"{config.img_size} px"
    if config.train_size != config.img_size:
        size += f" ({config.train_size} px in training)"
    shared = f", {processes} processes" if processes > 1 else ""
    return f"model: {config.model}, {size}, on {hardware.device} in {hardware.precision}{shared}"


def _recipe_line(plan: Plan) -> str:
    """Return what trains and how, in one line."""
    config, regime = plan.config, plan.start.regime
    if config.epochs == 0:
        return "recipe: a linear probe on the frozen network (reasons: --verbose)"
    parts = {
        Regime.HEAD: "head only",
        Regime.PART: f"all above stage {config.freeze_stages}",
        Regime.FULL: "whole network",
    }
    stopping = f", patience {config.patience}" if config.patience else ""
    return (
        f"recipe: {parts[regime]}, {format_count(config.epochs, 'epoch')}{stopping}, "
        f"batch {config.batch_size}, lr {config.lr:g} (reasons: --verbose)"
    )


def _warn_of_settings(plan: Plan, report: Reporter) -> None:
    """Warn of settings that have no effect or are known to do harm."""
    config, start = plan.config, plan.start
    if config.epochs == 0 and (flags := _given_flags(plan, OF_EPOCHS)):
        report.warn(f"{flags}: no effect on a linear probe; --epochs N trains the head by AdamW")
    if start.regime is Regime.HEAD and (flags := _given_flags(plan, OF_NETWORK)):
        report.warn(
            f"{flags}: no effect where the head alone trains; "
            "--no-freeze-layers trains the whole network"
        )
    if start.regime is Regime.HEAD and config.optimizer is OptimizerName.MUON:
        report.warn("--optimizer muon: no effect, as the network does not train")
    tunes = start.trained_weights and start.regime is not Regime.HEAD
    risky = tunes and not is_convolutional(start.network)
    if risky and config.lr > RISKY_LR:
        report.warn(f"--lr {config.lr:g} is known to destroy pretrained weights; 1e-4 is usual")
    elif config.epochs and config.optimizer is OptimizerName.ADAMW and config.lr > MAX_LR:
        report.warn(f"--lr {config.lr:g} is too high for AdamW; 1e-3 is usual")
    _warn_of_network(plan, report)
    if start.regime is Regime.HEAD and not start.trained_weights:
        report.warn("only the head trains, on a backbone of random weights: expect low accuracy")
    if not start.trained_weights:
        report.note(UNTRAINED_NOTE)


def _warn_of_network(plan: Plan, report: Reporter) -> None:
    """Warn of pixels that the network ignores, and of more parameters than images can train."""
    config, start = plan.config, plan.start
    conv = getattr(getattr(start.network, "patch_embed", None), "proj", None)
    is_given = plan.settings.is_given("img_size")
    if is_given and isinstance(conv, nn.Conv2d) and not any(conv.padding):
        patch, stride = conv.kernel_size[0], conv.stride[0]
        if ignored := (config.img_size - patch) % stride:
            report.warn(
                f"--img-size {config.img_size} does not end with a patch of {patch} px: "
                f"{ignored} rows and columns of pixels are ignored"
            )
    parameters = sum(one.numel() for one in start.network.parameters())
    unlabelled = plan.teacher_data.unlabelled if plan.teacher_data else None
    images = len(plan.dataset.rows(TRAIN)) + (len(unlabelled.paths) if unlabelled else 0)
    is_scratch = not start.trained_weights and start.regime is not Regime.HEAD
    if (
        is_scratch
        and plan.settings.is_given("model")
        and parameters > LARGE_PARAMETERS
        and images < ENOUGH_IMAGES
    ):
        report.warn(
            f"{config.model} has {parameters / 1e6:.0f} million parameters, too many to train from "
            f"random weights on {images:,} images; --model embedded has trained ones"
        )


def _given_flags(plan: Plan, names: Sequence[str]) -> str:
    """Return those of the settings that the user gave, as flags; empty without any."""
    return ", ".join(
        "--" + name.replace("_", "-") for name in names if plan.settings.is_given(name)
    )
