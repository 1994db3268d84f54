"""The starting model of a training, and the settings that depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinclf.config import Impl, TrainConfig
from swinclf.data.folder import FolderIndex
from swinclf.data.split import SplitRule
from swinclf.device import Hardware, default_workers, set_threads
from swinclf.errors import ConfigError
from swinclf.models.build import (
    build_network,
    build_pretrained,
    default_preprocess,
    load_network,
)
from swinclf.models.compute import is_convolutional
from swinclf.models.freeze import freeze_stages, has_linear_logits
from swinclf.models.names import Architecture
from swinclf.models.timm_networks import takes_drop_path
from swinclf.models.weights.find import StartingWeights, find_weights
from swinclf.models.weights.known_preprocess import (
    KnownPreprocess,
    preprocess_of_layout,
    preprocess_of_run,
    read_preprocess,
)
from swinclf.models.weights.load_report import WeightsReport
from swinclf.pipeline.choose_network import choose_embedded, choose_network, choose_small_network
from swinclf.preprocess import MEASURED, Preprocess, format_colours, parse_colours
from swinclf.reporter import Reporter
from swinclf.settings import Settings, key_values
from swinclf.training.checkpoint import Checkpoint
from swinclf.training.defaults import (
    Regime,
    choose_folds,
    choose_mirror,
    choose_regime,
)
from swinclf.training.feature_cache import weights_digest
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.resume_guard import check_weights

COLOURS = ("mean", "std")
NAMES = (*COLOURS, "interpolation", "crop_pct")
OWN = "the model's own"


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
    # whether to extract its features: the backbone is frozen, or has a linear head and trained
    # weights that do not come from a checkpoint
    extracts_features: bool
    frozen_digest: str  # of the frozen backbone; empty if the whole network is in the checkpoints
    extraction: ExtractionOptions
    # what was loaded from the file of `--weights`; None without one
    loaded: WeightsReport | None = None

    def split_rule(self, index: FolderIndex) -> SplitRule:
        """Return the rule that holds images out of a dataset, which may have a folder of them."""
        rule = self.extraction.split
        return replace(rule, val=0.0) if index.has_val else rule

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
            settings = choose_embedded(settings, report)
        else:
            settings = choose_small_network(settings, index, report)
    settings, impl = choose_network(settings, weights, known, report)
    trained_weights = bool(named) or settings.config.pretrained
    settings, regime = choose_regime(settings, trained_weights=trained_weights)
    _refuse_measured_colours(settings.config, regime, trained_weights=trained_weights)
    if saved is None:
        settings = choose_folds(settings, regime, index, trained_weights=trained_weights)
    settings, architecture = _choose_architecture(settings, impl, regime, len(index.classes))
    network, loaded = _build(settings.config, architecture, weights, from_checkpoint, report)
    if loaded is not None:
        implied = preprocess_of_layout(loaded.layout, network.state_dict())
        known += [] if implied is None else [implied]
    frozen = ""
    if regime is Regime.HEAD:
        linear_classifiers(network)  # fail early if the head is not linear
        frozen = weights_digest(network)
    if saved is not None:
        check_weights("pretrained weights", frozen, saved.fingerprint.network, saved.path.parent)
    if settings.config.freeze_stages is not None:  # fail early if there are fewer stages
        freeze_stages(network, settings.config.freeze_stages)
    settings, preprocess = _choose_preprocess(settings, architecture, known)
    tunes_convolutions = trained_weights and regime is not Regime.HEAD and is_convolutional(network)
    settings, extraction = _choose_extraction(settings, index.classes, tunes_convolutions)
    extracts_features = regime is Regime.HEAD or (
        trained_weights and not from_checkpoint and has_linear_logits(network)
    )
    return settings, StartingModel(
        network, preprocess, regime, trained_weights, extracts_features, frozen, extraction, loaded
    )


def _refuse_measured_colours(config: TrainConfig, regime: Regime, *, trained_weights: bool) -> None:
    """Raise a ConfigError if colours are to be measured for trained weights or a frozen network.

    Trained weights know other colours; features are extracted before the training images are known.
    """
    if MEASURED not in (config.mean, config.std):
        return
    if trained_weights:
        raise ConfigError(
            "the colours that the weights were trained with",
            found=f"--mean or --std {MEASURED}, which are for random weights",
            hint="no --mean and --std, or --no-pretrained",
        )
    if regime is Regime.HEAD:
        raise ConfigError(
            f"--no-freeze-layers with --mean or --std {MEASURED}",
            found="the head alone trains, on features that are computed before",
            hint="no --mean and --std, or --no-freeze-layers",
        )


def _choose_architecture(
    settings: Settings, impl: Impl, regime: Regime, num_classes: int
) -> tuple[Settings, Architecture]:
    """Choose the arguments to build the network with."""
    drop_path, reason = 0.1, "the network trains"
    if regime is Regime.HEAD:
        drop_path, reason = 0.0, "the network does not train"
    elif (
        impl is Impl.TIMM
        and settings.config.drop_path is None
        and not takes_drop_path(settings.config.model)
    ):
        drop_path, reason = 0.0, "the network has no drop path"
    settings, drop_path = settings.choose_value("drop_path", drop_path, reason)
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


def _choose_preprocess(
    settings: Settings, architecture: Architecture, known: Sequence[KnownPreprocess]
) -> tuple[Settings, Preprocess]:
    """Choose the preprocessing; return it with the settings.

    Of the known preprocessing of the weights, most reliable first, open fields are filled from the
    next, and finally from the network's default.

    Raises:
        ConfigError: If the network is not for square images.
    """
    config = settings.config
    own = default_preprocess(architecture, img_size=config.img_size, fit=config.fit)
    if own.height != own.width:
        option = "--model-arg img_size=" if "img_size" in architecture.model_args else "--img-size "
        raise ConfigError(
            "a network for square images",
            found=f"{own.height} x {own.width} px",
            hint=f"{option}{max(own.height, own.width)}",
        )
    settings = settings.choose("img_size", own.height, OWN)
    for name in (*NAMES, "fit"):
        value, reason = getattr(own, name), OWN
        for one in reversed(known):
            if getattr(one, name) is not None:
                value, reason = getattr(one, name), one.reason
        text = format_colours(value) if name in COLOURS else value
        settings = settings.choose(name, text, reason)
    config = settings.config
    chosen: dict[str, Any] = {
        name: parse_colours(value)
        for name in COLOURS
        if (value := getattr(config, name)) != MEASURED  # known when the images have been read
    }
    chosen |= {name: getattr(config, name) for name in ("interpolation", "crop_pct", "fit")}
    return settings, replace(own, **chosen)


def preprocess_line(settings: Settings) -> str:
    """Return the preprocessing in one line, each part with its source."""
    config, groups = settings.config, dict[str, list[str]]()
    for name in NAMES:
        value = str(getattr(config, name))
        if name != "interpolation":
            if value != MEASURED:
                value = " ".join(f"{float(number):.4g}" for number in value.split(","))
            value = f"{name.replace('crop_pct', 'crop')} {value}"
        groups.setdefault(settings.reasons.get(name, "given"), []).append(value)
    parts = [f"{', '.join(texts)} ({reason})" for reason, texts in groups.items()]
    return f"preprocessing: {'; '.join(parts)}"
