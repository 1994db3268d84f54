"""Preparation of the training loop: the baseline, the initial state and the batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from swinclf.data.folder import TRAIN, SkippedFile
from swinclf.device import seed_everything
from swinclf.models.build import reset_head
from swinclf.pipeline.distill import build_objective
from swinclf.pipeline.extract_features import refuse_skipped
from swinclf.pipeline.plan import Context, Plan
from swinclf.reporter import Reporter, format_percent
from swinclf.training.batches import UNLABELLED, Batches, FeatureBatches, ImageBatches
from swinclf.training.checkpoint import Checkpoint, restore
from swinclf.training.defaults import Regime
from swinclf.training.feature_extraction import MIRROR, PLAIN
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.logistic_regression import Baseline, fit_baseline
from swinclf.training.setup import (
    add_distillation,
    build_head_state,
    build_image_batches,
    build_network_state,
    build_schedule,
    head_hardware,
    start_from_baseline,
    use_baseline,
)
from swinclf.training.state import TrainState
from swinclf.training.weight_average import build_average


def prepare_baseline(plan: Plan, context: Context, features: FeatureBatches) -> Baseline:
    """Fit the linear probe on the features before training; report its accuracy.

    Raises:
        ModelError: If the network's head is not linear.
        Interrupted: If a signal asked to stop.
    """
    config, network, classes = plan.config, plan.start.network, len(plan.dataset.classes)
    reset_head(network, classes)
    linear_classifiers(network)  # fail early if the head is not linear
    schedule = build_schedule(config, plan.dataset, context.hardware.device)
    baseline = fit_baseline(features, classes, schedule, seed=config.seed, stop=context.stop)
    accuracy = (
        f"validation accuracy {format_percent(baseline.accuracy)}, " if features.val_count else ""
    )
    context.report.note(
        f"linear probe (L-BFGS): {accuracy}fitted in {baseline.seconds:.1f} s{_baseline_use(plan)}"
    )
    context.report.detail(f"  L2 {baseline.strength:g}")
    if baseline.images < features.train_count:
        context.report.note(
            f"  fitted on {baseline.images:,} of {features.train_count:,} training images "
            "to limit the time"
        )
    return baseline


def _baseline_use(plan: Plan) -> str:
    """Return the use of the baseline, to print after its accuracy."""
    if plan.start.regime is not Regime.HEAD:
        return "; used as the initial head"
    return "" if plan.config.epochs else "; used as the head"


def prepare_training(
    plan: Plan,
    context: Context,
    features: FeatureBatches | None,
    baseline: Baseline | None,
    saved: Checkpoint | None,
) -> tuple[TrainState, Batches]:
    """Build the initial or resumed training state and its batches.

    `features` are those of the network before training, `baseline` the linear probe on them,
    `saved` the checkpoint of a resumed run.

    Raises:
        RunError: If the checkpoint is of another training.
    """
    config, network = plan.config, plan.start.network
    reset_head(network, len(plan.dataset.classes))
    batches: Batches
    if plan.start.regime is Regime.HEAD:
        assert features is not None
        batches = features = _with_unlabelled(features, plan)
        state = build_head_state(network, features, config, head_hardware(context.hardware.device))
    else:
        batches = images = _build_image_batches(plan, context)
        _report_cache_limit(images, context.report)
        if baseline is not None:
            baseline.probe.install(network)
        state = build_network_state(
            network, config, context.hardware, trained_weights=plan.start.trained_weights
        )
    if baseline is not None and config.epochs == 0:
        use_baseline(state, baseline, len(plan.dataset.rows(TRAIN)))
    elif baseline is not None:
        start_from_baseline(state, baseline)
    if plan.teacher_data is not None:
        add_distillation(
            state, build_objective(plan.teacher_data, plan, context.hardware.device), config
        )
    if config.ema:
        state.average = build_average(state.model, config.ema)
    seed_everything(config.seed)
    if saved is not None:
        restore(saved, state)
    return state, batches


def _build_image_batches(plan: Plan, context: Context) -> ImageBatches:
    """Build batches of the image files, unlabelled ones included."""
    config, dataset = plan.config, plan.dataset
    on_bad_file = _bad_file_reporter(context.report, strict=config.strict)
    device = context.hardware.device
    images = replace(
        build_image_batches(dataset, plan.start.preprocess, config, device, on_bad_file),
        digests={dataset.root / path: digest for path, digest in plan.extracted.digests.items()},
        rank=context.processes.rank,
        processes=context.processes.count,
    )
    unlabelled = plan.teacher_data.unlabelled if plan.teacher_data is not None else None
    if unlabelled is None:
        return images
    return replace(
        images,
        train_files=[*images.train_files, *unlabelled.files],
        train_targets=[*images.train_targets, *[UNLABELLED] * len(unlabelled.paths)],
        digests={**images.digests, **dict(zip(unlabelled.files, unlabelled.digests, strict=True))},
    )


def _with_unlabelled(batches: FeatureBatches, plan: Plan) -> FeatureBatches:
    """Append the features of the unlabelled images, if any, to those of the training images."""
    teacher_data = plan.teacher_data
    if teacher_data is None or teacher_data.unlabelled is None or teacher_data.student is None:
        return batches
    digests, views = teacher_data.unlabelled.digests, (PLAIN, MIRROR)[: len(batches.train_features)]
    added = [teacher_data.student.gather([one + view for one in digests]) for view in views]
    device = batches.train_features.device
    targets = torch.full((len(digests),), UNLABELLED, device=device)
    return replace(
        batches,
        train_features=torch.cat([batches.train_features, torch.stack(added).to(device)], dim=1),
        train_targets=torch.cat([batches.train_targets, targets]),
    )


def _report_cache_limit(images: ImageBatches, report: Reporter) -> None:
    """Report the memory limit of the image cache."""
    if images.cache.limit_bytes:
        limit_gib = images.cache.limit_bytes / 1024**3
        report.detail(f"decoded images are cached in memory, at most {limit_gib:.1f} GiB")


def _bad_file_reporter(report: Reporter, *, strict: bool) -> Callable[[Path, str], None]:
    """Return a callback that warns once per file that has become unreadable; an error if strict."""
    reported: set[Path] = set()

    def on_bad_file(path: Path, reason: str) -> None:
        if strict:
            refuse_skipped([SkippedFile(str(path), reason)])
        if path not in reported:
            reported.add(path)
            report.warn(f"{path} has become unreadable ({reason}): skipped")

    return on_bad_file
