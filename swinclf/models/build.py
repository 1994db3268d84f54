"""Construction of networks by name, with pretrained weights, a new head and their preprocessing.

Hides whether timm or this package builds a network. The package's own networks are built without
importing timm, which takes seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from swinclf.config import Impl
from swinclf.errors import ConfigError, ModelError, WeightsError, WeightsMismatchError
from swinclf.models import embedded
from swinclf.models.accelerated import accelerate
from swinclf.models.hub import find_pretrained
from swinclf.models.names import (
    DEFAULT,
    OWN_SHAPES,
    Architecture,
    build_native,
    default_impl,
    native_data_config,
    native_shape,
)
from swinclf.models.timm_networks import (
    create_timm_network,
    first_error_text,
    published_config,
    timm_preprocess,
)
from swinclf.models.weights.adapt import adapt_first
from swinclf.models.weights.containers import read_checkpoints
from swinclf.models.weights.load_report import WeightsReport, make_report
from swinclf.models.weights.select import WeightsCheckpoint
from swinclf.models.weights.suggest import add_suggestion
from swinclf.preprocess import Fit, Preprocess
from swinclf.reporter import SILENT, LoggingReporter, Reporter


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
            `embedded` are in the package). Their head is loaded where it has K classes; otherwise
            the head is new.
        drop_path: Probability in [0, 1) of skipping the deepest block in training.
        model_args: Changes to the shape of one of the package's own networks, such as
            `{"depths": "2,2"}`, or arguments of timm's constructor; see `--model-arg`.
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
    if not 0 <= drop_path < 1:
        raise ConfigError("drop_path from 0 to below 1", found=str(drop_path), hint="drop_path=0.1")
    architecture = Architecture(
        name=name,
        impl=_checked_impl(name, impl),
        num_classes=num_classes,
        img_size=img_size,
        drop_path=drop_path,
        model_args={key: str(value) for key, value in (model_args or {}).items()},
    )
    if not pretrained:
        return create_network(architecture).train()
    return build_pretrained(architecture, keep_head=True, report=LoggingReporter()).train()


def _checked_impl(name: str, impl: str | None) -> Impl:
    """Return the backend of a network."""
    if impl is None:
        return default_impl(name)
    if impl not in list(Impl):
        raise ConfigError(f"impl {' or '.join(Impl)}", found=repr(impl), hint='impl="native"')
    return Impl(impl)


def create_network(architecture: Architecture) -> nn.Module:
    """Build a network with random weights: images (N, 3, H, W) -> logits (N, K).

    Raises:
        ModelError: If there is no such network, or it cannot have this image size.
        ConfigError: If the model arguments are invalid.
    """
    if architecture.impl is Impl.NATIVE:
        own = build_native(architecture)
        accelerate(own)
        return own
    return create_timm_network(architecture)


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Create parameters of new modules in this thread on the meta device, without content.

    Initialising 28 million numbers, a Swin-T, takes longer than reading them. Buffers are created
    as usual. Load every parameter with `load_state_dict(..., assign=True)`.
    """
    here = threading.get_ident()

    def without_content(_: nn.Module, __: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != here:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch annotates the hook's result as None; its documentation and its code take a parameter.
    handle = register_module_parameter_registration_hook(without_content)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def build_network(architecture: Architecture) -> nn.Module:
    """Build a network and check that it is an image classifier.

    Raises:
        ModelError: If it is not; otherwise as `create_network`.
    """
    network = create_network(architecture)
    _check_classifier(network, architecture)
    return network


def build_pretrained(
    architecture: Architecture, *, keep_head: bool = False, report: Reporter = SILENT
) -> nn.Module:
    """Build a network with its published weights and a new head.

    With `keep_head`, the published head is loaded if it has as many classes.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the weights cannot be obtained, or are not this network's.
    """
    name = architecture.name
    if name == embedded.EMBEDDED:
        return _build_embedded(architecture, keep_head)
    if architecture.impl is Impl.TIMM:
        return _timm_pretrained(architecture, keep_head, report)
    if name in OWN_SHAPES:
        raise WeightsError(
            f"published weights of '{name}'",
            found="none: its shape is your own",
            hint="--no-pretrained, or --weights FILE",
        )
    path = find_pretrained(name, native_data_config(name).hub_id, report=report)
    return load_network(architecture, path, keep_head=keep_head)[0]


def load_network(
    architecture: Architecture, path: Path, *, keep_head: bool = False
) -> tuple[nn.Module, WeightsReport]:
    """Build a network with the weights in a file of any known layout, and a new head.

    Every tensor of the file except the head must match: weights are never loaded in part. With
    `keep_head`, the head of the file is loaded if it has as many classes.

    Raises:
        ModelError: As `build_network`.
        WeightsError: If the file cannot be read or does not fit; both sides are named, and the
            model that it fits if there is one.
    """
    checkpoints = read_checkpoints(path)
    try:
        if architecture.impl is Impl.NATIVE:
            with meta_parameters():
                network = create_network(architecture)
            report = _fill(network, checkpoints, architecture.num_classes, keep_head)
            if not any(parameter.is_meta for parameter in network.parameters()):
                return network, report
            # The file lacks the head or its hidden layers, which must be initialised.
        network = create_network(architecture) if keep_head else build_network(architecture)
        return network, _fill(network, checkpoints, architecture.num_classes, keep_head)
    except WeightsMismatchError as error:
        raise add_suggestion(error, checkpoints, architecture.name) from error


def _fill(
    network: nn.Module, checkpoints: Sequence[WeightsCheckpoint], num_classes: int, keep_head: bool
) -> WeightsReport:
    """Load the weights of a file, and reset the head unless `keep_head`."""
    adapted, index = adapt_first([one.tensors for one in checkpoints], network)
    wanted = network.state_dict()
    # Copies: a file that is mapped into memory can change during training.
    own = {name: value.to(wanted[name].dtype, copy=True) for name, value in adapted.state.items()}
    network.load_state_dict(own, assign=True)
    if not keep_head:
        reset_head(network, num_classes)
    return make_report(
        checkpoints[index],
        adapted,
        wanted,
        num_classes=num_classes,
        head_loaded=keep_head and adapted.head_loaded,
    )


def reset_head(network: nn.Module, num_classes: int) -> None:
    """Replace the classification head of a network by a new one."""
    network.reset_classifier(num_classes)  # type: ignore[operator]


def default_preprocess(
    architecture: Architecture, *, img_size: int | None = None, fit: Fit | None = None
) -> Preprocess:
    """Return the preprocessing of a network's data config.

    `img_size` (px) overrides the side of the input, `fit` how other aspect ratios are handled.
    """
    if architecture.name == embedded.EMBEDDED:
        own = embedded.PREPROCESS
    elif architecture.impl is Impl.TIMM:
        own = timm_preprocess(architecture.name)
    else:
        own = _native_preprocess(architecture)
    height, width = img_size or own.height, img_size or own.width
    return replace(own, height=height, width=width, fit=fit or own.fit)


def _timm_pretrained(architecture: Architecture, keep_head: bool, report: Reporter) -> nn.Module:
    """Load a published network with timm's own code, then replace its head.

    This way every tensor of the file must match; timm skips mismatches if the head differs.
    """
    name = architecture.name
    published = published_config(name)
    path = find_pretrained(name, published.hf_hub_id, published.hf_hub_filename, report=report)
    network = create_timm_network(architecture, path)
    if not keep_head or architecture.num_classes != published.num_classes:
        reset_head(network, architecture.num_classes)
    if not keep_head:
        _check_classifier(network, architecture)
    return network


def _build_embedded(architecture: Architecture, keep_head: bool) -> nn.Module:
    """Build the network with the embedded weights; with `keep_head` also their head if it fits."""
    network = create_network(architecture)
    stored = {name: value.float() for name, value in load_file(embedded.WEIGHTS).items()}
    for name, value in network.state_dict().items():
        is_head = name in embedded.HEAD
        is_loaded = is_head and keep_head and stored[name].shape == value.shape
        if (is_head and not is_loaded) or name.endswith(embedded.COUNTER):
            stored[name] = value
    if architecture.num_classes == 0:
        stored = {name: value for name, value in stored.items() if name not in embedded.HEAD}
    try:
        network.load_state_dict(stored)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights of {embedded.ARCHITECTURE} as this version of timm builds it",
            found=first_error_text(error),
            hint="pip install --upgrade swinclf timm",
        ) from error
    return network


def _native_preprocess(architecture: Architecture) -> Preprocess:
    is_custom = architecture.name in OWN_SHAPES
    like = native_data_config(DEFAULT if is_custom else architecture.name)
    own = Preprocess.from_timm({**vars(like), "input_size": (3, like.img_size, like.img_size)})
    if not is_custom:
        return own
    # Custom shapes have no published weights: use ImageNet's colours and the whole image.
    height, width = native_shape(architecture).img_size
    return replace(own, height=height, width=width, crop_pct=1.0)


@torch.inference_mode()
def _check_classifier(network: nn.Module, architecture: Architecture) -> None:
    """Run one grey image, so that a network that is no classifier fails early.

    It is run as it is used: the features, which have to be one tensor, and the head after them.
    """
    classes, size = architecture.num_classes, architecture.img_size
    try:
        preprocess = default_preprocess(architecture, img_size=size)
        picture = torch.zeros(1, 3, preprocess.height, preprocess.width)
        network.eval()
        tokens = network.forward_features(picture)  # type: ignore[operator]
        if not isinstance(tokens, torch.Tensor):
            raise TypeError(f"features of several parts ({type(tokens).__name__})")
        shape = tuple(network.forward_head(tokens).shape)  # type: ignore[operator]
        network.train()
        found = f"an output of shape {shape}"
    except Exception as error:  # whatever a network raises for an unsuitable input
        shape, found = (), first_error_text(error)
    if shape != (1, classes):
        at = f" at {size} px" if size else ""
        raise ModelError(
            f"an image classifier with {classes} logits of '{architecture.name}'{at}",
            found=found,
            hint="another --img-size, or a Swin or ViT of: swinclf models",
        )
