"""What trains and what on, in the state that it begins with: the baseline first, then the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from swinclf.data.folder import Skipped
from swinclf.data.kept import room_for_pictures
from swinclf.models.build import reset_head
from swinclf.pipeline.look import refuse_skipped
from swinclf.pipeline.plan import Context, Plan
from swinclf.progress import Reporter
from swinclf.runtime import seed_everything
from swinclf.training.batches import Batches, FeatureBatches, ImageBatches
from swinclf.training.checkpoint import Checkpoint, restore
from swinclf.training.logistic import Baseline, fit_baseline
from swinclf.training.loop import TrainState
from swinclf.training.prefix_batches import PrefixBatches, keep_frozen_tokens
from swinclf.training.probe import linear_classifiers
from swinclf.training.recipe import Regime
from swinclf.training.regimes import (
    begin_with,
    head_hardware,
    head_state,
    image_batches,
    network_state,
    schedule_of,
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
    started = time.perf_counter()
    schedule = schedule_of(config, plan.dataset, context.hardware.device)
    baseline = fit_baseline(features, classes, schedule, seed=config.seed, stop=context.stop)
    took = time.perf_counter() - started
    right = f"{baseline.accuracy:.1%} of held-out images right, "
    context.report.note(
        f"linear probe (L-BFGS): {right if features.val_count else ''}in {took:.1f} s, "
        f"L2 {baseline.strength:g}"
        + ("" if plan.start.regime is Regime.HEAD else "; the head starts from it")
    )
    if baseline.images < features.train_count:
        context.report.note(
            f"  fitted on {baseline.images:,} of {features.train_count:,} training images, "
            "so that it does not take long"
        )
    return baseline


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
        batches = features
        state = head_state(network, features, config, head_hardware(context.hardware.device))
    else:
        batches = _images(plan, context)
        if baseline is not None:
            baseline.probe.install(network)
        state = network_state(
            network, config, context.hardware, trained_weights=plan.start.trained_weights
        )
    if baseline is not None:
        begin_with(state, baseline)
    seed_everything(config.seed)
    if saved is not None:
        restore(saved, state)
    if isinstance(batches, ImageBatches):
        images = batches
        batches = _through_frozen_stages(images, plan, context)
        if not (isinstance(batches, PrefixBatches) and batches.train_kept):
            _tell_room(images, context.report)
    return state, batches


def _through_frozen_stages(batches: ImageBatches, plan: Plan, context: Context) -> Batches:
    """The same batches, with what frozen stages make of them where that never changes."""
    stages, epochs = plan.config.freeze_stages, plan.config.epochs or 1
    if stages is None or epochs == 1:
        return batches
    if plan.config.compile:
        context.report.note(
            "the frozen stages run anew in every epoch: --compile makes one piece of all stages"
        )
        return batches
    return keep_frozen_tokens(
        batches,
        plan.start.network,
        stages,
        context.hardware,
        limit_bytes=room_for_pictures(),
        report=context.report,
        stop=context.stop,
    )


def _images(plan: Plan, context: Context) -> ImageBatches:
    """The image files as batches."""
    config, dataset = plan.config, plan.dataset
    tell = _bad_file_teller(context.report, strict=config.strict)
    return replace(
        image_batches(dataset, plan.start.preprocess, config, context.hardware.device, tell),
        digests={dataset.root / path: digest for path, digest in plan.look.digests.items()},
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
            refuse_skipped([Skipped(str(path), reason)])
        if path not in told:
            told.add(path)
            report.warn(f"{path} could be read before and cannot any more ({reason}): left out")

    return tell
