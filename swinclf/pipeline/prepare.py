"""What trains and what on, in the state that it begins with: the baseline first, then the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from swinclf.data.folder import TRAIN, SkippedFile
from swinclf.device import seed_everything
from swinclf.models.build import reset_head
from swinclf.pipeline.distill import objective_of
from swinclf.pipeline.extract_features import refuse_skipped
from swinclf.pipeline.plan import Context, Plan
from swinclf.reporter import Reporter
from swinclf.training.batches import UNLABELLED, Batches, FeatureBatches, ImageBatches
from swinclf.training.checkpoint import Checkpoint, restore
from swinclf.training.defaults import Regime
from swinclf.training.feature_extraction import MIRROR, PLAIN
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.logistic_regression import Baseline, fit_baseline
from swinclf.training.loop import TrainState
from swinclf.training.setup import (
    begin_with,
    head_hardware,
    head_state,
    image_batches,
    learn_from,
    network_state,
    schedule_of,
    take_probe,
)


def prepare_baseline(plan: Plan, context: Context, features: FeatureBatches) -> Baseline:
    """The best head on what the network sees before it is trained, told with its accuracy.

    Raises:
        ModelError: If the network's head is not linear.
        Interrupted: If a signal asked to stop.
    """
    config, network, classes = plan.config, plan.start.network, len(plan.dataset.classes)
    reset_head(network, classes)
    linear_classifiers(network)  # a head that is not linear is better known now
    schedule = schedule_of(config, plan.dataset, context.hardware.device)
    baseline = fit_baseline(features, classes, schedule, seed=config.seed, stop=context.stop)
    right = f"{baseline.accuracy:.1%} of held-out images right, "
    context.report.note(
        f"linear probe (L-BFGS): {right if features.val_count else ''}in {baseline.seconds:.1f} s, "
        f"L2 {baseline.strength:g}" + _role(plan)
    )
    if baseline.images < features.train_count:
        context.report.note(
            f"  fitted on {baseline.images:,} of {features.train_count:,} training images, "
            "so that it does not take long"
        )
    return baseline


def _role(plan: Plan) -> str:
    """What becomes of the baseline, to be said after its accuracy."""
    if plan.start.regime is not Regime.HEAD:
        return "; the head starts from it"
    return "; it is the head: no epochs" if plan.config.epochs == 0 else ""


def prepare_training(
    plan: Plan,
    context: Context,
    features: FeatureBatches | None,
    baseline: Baseline | None,
    saved: Checkpoint | None,
) -> tuple[TrainState, Batches]:
    """What trains, in the state that it starts or goes on from, and what on.

    Args:
        plan: The training.
        context: Where it runs.
        features: What the network saw before, if that was kept.
        baseline: The best head on them.
        saved: What a resumed run goes on from.

    Raises:
        RunError: If that is the state of another training.
    """
    config, network = plan.config, plan.start.network
    reset_head(network, len(plan.dataset.classes))
    batches: Batches
    if plan.start.regime is Regime.HEAD:
        assert features is not None
        batches = features = _with_unlabelled(features, plan)
        state = head_state(network, features, config, head_hardware(context.hardware.device))
    else:
        batches = images = _images(plan, context)
        _tell_room(images, context.report)
        if baseline is not None:
            baseline.probe.install(network)
        state = network_state(
            network, config, context.hardware, trained_weights=plan.start.trained_weights
        )
    if baseline is not None and config.epochs == 0:
        take_probe(state, baseline, len(plan.dataset.rows(TRAIN)))
    elif baseline is not None:
        begin_with(state, baseline)
    if plan.teaching is not None:
        learn_from(state, objective_of(plan.teaching, plan, context.hardware.device), config)
    seed_everything(config.seed)
    if saved is not None:
        restore(saved, state)
    return state, batches


def _images(plan: Plan, context: Context) -> ImageBatches:
    """The image files as batches."""
    config, dataset = plan.config, plan.dataset
    tell = _bad_file_teller(context.report, strict=config.strict)
    images = replace(
        image_batches(dataset, plan.start.preprocess, config, context.hardware.device, tell),
        digests={dataset.root / path: digest for path, digest in plan.look.digests.items()},
    )
    more = plan.teaching.unlabelled if plan.teaching is not None else None
    if more is None:
        return images
    return replace(
        images,
        train_files=[*images.train_files, *more.files],
        train_targets=[*images.train_targets, *[UNLABELLED] * len(more.paths)],
        digests={**images.digests, **dict(zip(more.files, more.digests, strict=True))},
    )


def _with_unlabelled(batches: FeatureBatches, plan: Plan) -> FeatureBatches:
    """The features of the labelled training images and then of the unlabelled ones, if any."""
    teaching = plan.teaching
    if teaching is None or teaching.unlabelled is None or teaching.student is None:
        return batches
    digests, views = teaching.unlabelled.digests, (PLAIN, MIRROR)[: len(batches.train_features)]
    more = [teaching.student.gather([one + view for one in digests]) for view in views]
    device = batches.train_features.device
    targets = torch.full((len(digests),), UNLABELLED, device=device)
    return replace(
        batches,
        train_features=torch.cat([batches.train_features, torch.stack(more).to(device)], dim=1),
        train_targets=torch.cat([batches.train_targets, targets]),
    )


def _tell_room(images: ImageBatches, report: Reporter) -> None:
    """Says what memory decoded images may take."""
    if images.kept.limit_bytes:
        room = images.kept.limit_bytes / 1024**3
        report.note(f"decoded images are kept in memory for later epochs, {room:.1f} GiB at most")


def _bad_file_teller(report: Reporter, *, strict: bool) -> Callable[[Path, str], None]:
    """Says of each file once that it went bad; where it must not, stops."""
    told: set[Path] = set()

    def tell(path: Path, reason: str) -> None:
        if strict:
            refuse_skipped([SkippedFile(str(path), reason)])
        if path not in told:
            told.add(path)
            report.warn(f"{path} could be read before and cannot any more ({reason}): left out")

    return tell
