"""Construction of networks by name, with pretrained weights, a new head and their preprocessing.

Hides whether timm or this package builds a network. The package's own networks are built without
importing timm, which takes seconds.
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
from swinclf.models.meta_init import meta_parameters
from swinclf.models.names import build_native, native_data_config
from swinclf.models.weights.adapt import adapt_first
from swinclf.models.weights.containers import read_checkpoints
from swinclf.models.weights.load_report import WeightsReport, make_report
from swinclf.models.weights.select import WeightsCheckpoint
from swinclf.models.weights.suggest import add_suggestion
from swinclf.preprocess import Fit, Interpolation, Preprocess
from swinclf.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from types import ModuleType

OWN_SHAPES = ("vit", "swin")  # own networks of any shape, given by model_args


@dataclass(frozen=True)
class Architecture:
    """A network's name and shape, without its weights."""

    name: str  # ARCH or ARCH.TAG, `vit` or `swin` for custom shapes, or `embedded`
    impl: Impl  # backend that builds it
    num_classes: int  # logits, K
    img_size: int | None = None  # side of the input, px; None for the network's own
    drop_path: float = 0.0  # drop rate of the deepest block in training
    # changes to the shape of the name, as text; for the package's own networks only
    model_args: Mapping[str, str] = field(default_factory=dict)


def create_network(architecture: Architecture) -> nn.Module:
    """Build a network with random weights: images (N, 3, H, W) -> logits (N, K).

    Raises:
        ModelError: If there is no such network, or it cannot have this image size.
        ConfigError: If the model arguments are invalid.
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
    network: nn.Module = _timm().create_timm_network(
        embedded.architecture_name(architecture.name),
        num_classes=architecture.num_classes,
        img_size=architecture.img_size,
        drop_path=architecture.drop_path,
    )
    return network


def build_network(architecture: Architecture) -> nn.Module:
    """Build a network and check that it is an image classifier.

    Raises:
        ModelError: If it is not; otherwise as `create_network`.
    """
    network = create_network(architecture)
    _check_classifier(network, architecture)
    return network


def build_pretrained(architecture: Architecture, *, report: Reporter = SILENT) -> nn.Module:
    """Build a network with its published weights and a new head.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the weights cannot be obtained, or are not this network's.
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
    """Build a network with the weights in a file of any known layout and a new head.

    Every tensor of the file except the head must match: weights are never loaded in part.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the file cannot be read or does not fit; both sides are named.
    """
    return load_network(architecture, path)[0]


def load_network(architecture: Architecture, path: Path) -> tuple[nn.Module, WeightsReport]:
    """Build a network as `build_from_file`, and return a report of what was loaded.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the file cannot be read or does not fit; both sides are named, and the
            model that it fits if there is one.
    """
    checkpoints = read_checkpoints(path)
    try:
        return _loaded(architecture, checkpoints)
    except WeightsMismatchError as error:
        raise add_suggestion(error, checkpoints, architecture.name) from error


def _loaded(
    architecture: Architecture, checkpoints: Sequence[WeightsCheckpoint]
) -> tuple[nn.Module, WeightsReport]:
    if architecture.impl is Impl.NATIVE:
        with meta_parameters():
            network = create_network(architecture)
        report = _fill(network, checkpoints, architecture)
        if not any(parameter.is_meta for parameter in network.parameters()):
            return network, report
        # The file has no such head, whose hidden layers must be initialised.
    network = build_network(architecture)
    return network, _fill(network, checkpoints, architecture)


def _fill(
    network: nn.Module, checkpoints: Sequence[WeightsCheckpoint], architecture: Architecture
) -> WeightsReport:
    """Load the weights of a file and reset the head; others are not changed."""
    states = [one.tensors for one in checkpoints]
    adapted, index = adapt_first(states, network, allow_other_head=True)
    wanted = network.state_dict()
    # Copies: a file that is mapped into memory can change during training.
    own = {name: value.to(wanted[name].dtype, copy=True) for name, value in adapted.state.items()}
    network.load_state_dict(own, assign=True)
    reset_head(network, architecture.num_classes)
    classes = architecture.num_classes
    chosen = checkpoints[index]
    return make_report(chosen, adapted, wanted, num_classes=classes, head_loaded=False)


def load_with_head(network: nn.Module, path: Path, name: str, num_classes: int) -> WeightsReport:
    """Load a file into a network, including its head if the numbers of classes agree.

    The network's head, of `num_classes`, is not replaced if that of the file differs. Raises as
    `load_network`.
    """
    checkpoints = read_checkpoints(path)
    states = [one.tensors for one in checkpoints]
    try:
        adapted, index = adapt_first(states, network, allow_other_head=True)
    except WeightsMismatchError as error:
        raise add_suggestion(error, checkpoints, name) from error
    network.load_state_dict(adapted.state)
    wanted, is_theirs = network.state_dict(), adapted.head_loaded
    chosen = checkpoints[index]
    return make_report(chosen, adapted, wanted, num_classes=num_classes, head_loaded=is_theirs)


def published_classes(name: str) -> int:
    """Return the number of classes of the published head of one of timm's networks.

    Raises:
        ModelError: If timm does not know the name.
    """
    count: int = _timm().timm_head_classes(name)
    return count


def reset_head(network: nn.Module, num_classes: int) -> None:
    """Replace the classification head of a network by a new one."""
    network.reset_classifier(num_classes)  # type: ignore[operator]


def default_preprocess(
    architecture: Architecture, *, img_size: int | None = None, fit: Fit | None = None
) -> Preprocess:
    """Return the preprocessing of a network's data config.

    `img_size` (px) overrides the side of the input, `fit` how other aspect ratios are handled.
    """
    own: Preprocess
    if architecture.name == embedded.EMBEDDED:
        own = embedded.PREPROCESS
    elif architecture.impl is Impl.TIMM:
        own = _timm().timm_preprocess(architecture.name)
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
    """Import the timm backend when it is needed."""
    from swinclf.models import timm_networks

    return timm_networks


def _timm_pretrained(architecture: Architecture, report: Reporter) -> nn.Module:
    """Load a published network with timm's own code, then replace its head.

    This way every tensor of the file must match; timm skips mismatches if the head differs.
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
    """Build the network with the embedded weights, and a new head unless theirs fits."""
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
    # Custom shapes have no published weights: use ImageNet's colours and the whole image.
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
    """Run one grey image, so that a network that is no classifier fails early."""
    classes, size = architecture.num_classes, architecture.img_size
    try:
        preprocess = default_preprocess(architecture, img_size=size)
        picture = torch.zeros(1, 3, preprocess.height, preprocess.width)
        shape = tuple(network.eval()(picture).shape)
        network.train()
        found = f"an output of shape {shape}"
    except Exception as error:  # whatever a network raises for an unsuitable input
        shape, found = (), first_line(error)
    if shape != (1, classes):
        at = f" at {size} px" if size else ""
        raise ModelError(
            f"an image classifier with {classes} logits of '{architecture.name}'{at}",
            found=found,
            hint="another --img-size, or a Swin or ViT of: swinclf models",
        )


def first_line(error: Exception) -> str:
    """Return an exception's message in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:240] or type(error).__name__
