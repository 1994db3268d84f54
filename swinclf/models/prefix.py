"""A network cut in two above its first stages (Swin) or blocks (ViT).

The lower part of a network whose first stages are frozen gives the same for an image for ever.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _ReachedError(Exception):
    """What comes into the part that is asked about; the rest of the network is not run."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


def output_of_first(network: nn.Module, stages: int, images: Tensor) -> Tensor:
    """What the first stages make of images, (N, 3, H, W) -> (N, ...) tokens.

    Args:
        network: One that `can_be_cut`.
        stages: How many, from 0 for the stem alone to all of them.
        images: Preprocessed, on the network's device.
    """

    def stop_here(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise _ReachedError(inputs[0])

    handle = _parts(network)[stages].register_forward_pre_hook(stop_here)
    try:
        network.forward_features(images)  # type: ignore[operator]
    except _ReachedError as reached:
        return reached.tokens
    finally:
        handle.remove()
    raise AssertionError("a network's last norm is always run")


def features_above(network: nn.Module, stages: int, tokens: Tensor) -> Tensor:
    """The network's `forward_features` from `output_of_first` on, (N, ...) -> (N, ..., C)."""
    for part in _parts(network)[stages:]:
        tokens = part(tokens)
    return tokens


@torch.no_grad()
def can_be_cut(network: nn.Module, stages: int, images: Tensor) -> bool:
    """Whether the two parts, one after the other, give what the whole network gives.

    Args:
        network: Any; in evaluation mode.
        stages: How many the lower part has.
        images: (N, 3, H, W), to try it on.
    """
    try:
        whole = network.forward_features(images)  # type: ignore[operator]
        cut = features_above(network, stages, output_of_first(network, stages, images))
    except (AttributeError, AssertionError, IndexError, TypeError):  # it is made in another way
        return False
    return bool(torch.equal(whole, cut))


def _parts(network: nn.Module) -> list[nn.Module]:
    """The stages or blocks, and the norm after them."""
    stages: Any = network.layers if hasattr(network, "layers") else network.blocks
    return [*stages, network.norm]
