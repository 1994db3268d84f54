"""model.safetensors: weights and model card in one file, written and loaded."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.errors import ConfigError, ModelError, WeightsError
from swinclf.models.build import create_network, meta_parameters
from swinclf.models.names import Architecture
from swinclf.models.tensorfile import read_metadata, read_tensors, write_tensors


def save_model(path: Path, network: nn.Module, card: ModelCard) -> None:
    """Write a network's weights and its card.

    Raises:
        RunError: If the file cannot be written.
    """
    write_tensors(path, network.state_dict(), card.to_metadata())


def read_card(path: Path) -> ModelCard:
    """Return the card without reading the weights.

    Raises:
        RunError, WeightsError: If the file was not written by swinclf.
    """
    return ModelCard.from_metadata(read_metadata(path), where=str(path))


def load_model(path: Path, *, impl: Impl | None = None) -> tuple[nn.Module, ModelCard]:
    """Build the network of a model.safetensors and load its weights; return it, and the card.

    The network is in evaluation mode on the CPU in float32. `impl` is the backend that builds it;
    None for that of the card.

    Raises:
        RunError, WeightsError, ModelError: If the file was not written by swinclf, is damaged, or
            the network of its name has other tensors.
    """
    card = read_card(path)  # first, so that files of other programs get their own error
    tensors, _ = read_tensors(path, signed=True)
    architecture = architecture_of(card, impl=impl)
    # timm's networks may use more of a parameter than its shape: Swin's masks use its device.
    with meta_parameters() if architecture.impl is Impl.NATIVE else nullcontext():
        network = _build(architecture, card)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        odd = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        name = odd[0]
        raise WeightsError(
            f"the tensors of '{card.model}' in '{path}': {name} {wanted.get(name, 'absent')}",
            found=f"{name} {found.get(name, 'absent')} ({len(odd)} tensors differ)",
            hint="the versions the file was made with: "
            + ", ".join(f"{k} {v}" for k, v in card.versions.items()),
        )
    network.load_state_dict(tensors, assign=True)
    return network.eval(), card


def _build(architecture: Architecture, card: ModelCard) -> nn.Module:
    """Build the network; ModelError if only the card's own backend knows its arguments."""
    try:
        return create_network(architecture)
    except (ConfigError, ModelError) as error:
        if architecture.impl is card.impl or not card.model_args:
            raise
        arguments = ", ".join(f"{key}={value}" for key, value in card.model_args.items())
        raise ModelError(
            f"a run that --impl {architecture.impl} can build: '{card.model}' with {arguments}",
            found=error.found,
            hint=f"--impl {card.impl}, as it was trained",
        ) from error


def architecture_of(card: ModelCard, *, impl: Impl | None = None) -> Architecture:
    """Return the architecture that a card describes."""
    return Architecture(
        name=card.model,
        impl=impl or card.impl,
        num_classes=len(card.classes),
        img_size=card.preprocess.height,
        model_args=card.model_args,
    )
