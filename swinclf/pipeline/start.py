"""What a training starts from: the network with its weights, and all settings that hang on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Impl, TrainConfig
from swinclf.device import Hardware, default_workers, seed_everything, set_threads
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
from swinclf.pipeline.preprocessing import choose_preprocess
from swinclf.preprocess import Preprocess
from swinclf.reporter import Reporter
from swinclf.settings import Settings, key_values
from swinclf.training.checkpoint import Checkpoint
from swinclf.training.defaults import Regime, choose_drop_path, choose_mirror, choose_regime
from swinclf.training.resume_guard import check_network, frozen_digest


@dataclass(frozen=True)
class ExtractionOptions:
    """How images are read and features extracted, which is before all of a training is settled.

    Attributes:
        described: Name and arguments of the network, for cached features to be found by.
        workers: Threads that read images.
        mirror: Whether mirror images are trained on, too.
        val_split: Part of each class that is held out, where no val folder says.
        seed: Of the split.
        is_cached: Whether features are read from the user's cache folder, and stored there.
        cache_bytes: Most that the cache takes on disk.
    """

    described: str
    workers: int
    mirror: bool
    val_split: float
    seed: int
    is_cached: bool
    cache_bytes: int


@dataclass(frozen=True)
class Start:
    """What a training starts from, before an image has been looked at.

    Attributes:
        network: In float32; its head is still to be fitted to the classes.
        preprocess: How a picture becomes its input.
        regime: What of it trains.
        trained_weights: Whether it starts from weights that were trained.
        keeps_features: Whether what it sees is worth keeping: only the head trains, or its weights
            are trained ones and here, not still to come out of a checkpoint.
        frozen_digest: Of what never trains; empty where the whole network is in a checkpoint.
        extraction: How images are read and features extracted.
        loaded: What of the file of `--weights` the network has got; None without one.
    """

    network: nn.Module
    preprocess: Preprocess
    regime: Regime
    trained_weights: bool
    keeps_features: bool
    frozen_digest: str
    extraction: ExtractionOptions
    loaded: WeightsReport | None = None

    @property
    def bytes_on_disk(self) -> int:
        """What the run's large files take: three checkpoints while one is written, one model."""
        whole: int = sum(one.nbytes for one in self.network.state_dict().values())
        # The weights, the best ones so far, and AdamW's two numbers for each.
        return whole + (0 if self.regime is Regime.HEAD else 3 * 4 * whole)


def settle_machine(settings: Settings, hardware: Hardware, data: Path) -> Settings:
    """Settles what the machine decides, and begins the random numbers.

    Args:
        settings: What was asked for.
        hardware: What was chosen by it.
        data: The dataset's folder, as it is recorded.
    """
    config = settings.config
    settings = settings.choose("precision", hardware.precision, hardware.reason)
    if hardware.note:  # what was asked for is not there: what is used instead is recorded
        settings = settings.replaced("device", hardware.device, hardware.note)
    settings = settings.choose("device", hardware.device, "the best there is")
    settings = settings.choose("threads", set_threads(config.threads), "as torch chooses")
    seed_everything(config.seed)
    return replace(settings, config=replace(settings.config, data=str(data)))


def build_start(
    settings: Settings, classes: Sequence[str], saved: Checkpoint | None, report: Reporter
) -> tuple[Settings, Start]:
    """Builds the network, from a file, from published weights or from random ones.

    Of a resumed run whose whole network trains, all weights come from what was saved.

    Args:
        settings: With what the machine decides.
        classes: Names of the dataset's classes.
        saved: What a resumed run goes on from.
        report: Told of a download.

    Returns:
        The settings with all that can be chosen before an image is looked at, and the start.

    Raises:
        SwinclfError: If there is no such network, or weights cannot be had or do not fit.
        RunError: If frozen weights are not those that the resumed run was begun with.
    """
    is_saved = saved is not None and not saved.origin.network
    named = settings.config.weights
    weights = find_weights(Path(named)) if named and not is_saved else None
    known = _known_preprocess(weights)
    if weights is None and saved is None and settings.config.pretrained:
        settings = _choose_embedded(settings, report)
    settings, impl = _choose_network(settings, weights, known, report)
    trained_weights = bool(named) or settings.config.pretrained
    settings, regime = choose_regime(settings, trained_weights=trained_weights)
    settings, architecture = _choose_architecture(settings, impl, regime, len(classes))
    network, loaded = _build(settings.config, architecture, weights, is_saved, report)
    if loaded is not None:
        implied = preprocess_of_layout(loaded.layout, network.state_dict())
        known += [] if implied is None else [implied]
    frozen = frozen_digest(network) if regime is Regime.HEAD else ""
    if saved is not None:
        check_network(saved.origin, frozen, saved.path.parent)
    if settings.config.freeze_stages is not None:  # asks for too many: better known now
        freeze_stages(network, settings.config.freeze_stages)
    settings, preprocess = choose_preprocess(settings, architecture, known)
    tunes_convolutions = trained_weights and regime is not Regime.HEAD and is_convolutional(network)
    settings, extraction = _choose_extraction(settings, classes, tunes_convolutions)
    keeps_features = regime is Regime.HEAD or (trained_weights and not is_saved)
    return settings, Start(
        network, preprocess, regime, trained_weights, keeps_features, frozen, extraction, loaded
    )


def _choose_network(
    settings: Settings,
    weights: StartingWeights | None,
    known: Sequence[KnownPreprocess],
    report: Reporter,
) -> tuple[Settings, Impl]:
    """Settle which network it is, for images of which size, and who builds it."""
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
    """Settle all that the network is built by."""
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
    """Settle how images are varied and read."""
    settings, mirror = choose_mirror(settings, classes, tunes_convolutions=tunes_convolutions)
    settings, workers = settings.choose_value("workers", default_workers(), "one a core")
    config = settings.config
    return settings, ExtractionOptions(
        described=f"{config.model} {config.model_arg}",
        workers=workers,
        mirror=mirror,
        val_split=config.val_split,
        seed=config.seed,
        is_cached=config.cache,
        cache_bytes=int(config.cache_gib * 1024**3),
    )


def _build(
    config: TrainConfig,
    architecture: Architecture,
    weights: StartingWeights | None,
    is_saved: bool,
    report: Reporter,
) -> tuple[nn.Module, WeightsReport | None]:
    """The network with its weights, and what of a file it has got."""
    if weights and config.weights:
        network, loaded = load_network(architecture, weights.path)
        report.note(loaded.line(config.weights))
        return network, loaded
    if config.pretrained and not is_saved:
        return build_pretrained(architecture, report=report), None
    return build_network(architecture), None


def _known_preprocess(weights: StartingWeights | None) -> list[KnownPreprocess]:
    """What the run or the files beside the weights say of their preprocessing."""
    if weights is None:
        return []
    if weights.card is not None:
        return [preprocess_of_run(weights.card.preprocess)]
    beside = read_preprocess(weights.path)
    return [] if beside is None else [beside]


def _choose_embedded(settings: Settings, report: Reporter) -> Settings:
    """Take the embedded backbone where the default's published weights cannot be had."""
    default = settings.config.model
    if settings.is_given("model") or is_available(native_data_config(default).hub_id or ""):
        return settings
    report.note(
        f"the weights of {default} are not in the cache and the Hub does not answer: using the "
        "embedded EfficientNet-Lite0. For the larger network, run once where there is a network, "
        "or: --weights FILE"
    )
    return settings.choose("model", EMBEDDED, f"{default} cannot be had here")


def _choose_model(settings: Settings, card: ModelCard | None) -> tuple[Settings, Impl]:
    """Settles which network it is, by the run that weights come from, and who builds it."""
    if card is not None:
        reason = "as the run that --weights names"
        settings = settings.choose("model", card.model, reason)
        settings = settings.choose("impl", card.impl, reason)
        settings = settings.choose("img_size", card.preprocess.height, reason)
        arguments = tuple(f"{key}={value}" for key, value in card.model_args.items())
        settings = settings.choose("model_arg", arguments, reason)
    if settings.config.model in OWN_SHAPES:
        return settings.choose_value("impl", Impl.NATIVE, "a shape of your own")
    if is_native(settings.config.model):
        return settings.choose_value("impl", Impl.NATIVE, "quicker, with the same answers")
    return settings.choose_value("impl", Impl.TIMM, "the only one that knows the model")
