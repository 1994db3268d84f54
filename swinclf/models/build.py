"""A name -> a network with a fresh head, and the preprocessing that its weights were made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinclf.config import Impl
from swinclf.errors import ModelError, WeightsError
from swinclf.models.catalogue import check_name
from swinclf.models.hub import find_pretrained
from swinclf.preprocess import Fit, Interpolation, Preprocess


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network, without its weights.

    Attributes:
        name: ARCH or ARCH.TAG.
        impl: Who builds it.
        num_classes: Logits, K.
        img_size: Side of the picture it sees, px; None for the network's own.
        drop_path: Chance to skip the deepest block in training.
    """

    name: str
    impl: Impl
    num_classes: int
    img_size: int | None = None
    drop_path: float = 0.0


def build_network(architecture: Architecture) -> nn.Module:
    """A network with random weights: pictures (N, 3, H, W) -> logits (N, K).

    Raises:
        ModelError: If there is no such network, it cannot have this image size, or it is no image
            classifier.
    """
    check_name(architecture.name)
    try:
        network = _create(architecture)
    except Exception as error:  # whatever a constructor makes of a size it cannot have
        raise ModelError(
            f"the network '{architecture.name}' at {architecture.img_size or 'its own'} px",
            found=first_line(error),
            hint="another --img-size, or a Swin or ViT of: swinclf models",
        ) from error
    _check_classifier(network, architecture)
    return network


def build_pretrained(architecture: Architecture) -> nn.Module:
    """The same with timm's published weights under a fresh head.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the weights are not to be had, or are not this network's.
    """
    name = check_name(architecture.name)
    published = published_config(name)
    path = find_pretrained(name, published)
    return build_from_file(architecture, path, num_classes=published.num_classes)


def build_from_file(architecture: Architecture, path: Path, *, num_classes: int) -> nn.Module:
    """Builds a network on a file in timm's format, by timm's own loading code, under a fresh head.

    The head in the file is loaded too and then replaced: so every tensor has its place, and the
    file of another network can never be loaded in part.

    Args:
        architecture: The network.
        path: A safetensors file.
        num_classes: Classes of the head in the file; 0 where it has none.

    Raises:
        WeightsError: If the file does not fit, tensor by tensor.
    """
    overlay = {"file": str(path), "source": "file", "num_classes": num_classes}
    try:
        network = _create(
            replace(architecture, num_classes=num_classes),
            pretrained=True,
            pretrained_cfg_overlay=overlay,
        )
    except Exception as error:  # timm tells of a misfit by whatever exception comes first
        raise WeightsError(
            f"the weights of '{architecture.name}' in '{path}'",
            found=first_line(error),
            hint="the --model the file was made for, another --weights FILE, or --no-pretrained",
        ) from error
    reset_head(network, architecture.num_classes)
    _check_classifier(network, architecture)
    return network


def reset_head(network: nn.Module, num_classes: int) -> None:
    """Puts a fresh classification head on a network."""
    network.reset_classifier(num_classes)  # type: ignore[operator]


def published_config(name: str) -> Any:
    """How timm describes the published weights of a name: where they are, which pictures they want.

    Raises:
        WeightsError: If none were published.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsError(
            f"published weights of '{name}'",
            found="none were published",
            hint="--no-pretrained, --weights FILE, or a name from: swinclf models",
        )
    return config


def default_preprocess(network: nn.Module, *, img_size: int | None, fit: Fit) -> Preprocess:
    """The preprocessing from the network's own data config.

    Args:
        network: Built by this module.
        img_size: Side of the picture, px, instead of the config's.
        fit: What is done with pictures of other proportions.
    """
    import timm.data

    config: Mapping[str, Any] = timm.data.resolve_model_data_config(network)
    _, height, width = config["input_size"]
    return Preprocess(
        height=img_size or height,
        width=img_size or width,
        interpolation=Interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_pct=float(config["crop_pct"]),
        fit=fit,
    )


def published_classifiers(name: str) -> tuple[str, ...]:
    """The names of the head's layers in published weights; none where the network is not known."""
    import timm

    config = timm.get_pretrained_cfg(check_name(name))
    classifier = config.classifier if config is not None else None
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:240] or type(error).__name__


def _create(architecture: Architecture, **loading: Any) -> nn.Module:
    import timm

    options: dict[str, Any] = {
        "num_classes": architecture.num_classes,
        "pretrained": False,
        **loading,
    }
    if architecture.drop_path:
        options["drop_path_rate"] = architecture.drop_path
    config = timm.get_pretrained_cfg(architecture.name)
    if architecture.img_size and (config is None or config.fixed_input_size):
        options["img_size"] = architecture.img_size  # the others take any size as they are
    network: nn.Module = timm.create_model(architecture.name, **options)
    return network


@torch.inference_mode()
def _check_classifier(network: nn.Module, architecture: Architecture) -> None:
    """Shows the network one grey picture: what is no classifier fails here, not hours later."""
    classes, size = architecture.num_classes, architecture.img_size
    try:
        preprocess = default_preprocess(network, img_size=size, fit=Fit.CROP)
        picture = torch.zeros(1, 3, preprocess.height, preprocess.width)
        shape = tuple(network.eval()(picture).shape)
        network.train()
        found = f"an output of shape {shape}"
    except Exception as error:
        shape, found = (), first_line(error)
    if shape != (1, classes):
        at = f" at {size} px" if size else ""
        raise ModelError(
            f"an image classifier, {classes} numbers for a picture, of '{architecture.name}'{at}",
            found=found,
            hint="another --img-size, or a Swin or ViT of: swinclf models",
        )
