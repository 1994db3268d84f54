"""The inputs of the training loop for each regime: batches, state and schedule."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from swinclf.config import Compile, ResolvedConfig
from swinclf.data.augmentation import Augmentation
from swinclf.data.dataset import Dataset
from swinclf.data.folder import TRAIN, VAL
from swinclf.data.loader import ImageCache, image_cache_bytes
from swinclf.device import Hardware, Precision
from swinclf.models.compute import is_convolutional
from swinclf.models.freeze import freeze_stages, layer_numbers
from swinclf.preprocess import Preprocess
from swinclf.reporter import EpochRow
from swinclf.training.batches import FeatureBatches, ImageBatches
from swinclf.training.compilation import compile_network
from swinclf.training.defaults import class_weights, default_micro_batch
from swinclf.training.device_images import device_image_bytes
from swinclf.training.distillation import Distillation
from swinclf.training.feature_extraction import MIRROR, PLAIN, ExtractedFeatures
from swinclf.training.linear_probe import Probe, linear_classifiers
from swinclf.training.logistic_regression import Baseline
from swinclf.training.mixing import ImageBatchAugmentation
from swinclf.training.optim import build_optimizer
from swinclf.training.schedule import Schedule
from swinclf.training.state import BestEpoch, TrainState, build_state


def build_feature_batches(
    dataset: Dataset, extracted: ExtractedFeatures, config: ResolvedConfig, device: str
) -> FeatureBatches | None:
    """Build batches of cached features, to train a head on `device`; None without features."""
    table = extracted.features
    if table is None:
        return None
    train = [extracted.digests[image.path] for image in dataset.of(TRAIN)]
    views = (PLAIN, MIRROR) if config.mirror else (PLAIN,)
    train_views = [table.gather([digest + view for digest in train]) for view in views]
    return FeatureBatches(
        train_features=torch.stack(train_views).to(device),
        train_targets=torch.tensor(dataset.targets(TRAIN)).to(device),
        val_features=extracted.plain_features(dataset.of(VAL)).to(device),
        val_targets=torch.tensor(dataset.targets(VAL), dtype=torch.int64).to(device),
        batch_size=config.batch_size,
        seed=config.seed,
    )


def build_image_batches(
    dataset: Dataset,
    preprocess: Preprocess,
    config: ResolvedConfig,
    device: str,
    on_bad_file: Callable[[Path, str], None],
) -> ImageBatches:
    """Build batches of image files, augmented as configured."""
    return ImageBatches(
        train_files=dataset.paths(TRAIN),
        train_targets=dataset.targets(TRAIN),
        val_files=dataset.paths(VAL),
        val_targets=dataset.targets(VAL),
        preprocess=preprocess,
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
        on_bad_file=on_bad_file,
        cache=ImageCache(image_cache_bytes() if config.epochs != 1 else 0),
        train_size=config.train_size,
        device_bytes=_device_bytes(config, device),
    )


def _device_bytes(config: ResolvedConfig, device: str) -> int | None:
    """Return the memory for images on a device; None on the CPU, which augments each by itself."""
    if device == "cpu":
        return None
    return device_image_bytes(device) if config.epochs != 1 else 0


def build_head_state(
    network: nn.Module, batches: FeatureBatches, config: ResolvedConfig, hardware: Hardware
) -> TrainState:
    """Build the state of a new linear head, to train on features."""
    classes = linear_classifiers(network)[0].out_features
    probe = Probe(batches.train_features.flatten(0, 1), classes).to(hardware.device)
    optimizer = build_optimizer(
        probe.named_parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    return build_state(probe, optimizer, hardware)


def build_network_state(
    network: nn.Module, config: ResolvedConfig, hardware: Hardware, *, trained_weights: bool
) -> TrainState:
    """Build the state of the network, or of its unfrozen part, to train on images.

    The network, with its initial head, is moved to the device. If it starts from trained weights,
    batch-norm statistics are frozen.
    """
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
    )
    state = build_state(network, optimizer, hardware)
    state.micro_batch = default_micro_batch(hardware.device, config.batch_size, config.train_size)
    state.frozen_statistics = trained_weights
    return state


def add_distillation(state: TrainState, objective: Distillation, config: ResolvedConfig) -> None:
    """Make distillation the objective of a training; its own parameters train at the peak rate."""
    state.objective = objective
    parameters = list(objective.named_parameters())
    if not parameters:
        return
    optimizer = build_optimizer(parameters, lr=config.lr, weight_decay=config.weight_decay)
    for group in optimizer.param_groups:
        state.optimizer.add_param_group(group)


def build_schedule(config: ResolvedConfig, dataset: Dataset, device: str) -> Schedule:
    """Build the schedule from resolved settings."""
    counts = dataset.counts(TRAIN)
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


def start_from_baseline(state: TrainState, baseline: Baseline) -> None:
    """Make the baseline the best result before the first epoch: no training ends below it.

    The state is that of a new head, or of the network with the baseline's head.
    """
    if math.isnan(baseline.accuracy):  # without validation images the last epoch counts
        return
    model = baseline.probe if isinstance(state.model, Probe) else state.model
    weights = {name: one.detach().cpu().clone() for name, one in model.state_dict().items()}
    worst_loss = -sys.float_info.max  # so that any epoch that is as accurate wins
    state.best = BestEpoch(0, (baseline.accuracy, worst_loss), weights)
    state.floor = baseline.accuracy


def use_baseline(state: TrainState, baseline: Baseline, images: int) -> None:
    """Make the baseline the result of a training without epochs, with a single row of history.

    The state is that of a new head; `images` is the number of training images.
    """
    has_val = math.isfinite(baseline.accuracy)
    weights = {
        name: one.detach().cpu().clone() for name, one in baseline.probe.state_dict().items()
    }
    score = (baseline.accuracy, -baseline.loss) if has_val else (0.0, 0.0)
    state.best = BestEpoch(0, score, weights)
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


def head_hardware(device: str) -> Hardware:
    """Return the hardware of a head, which trains in float32: it is too small to gain from less."""
    return Hardware(device, Precision.FP32, "a linear head")


def install_best(state: TrainState, network: nn.Module) -> None:
    """Load the best weights of a training into the network."""
    assert state.best is not None
    state.model.load_state_dict(state.best.weights)
    if isinstance(state.model, Probe):
        state.model.to("cpu").install(network.to("cpu"))
