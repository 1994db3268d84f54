"""The starting model of a training, and the settings that depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Impl, TrainConfig
from swinclf.data.folder import FolderIndex
from swinclf.data.split import SplitRule
from swinclf.device import Hardware, default_workers, set_threads
from swinclf.models.build import (
    OWN_SHAPES,
    Architecture,
    build_network,
    build_pretrained,
    load_network,
)
from swinclf.models.compute import is_convolutional
from swinclf.models.embedded import EMBEDDED
from swinclf.models.freeze import freeze_stages
from swinclf.models.hub import is_available
from swinclf.models.names import is_native, native_data_config
from swinclf.models.weights.find import StartingWeights, find_weights
from swinclf.models.weights.known_preprocess import (
    KnownPreprocess,
    preprocess_of_layout,
    preprocess_of_run,
    read_preprocess,
)
from swinclf.models.weights.load_report import WeightsReport
from swinclf.pipeline.activation import choose_activation
from swinclf.pipeline.choose_preprocess import choose_preprocess
from swinclf.pipeline.small_network import choose_small_network
from swinclf.preprocess import Preprocess
from swinclf.reporter import Reporter
from swinclf.settings import Settings, key_values
from swinclf.training.checkpoint import Checkpoint
from swinclf.training.defaults import (
    Regime,
    choose_drop_path,
    choose_folds,
    choose_mirror,
    choose_regime,
)
from swinclf.training.resume_guard import check_network, frozen_digest


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of reading images and extracting features, which come before the other defaults."""

    network_id: str  # name and arguments of the network, for the key of the cache
    workers: int  # reader threads
    mirror: bool  # whether to train on mirror images, too
    split: SplitRule  # the rule that holds images out
    is_cached: bool  # whether to use the user's feature cache
    cache_bytes: int  # largest size of the cache on disk


@dataclass(frozen=True)
class StartingModel:
    """The network before training, built before any image is read."""

    network: nn.Module  # in float32; its head is still to be fitted to the classes
    preprocess: Preprocess
    regime: Regime  # which of its parameters train
    trained_weights: bool  # whether it has trained weights
    # whether to extract its features: the backbone is frozen, or has trained weights that do not
    # come from a checkpoint
    extracts_features: bool
    frozen_digest: str  # of the frozen backbone; empty if the whole network is in the checkpoints
    extraction: ExtractionOptions
    # what was loaded from the file of `--weights`; None without one
    loaded: WeightsReport | None = None

    @property
    def bytes_on_disk(self) -> int:
        """Return the size of a run's large files: a model and up to three checkpoints."""
        weights: int = sum(one.nbytes for one in self.network.state_dict().values())
        # A checkpoint has the weights, the best weights, and two moments of AdamW.
        return weights + (0 if self.regime is Regime.HEAD else 3 * 4 * weights)


def resolve_machine(settings: Settings, hardware: Hardware, data: Path) -> Settings:
    """Choose the settings that depend on the machine, and seed the random generators."""
    config = settings.config
    settings = settings.choose("precision", hardware.precision, hardware.reason)
    if hardware.note:  # the given device is not available: record the one in use
        settings = settings.replaced("device", hardware.device, hardware.note)
    settings = settings.choose("device", hardware.device, "the best available")
    settings = settings.choose("threads", set_threads(config.threads), "torch's default")
    torch.manual_seed(config.seed)  # of new weights
    return replace(settings, config=replace(settings.config, data=str(data)))


def build_starting_model(
    settings: Settings, index: FolderIndex, saved: Checkpoint | None, report: Reporter
) -> tuple[Settings, StartingModel]:
    """Build the network with weights from a file, published weights or random ones.

    A resumed run whose whole network trains gets its weights from the checkpoint instead.

    Returned settings have all defaults that depend on the network. `saved` is the checkpoint of a
    resumed run.

    Raises:
        SwinclfError: If there is no such network, or its weights are unavailable or do not fit.
        RunError: If the frozen weights differ from those of the resumed run.
    """
    from_checkpoint = saved is not None and not saved.fingerprint.network
    named = settings.config.weights
    weights = find_weights(Path(named)) if named and not from_checkpoint else None
    known = _known_preprocess(weights)
    if weights is None and saved is None:
        if settings.config.pretrained:
            settings = _choose_embedded(settings, report)
        else:
            settings = choose_small_network(settings, index, report)
    settings, impl = _choose_network(settings, weights, known, report)
    trained_weights = bool(named) or settings.config.pretrained
    settings, regime = choose_regime(settings, trained_weights=trained_weights)
    if saved is None:
        settings = choose_folds(settings, regime, index, trained_weights=trained_weights)
    settings, architecture = _choose_architecture(settings, impl, regime, len(index.classes))
    network, loaded = _build(settings.config, architecture, weights, from_checkpoint, report)
    if loaded is not None:
        implied = preprocess_of_layout(loaded.layout, network.state_dict())
        known += [] if implied is None else [implied]
    frozen = frozen_digest(network) if regime is Regime.HEAD else ""
    if saved is not None:
        check_network(saved.fingerprint, frozen, saved.path.parent)
    if settings.config.freeze_stages is not None:  # fail early if there are fewer stages
        freeze_stages(network, settings.config.freeze_stages)
    settings, preprocess = choose_preprocess(settings, architecture, known)
    tunes_convolutions = trained_weights and regime is not Regime.HEAD and is_convolutional(network)
    settings, extraction = _choose_extraction(settings, index.classes, tunes_convolutions)
    extracts_features = regime is Regime.HEAD or (trained_weights and not from_checkpoint)
    return settings, StartingModel(
        network, preprocess, regime, trained_weights, extracts_features, frozen, extraction, loaded
    )


def _choose_network(
    settings: Settings,
    weights: StartingWeights | None,
    known: Sequence[KnownPreprocess],
    report: Reporter,
) -> tuple[Settings, Impl]:
    """Choose network, image size and builder."""
    settings, impl = _choose_model(settings, weights.card if weights else None)
    if weights is not None and weights.card is None:
        settings = choose_activation(settings, weights.path, report)
    for one in known:
        if one.img_size is not None and "img_size" not in key_values(settings.config.model_arg):
            settings = settings.choose("img_size", one.img_size, one.reason)
    return settings, impl


def _choose_architecture(
    settings: Settings, impl: Impl, regime: Regime, num_classes: int
) -> tuple[Settings, Architecture]:
    """Choose the arguments to build the network with."""
    settings, drop_path = choose_drop_path(settings, regime)
    config = settings.config
    return settings, Architecture(
        name=config.model,
        impl=impl,
        num_classes=num_classes,
        img_size=config.img_size,
        drop_path=drop_path,
        model_args=key_values(config.model_arg),
    )


def _choose_extraction(
    settings: Settings, classes: Sequence[str], tunes_convolutions: bool
) -> tuple[Settings, ExtractionOptions]:
    """Choose augmentation and the options of feature extraction."""
    settings, mirror = choose_mirror(settings, classes, tunes_convolutions=tunes_convolutions)
    settings, workers = settings.choose_value("workers", default_workers(), "one per core")
    config = settings.config
    return settings, ExtractionOptions(
        network_id=f"{config.model} {config.model_arg}",
        workers=workers,
        mirror=mirror,
        split=SplitRule(0.0 if config.folds else config.val_split, config.test_split, config.seed),
        is_cached=config.cache,
        cache_bytes=int(config.cache_gib * 1024**3),
    )


def _build(
    config: TrainConfig,
    architecture: Architecture,
    weights: StartingWeights | None,
    from_checkpoint: bool,
    report: Reporter,
) -> tuple[nn.Module, WeightsReport | None]:
    """Build the network with its weights; return it and a report of the loaded file."""
    if weights and config.weights:
        network, loaded = load_network(architecture, weights.path)
        report.note(loaded.line(config.weights))
        return network, loaded
    if config.pretrained and not from_checkpoint:
        return build_pretrained(architecture, report=report), None
    return build_network(architecture), None


def _known_preprocess(weights: StartingWeights | None) -> list[KnownPreprocess]:
    """Return the known preprocessing of the weights, from their run or files next to them."""
    if weights is None:
        return []
    if weights.card is not None:
        return [preprocess_of_run(weights.card.preprocess)]
    known = read_preprocess(weights.path)
    return [] if known is None else [known]


def _choose_embedded(settings: Settings, report: Reporter) -> Settings:
    """Fall back to the embedded backbone if the default's published weights are unavailable."""
    default = settings.config.model
    if settings.is_given("model") or is_available(native_data_config(default).hub_id or ""):
        return settings
    report.note(
        f"the weights of {default} are not cached and the Hub is unreachable: using the embedded "
        "EfficientNet-Lite0. For the larger network, run once with internet access, or use "
        "--weights FILE"
    )
    return settings.choose("model", EMBEDDED, f"{default} is unavailable")


def _choose_model(settings: Settings, card: ModelCard | None) -> tuple[Settings, Impl]:
    """Choose network and builder; from the run of the weights, if there is one."""
    if card is not None:
        reason = "as the run of --weights"
        settings = settings.choose("model", card.model, reason)
        settings = settings.choose("impl", card.impl, reason)
        settings = settings.choose("img_size", card.preprocess.height, reason)
        arguments = tuple(f"{key}={value}" for key, value in card.model_args.items())
        settings = settings.choose("model_arg", arguments, reason)
    if settings.config.model in OWN_SHAPES:
        return settings.choose_value("impl", Impl.NATIVE, "a custom architecture")
    if is_native(settings.config.model):
        return settings.choose_value("impl", Impl.NATIVE, "faster, same outputs")
    return settings.choose_value("impl", Impl.TIMM, "not available natively")
