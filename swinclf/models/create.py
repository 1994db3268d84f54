"""`swinclf.create_model`: a network by its name, as a plain torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from swinclf.config import Impl
from swinclf.errors import ConfigError
from swinclf.models.build import (
    OWN_SHAPES,
    Architecture,
    build_pretrained,
    create_network,
    load_with_head,
    reset_head,
)
from swinclf.models.embedded import EMBEDDED
from swinclf.models.hub import find_pretrained
from swinclf.models.names import is_native, native_data_config
from swinclf.reporter import LoggingReporter


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | None = None,
    pretrained: bool = False,
    drop_path: float = 0.0,
    model_args: Mapping[str, object] | None = None,
    impl: Impl | Literal["timm", "native"] | None = None,
) -> nn.Module:
    """Create a network by name: images (N, 3, H, W) -> logits (N, K).

    Args:
        name: A name from `swinclf models`, ARCH or ARCH.TAG; any other network of timm; `embedded`,
            the EfficientNet-Lite0 that comes with the package; or `vit` or `swin`, whose shape is
            given by `model_args`.
        num_classes: Logits, K; 0 omits the head, so that features (N, D) are returned.
        img_size: Side of the images, px; None for the network's own.
        pretrained: Load the published weights, downloaded once from the Hugging Face Hub (those of
            `embedded` are in the package). Their head is loaded where it has K classes; otherwise,
            and always for `embedded`, the head is new.
        drop_path: Probability in [0, 1) of skipping the deepest block in training.
        model_args: Changes to the shape of one of the package's own networks, such as
            `{"depths": "2,2"}`; see `--model-arg`.
        impl: `native` for the package's own ViT and Swin, `timm` for timm's; None for native where
            it knows the name.

    Returns:
        The network on the CPU, in float32 and in training mode.

    Raises:
        ModelError: If there is no such network, or it cannot have this image size.
        WeightsError: If there are no such weights, or they cannot be downloaded.
        ConfigError: If an argument is out of range.

    >>> network = create_model("swin_tiny_patch4_window7_224", num_classes=5)
    >>> type(network).__name__, network.head.fc.out_features
    ('Swin', 5)
    """
    if type(num_classes) is not int or num_classes < 0:
        raise ConfigError("num_classes of 0 or more", found=repr(num_classes), hint="num_classes=5")
    architecture = Architecture(
        name=name,
        impl=_builder(name, impl),
        num_classes=num_classes,
        img_size=img_size,
        drop_path=drop_path,
        model_args={key: str(value) for key, value in (model_args or {}).items()},
    )
    if architecture.model_args and architecture.impl is Impl.TIMM:
        raise ConfigError(
            "model_args for a network of this package's own",
            found=f"'{name}', which timm builds",
            hint="a name of: swinclf models --impl native",
        )
    network = _pretrained(architecture) if pretrained else create_network(architecture)
    return network.train()


def _builder(name: str, impl: str | None) -> Impl:
    """Return the backend of a network."""
    if impl is None:
        return Impl.NATIVE if name in OWN_SHAPES or is_native(name) else Impl.TIMM
    if impl not in list(Impl):
        raise ConfigError(f"impl {' or '.join(Impl)}", found=repr(impl), hint='impl="native"')
    return Impl(impl)


def _pretrained(architecture: Architecture) -> nn.Module:
    """Build a network with its published weights, including their head if it has K classes."""
    name, report = architecture.name, LoggingReporter()
    if architecture.impl is Impl.NATIVE and name not in OWN_SHAPES:
        path = find_pretrained(name, native_data_config(name).hub_id, report=report)
        network = create_network(architecture)
        load_with_head(network, path, name, architecture.num_classes)
        return network
    if architecture.impl is Impl.TIMM and name != EMBEDDED:
        from swinclf.models import timm_networks

        published = timm_networks.published_config(name)
        path = find_pretrained(name, published.hf_hub_id, published.hf_hub_filename, report=report)
        network = timm_networks.create_published(
            name, path, img_size=architecture.img_size, drop_path=architecture.drop_path
        )
        if architecture.num_classes != published.num_classes:
            reset_head(network, architecture.num_classes)
        return network
    return build_pretrained(architecture, report=report)
