"""A name -> a network with a fresh head, and the preprocessing that its weights were made for.

Who builds it, timm or this package, makes no difference above this file. The package's own
networks are built without importing timm, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from swinclf.config import Impl
from swinclf.errors import ModelError, WeightsError, WeightsMismatchError
from swinclf.models import embedded
from swinclf.models.accelerated import accelerate
from swinclf.models.hub import find_pretrained
from swinclf.models.meta_init import blank_parameters
from swinclf.models.names import build_native, native_data_config
from swinclf.models.weights.adapt import adapt_first
from swinclf.models.weights.containers import read_checkpoints
from swinclf.models.weights.report import WeightsReport, make_report
from swinclf.models.weights.select import Checkpoint
from swinclf.models.weights.suggest import with_suggestion
from swinclf.preprocess import Fit, Interpolation, Preprocess
from swinclf.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from types import ModuleType

OWN_SHAPES = ("vit", "swin")  # names of this package alone, for any shape by model_args


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network, without its weights.

    Attributes:
        name: ARCH or ARCH.TAG, `vit` or `swin` for own shapes, or `embedded`.
        impl: Who builds it.
        num_classes: Logits, K.
        img_size: Side of the picture it sees, px; None for the network's own.
        drop_path: Chance to skip the deepest block in training.
        model_args: What differs from the name's shape, each as text; of the package's own networks
            only.
    """

    name: str
    impl: Impl
    num_classes: int
    img_size: int | None = None
    drop_path: float = 0.0
    model_args: Mapping[str, str] = field(default_factory=dict)


def create_network(architecture: Architecture) -> nn.Module:
    """A network with random weights: pictures (N, 3, H, W) -> logits (N, K).

    Raises:
        ModelError: If there is no such network, or it cannot have this image size.
        ConfigError: If the model arguments make no sense.
    """
    if architecture.impl is Impl.NATIVE:
        own = build_native(
            architecture.name,
            num_classes=architecture.num_classes,
            img_size=architecture.img_size,
            drop_path=architecture.drop_path,
            model_args=architecture.model_args,
        )
        accelerate(own)
        return own
    network: nn.Module = _timm().create_network(
        embedded.architecture_name(architecture.name),
        num_classes=architecture.num_classes,
        img_size=architecture.img_size,
        drop_path=architecture.drop_path,
    )
    return network


def build_network(architecture: Architecture) -> nn.Module:
    """The same, shown to be an image classifier.

    Raises:
        ModelError: If it is none; else as `create_network`.
    """
    network = create_network(architecture)
    _check_classifier(network, architecture)
    return network


def build_pretrained(architecture: Architecture, *, report: Reporter = SILENT) -> nn.Module:
    """A network with timm's published weights under a fresh head.

    Args:
        architecture: The network.
        report: Told of a download.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the weights are not to be had, or are not this network's.
    """
    if architecture.name == embedded.EMBEDDED:
        return _build_embedded(architecture)
    if architecture.impl is Impl.TIMM:
        return _timm_pretrained(architecture, report)
    if architecture.name in OWN_SHAPES:
        raise WeightsError(
            f"published weights of '{architecture.name}'",
            found="none: its shape is your own",
            hint="--no-pretrained, or --weights FILE",
        )
    published = native_data_config(architecture.name)
    path = find_pretrained(architecture.name, published.hub_id, report=report)
    return build_from_file(architecture, path)


def build_from_file(architecture: Architecture, path: Path) -> nn.Module:
    """A network with the weights in a file of any known layout, under a fresh head.

    Every tensor of the file but the head must have its place: a file of another network is never
    loaded in part.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the file cannot be read or does not fit; both sides are named.
    """
    return load_network(architecture, path)[0]


def load_network(architecture: Architecture, path: Path) -> tuple[nn.Module, WeightsReport]:
    """Build a network as `build_from_file` does, and say what of the file it has got.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the file cannot be read or does not fit; both sides are named, and the
            model that it fits if there is one.
    """
    checkpoints = read_checkpoints(path)
    try:
        return _loaded(architecture, checkpoints)
    except WeightsMismatchError as error:
        raise with_suggestion(error, checkpoints, architecture.name) from error


def _loaded(
    architecture: Architecture, checkpoints: Sequence[Checkpoint]
) -> tuple[nn.Module, WeightsReport]:
    """Build a network and fill it."""
    if architecture.impl is Impl.NATIVE:
        with blank_parameters():
            network = create_network(architecture)
        report = _fill(network, checkpoints, architecture)
        if not any(parameter.is_meta for parameter in network.parameters()):
            return network, report
        # The file has no such head, and this one has hidden layers: they are drawn.
    network = build_network(architecture)
    return network, _fill(network, checkpoints, architecture)


def _fill(
    network: nn.Module, checkpoints: Sequence[Checkpoint], architecture: Architecture
) -> WeightsReport:
    """Give a network the weights of a file and a new head; what the file lacks stays as it is."""
    states = [one.tensors for one in checkpoints]
    adapted, index = adapt_first(states, network, allow_other_head=True)
    wanted = network.state_dict()
    # Copies: what stands in a file can change while it is trained on.
    own = {name: value.to(wanted[name].dtype, copy=True) for name, value in adapted.state.items()}
    network.load_state_dict(own, assign=True)
    reset_head(network, architecture.num_classes)
    classes = architecture.num_classes
    chosen = checkpoints[index]
    return make_report(chosen, adapted, wanted, num_classes=classes, head_loaded=False)


def load_with_head(network: nn.Module, path: Path, name: str, num_classes: int) -> WeightsReport:
    """Load a file into a network, its head too where it has the network's classes.

    Args:
        network: With that many classes; where the file has another head it stays as it is.
        path: As for `build_from_file`.
        name: Of the network.
        num_classes: Classes of the network's head.

    Raises:
        WeightsError: As `load_network`.
    """
    checkpoints = read_checkpoints(path)
    states = [one.tensors for one in checkpoints]
    try:
        adapted, index = adapt_first(states, network, allow_other_head=True)
    except WeightsMismatchError as error:
        raise with_suggestion(error, checkpoints, name) from error
    network.load_state_dict(adapted.state)
    wanted, is_theirs = network.state_dict(), adapted.head_loaded
    chosen = checkpoints[index]
    return make_report(chosen, adapted, wanted, num_classes=num_classes, head_loaded=is_theirs)


def published_classes(name: str) -> int:
    """Return the classes of the published head of one of timm's networks.

    Raises:
        ModelError: If timm does not know the name.
    """
    count: int = _timm().published_classes(name)
    return count


def reset_head(network: nn.Module, num_classes: int) -> None:
    """Puts a fresh classification head on a network."""
    network.reset_classifier(num_classes)  # type: ignore[operator]


def default_preprocess(
    architecture: Architecture, *, img_size: int | None = None, fit: Fit | None = None
) -> Preprocess:
    """The preprocessing from the network's own data config.

    Args:
        architecture: The network.
        img_size: Side of the picture, px, instead of the config's.
        fit: What is done with pictures of other proportions, instead of the config's.
    """
    own: Preprocess
    if architecture.name == embedded.EMBEDDED:
        own = embedded.PREPROCESS
    elif architecture.impl is Impl.TIMM:
        own = _timm().preprocess_of(architecture.name)
    else:
        own = _native_preprocess(architecture)
    return Preprocess(
        height=img_size or own.height,
        width=img_size or own.width,
        interpolation=own.interpolation,
        mean=own.mean,
        std=own.std,
        crop_pct=own.crop_pct,
        fit=fit or own.fit,
    )


def _timm() -> ModuleType:
    """The half that knows timm, imported when it is needed."""
    from swinclf.models import timm_networks

    return timm_networks


def _timm_pretrained(architecture: Architecture, report: Reporter) -> nn.Module:
    """Loads a whole published network by timm's own code, then replaces its head.

    So every tensor of the file has its place; timm itself would skip what does not fit when the
    head differs.
    """
    timm_networks = _timm()
    published = timm_networks.published_config(architecture.name)
    path = find_pretrained(
        architecture.name, published.hf_hub_id, published.hf_hub_filename, report=report
    )
    network: nn.Module = timm_networks.create_published(
        architecture.name, path, img_size=architecture.img_size, drop_path=architecture.drop_path
    )
    reset_head(network, architecture.num_classes)
    _check_classifier(network, architecture)
    return network


def _build_embedded(architecture: Architecture) -> nn.Module:
    """Build the network with the embedded weights, under a fresh head unless theirs fits."""
    network = create_network(architecture)
    stored = {name: value.float() for name, value in load_file(embedded.WEIGHTS).items()}
    for name, value in network.state_dict().items():
        is_fresh = name in embedded.HEAD and stored[name].shape != value.shape
        if is_fresh or name.endswith(embedded.COUNTER):
            stored[name] = value
    if architecture.num_classes == 0:
        stored = {name: value for name, value in stored.items() if name not in embedded.HEAD}
    try:
        network.load_state_dict(stored)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights of {embedded.ARCHITECTURE} as this version of timm builds it",
            found=first_line(error),
            hint="pip install --upgrade swinclf timm",
        ) from error
    return network


def _native_preprocess(architecture: Architecture) -> Preprocess:
    name = architecture.name
    # Own shapes have no published weights to suit: ImageNet's colours and the whole picture will
    # do.
    like = native_data_config("swin_tiny_patch4_window7_224" if name in OWN_SHAPES else name)
    size = like.img_size
    if name in OWN_SHAPES:
        network = create_network(architecture)
        size = network.config.img_size[0]  # type: ignore[union-attr, index, assignment]
    red, green, blue = like.mean
    std_red, std_green, std_blue = like.std
    return Preprocess(
        height=size,
        width=size,
        interpolation=Interpolation(like.interpolation),
        mean=(red, green, blue),
        std=(std_red, std_green, std_blue),
        crop_pct=1.0 if name in OWN_SHAPES else like.crop_pct,
        fit=Fit.SQUASH if like.crop_mode == "squash" else Fit.CROP,
    )


@torch.inference_mode()
def _check_classifier(network: nn.Module, architecture: Architecture) -> None:
    """Shows the network one grey picture: what is no classifier fails here, not hours later."""
    classes, size = architecture.num_classes, architecture.img_size
    try:
        preprocess = default_preprocess(architecture, img_size=size)
        picture = torch.zeros(1, 3, preprocess.height, preprocess.width)
        shape = tuple(network.eval()(picture).shape)
        network.train()
        found = f"an output of shape {shape}"
    except Exception as error:  # whatever a network makes of a picture it was not made for
        shape, found = (), first_line(error)
    if shape != (1, classes):
        at = f" at {size} px" if size else ""
        raise ModelError(
            f"an image classifier, {classes} numbers for a picture, of '{architecture.name}'{at}",
            found=found,
            hint="another --img-size, or a Swin or ViT of: swinclf models",
        )


def first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:240] or type(error).__name__
