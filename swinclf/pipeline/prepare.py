"""Preparation of the training loop: the baseline, the initial state, the batches, the schedule."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from swinclf.config import Compile
from swinclf.data.augmentation import Augmentation
from swinclf.data.folder import TRAIN, VAL, SkippedFile
from swinclf.data.loader import ImageCache, image_cache_bytes
from swinclf.device import Hardware, Precision
from swinclf.models.build import reset_head
from swinclf.models.compute import is_convolutional
from swinclf.models.freeze import freeze_stages, layer_numbers
from swinclf.out_of_memory import translate_out_of_memory
from swinclf.pipeline.distill import build_objective
from swinclf.pipeline.extract_features import refuse_skipped
from swinclf.pipeline.plan import Context, Plan
from swinclf.reporter import EpochRow, Reporter, format_percent
from swinclf.training.batches import UNLABELLED, Batches, FeatureBatches, ImageBatches
from swinclf.training.checkpoint import Checkpoint, restore
from swinclf.training.compilation import compile_network
from swinclf.training.defaults import Regime, class_weights, default_micro_batch
from swinclf.training.device_images import device_image_bytes
from swinclf.training.feature_extraction import MIRROR, PLAIN
from swinclf.training.linear_probe import Probe, linear_classifiers
from swinclf.training.logistic_regression import Baseline, fit_baseline
from swinclf.training.mixing import ImageBatchAugmentation
from swinclf.training.optim import build_optimizer
from swinclf.training.schedule import Schedule
from swinclf.training.state import (
    BestEpoch,
    TrainState,
    WeightAverage,
    build_state,
    copy_weights,
)


def build_feature_batches(plan: Plan, device: str) -> FeatureBatches | None:
    """Build batches of cached features, to train a head on `device`; None without features.

    Raises:
        DeviceError: If memory runs out.
    """
    dataset, extracted, table = plan.dataset, plan.extracted, plan.extracted.features
    if table is None:
        return None
    train = [extracted.digests[image.path] for image in dataset.of(TRAIN)]
    views = (PLAIN, MIRROR) if plan.config.mirror else (PLAIN,)
    features = table.gather([digest + view for view in views for digest in train])
    with translate_out_of_memory(None):
        return FeatureBatches(
            train_features=features.view(len(views), len(train), -1).to(device),
            train_targets=torch.tensor(dataset.targets(TRAIN)).to(device),
            val_features=extracted.plain_features(dataset.of(VAL)).to(device),
            val_targets=torch.tensor(dataset.targets(VAL), dtype=torch.int64).to(device),
            batch_size=plan.config.batch_size,
            seed=plan.config.seed,
        )


def build_schedule(plan: Plan, device: str) -> Schedule:
    """Build the schedule from the settings of a plan."""
    config, dataset, counts = plan.config, plan.dataset, plan.dataset.counts(TRAIN)
    weights = class_weights(config.class_weights, [counts[name] for name in dataset.classes])
    return Schedule(
        epochs=config.epochs,
        lrf=config.lrf,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        label_smoothing=config.label_smoothing,
        class_weights=torch.tensor(weights, device=device) if weights else None,
        patience=config.patience,
        select=config.select,
    )


def prepare_baseline(plan: Plan, context: Context, features: FeatureBatches) -> Baseline:
    """Fit the linear probe on the features before training; report its accuracy.

    Raises:
        ModelError: If the network's head is not linear.
        DeviceError: If memory runs out.
    """
    config, network, classes = plan.config, plan.start.network, len(plan.dataset.classes)
    reset_head(network, classes)
    linear_classifiers(network)  # fail early if the head is not linear
    schedule = build_schedule(plan, context.hardware.device)
    with translate_out_of_memory(None):
        baseline = fit_baseline(features, classes, schedule, seed=config.seed)
    accuracy = (
        f"validation accuracy {format_percent(baseline.accuracy)}, " if features.val_count else ""
    )
    use = "" if config.epochs else "; used as the head"
    if plan.start.regime is not Regime.HEAD:
        use = "; used as the initial head"
    context.report.note(f"linear probe (L-BFGS): {accuracy}fitted in {baseline.seconds:.1f} s{use}")
    context.report.detail(f"  L2 {baseline.strength:g}")
    if baseline.images < features.train_count:
        context.report.note(
            f"  fitted on {baseline.images:,} of {features.train_count:,} training images "
            "to limit the time"
        )
    return baseline


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
        state = _build_head_state(plan, features, context.hardware.device)
    else:
        batches = build_image_batches(plan, context)
        if baseline is not None:
            baseline.probe.install(network)
        state = _build_network_state(plan, context.hardware)
    if baseline is not None and config.epochs == 0:
        _use_baseline(state, baseline, len(plan.dataset.rows(TRAIN)))
    elif baseline is not None and not math.isnan(baseline.accuracy):
        _start_from_baseline(state, baseline, batches.val_count)
    if plan.teacher_data is not None:
        state.objective = build_objective(plan.teacher_data, plan, context.hardware.device)
        if parameters := list(state.objective.named_parameters()):
            own = build_optimizer(parameters, lr=config.lr, weight_decay=config.weight_decay)
            for group in own.param_groups:  # they train at the peak rate
                state.optimizer.add_param_group(group)
    if config.ema:
        state.average = WeightAverage(state.model, config.ema)
    torch.manual_seed(config.seed)
    if saved is not None:
        restore(saved, state)
    return state, batches


def head_hardware(device: str) -> Hardware:
    """Return the hardware of a head, which trains in float32: it is too small to gain from less."""
    return Hardware(device, Precision.FP32, "a linear head")


def _with_unlabelled(batches: FeatureBatches, plan: Plan) -> FeatureBatches:
    """Append the features of the unlabelled images, if any, to those of the training images."""
    teacher_data = plan.teacher_data
    if teacher_data is None or teacher_data.unlabelled is None or teacher_data.student is None:
        return batches
    digests, views = teacher_data.unlabelled.digests, (PLAIN, MIRROR)[: len(batches.train_features)]
    added = teacher_data.student.gather([one + view for view in views for one in digests])
    device = batches.train_features.device
    with translate_out_of_memory(None):
        added = added.view(len(views), len(digests), -1).to(device)
        targets = torch.full((len(digests),), UNLABELLED, device=device)
        return replace(
            batches,
            train_features=torch.cat([batches.train_features, added], dim=1),
            train_targets=torch.cat([batches.train_targets, targets]),
        )


def build_image_batches(plan: Plan, context: Context) -> ImageBatches:
    """Build batches of the image files, augmented as configured; with unlabelled ones, if any."""
    config, dataset, device = plan.config, plan.dataset, context.hardware.device
    files, targets = dataset.paths(TRAIN), dataset.targets(TRAIN)
    digests = {dataset.root / path: digest for path, digest in plan.extracted.digests.items()}
    if plan.teacher_data is not None and (unlabelled := plan.teacher_data.unlabelled) is not None:
        files = [*files, *unlabelled.files]
        targets = [*targets, *[UNLABELLED] * len(unlabelled.files)]
        digests |= dict(zip(unlabelled.files, unlabelled.digests, strict=True))
    has_later_epochs = config.epochs != 1
    cache = ImageCache(image_cache_bytes() if has_later_epochs else 0)
    if cache.limit_bytes:
        limit_gib = cache.limit_bytes / 1024**3
        context.report.detail(f"decoded images are cached in memory, at most {limit_gib:.1f} GiB")
    device_bytes = None  # a CPU augments each image by itself
    if device != "cpu":
        device_bytes = device_image_bytes(device) if has_later_epochs else 0
    return ImageBatches(
        train_files=files,
        train_targets=targets,
        val_files=dataset.paths(VAL),
        val_targets=dataset.targets(VAL),
        preprocess=plan.start.preprocess,
        augmentation=Augmentation(
            config.augment, config.min_crop, config.mirror, config.rotate, config.zoom
        ),
        of_batches=ImageBatchAugmentation(
            config.mixup, config.cutmix, config.random_erasing, config.seed
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        workers=config.workers,
        device=device,
        on_bad_file=_bad_file_reporter(context.report, strict=config.strict),
        cache=cache,
        digests=digests,
        train_size=config.train_size,
        device_bytes=device_bytes,
        rank=context.processes.rank,
        processes=context.processes.count,
    )


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


def _build_head_state(plan: Plan, batches: FeatureBatches, device: str) -> TrainState:
    """Build the state of a new linear head, to train on features."""
    with translate_out_of_memory(None):
        probe = Probe(batches.train_features.flatten(0, 1), len(plan.dataset.classes)).to(device)
    optimizer = build_optimizer(
        probe.named_parameters(), lr=plan.config.lr, weight_decay=plan.config.weight_decay
    )
    return build_state(probe, optimizer, head_hardware(device))


def _build_network_state(plan: Plan, hardware: Hardware) -> TrainState:
    """Build the state of the network, or of its unfrozen part, to train on images.

    The network, with its initial head, is moved to the device. If it starts from trained weights,
    batch-norm statistics are frozen.
    """
    config, network = plan.config, plan.start.network
    network.requires_grad_(True)
    if config.freeze_stages is not None:
        freeze_stages(network, config.freeze_stages)
    network.to(hardware.device)
    if is_convolutional(network):  # the memory format of the weights is that of the activations
        network.to(memory_format=torch.channels_last)
    if config.compile is Compile.ON:
        compile_network(network)
    optimizer = build_optimizer(
        network.named_parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        layers=layer_numbers(network, coarse=False),
        layer_decay=config.layer_decay,
        no_decay=network.no_weight_decay() if hasattr(network, "no_weight_decay") else (),  # type: ignore[operator]
        name=config.optimizer,
        # Of MPS, it did not skip overflowing gradients until 2026-06 (pytorch pull request 186360).
        is_fused=(hardware.device, hardware.precision) != ("mps", Precision.FP16),
    )
    state = build_state(network, optimizer, hardware)
    state.micro_batch = default_micro_batch(hardware.device, config.batch_size, config.train_size)
    state.frozen_statistics = plan.start.trained_weights
    return state


def _start_from_baseline(state: TrainState, baseline: Baseline, images: int) -> None:
    """Make the baseline the best result before the first epoch: no training ends clearly below it.

    The state is that of a new head, or of the network with the baseline's head. An epoch may be
    less accurate by a standard error of the baseline's accuracy on the `images` validation images:
    otherwise few images would select the epochs that are luckiest on them.
    """
    model = baseline.probe if isinstance(state.model, Probe) else state.model
    worst_loss = -sys.float_info.max  # so that any epoch that may be the best wins
    state.best = BestEpoch(0, (baseline.accuracy, worst_loss), copy_weights(model))
    error = math.sqrt(baseline.accuracy * (1 - baseline.accuracy) / images)
    state.floor = baseline.accuracy - error


def _use_baseline(state: TrainState, baseline: Baseline, images: int) -> None:
    """Make the baseline the result of a training without epochs, with a single row of history.

    The state is that of a new head; `images` is the number of training images.
    """
    has_val = math.isfinite(baseline.accuracy)
    score = (baseline.accuracy, -baseline.loss) if has_val else (0.0, 0.0)
    state.best = BestEpoch(0, score, copy_weights(baseline.probe))
    state.history = [
        EpochRow(
            epoch=0,
            train_loss=baseline.train_loss,
            train_accuracy=baseline.train_accuracy,
            val_loss=baseline.loss if has_val else None,
            val_accuracy=baseline.accuracy if has_val else None,
            lr=0.0,
            seconds=baseline.seconds,
            images_per_second=images / max(baseline.seconds, 1e-9),
        )
    ]
