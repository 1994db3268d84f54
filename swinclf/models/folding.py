"""Folding of batch norm into the preceding convolution for inference, to save a pass over memory.

In evaluation mode batch norm is an affine map per channel, which can be absorbed by the weights and
bias of the convolution. Independent of the architecture: a norm next to a convolution is assumed to
follow it, and the result is compared with the original network.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", sec. 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the largest output: float32 rounds by about 1e-6, a wrong fold is far off
TRIAL_PX = 64  # side of the test image

# Exceptions of a network that cannot run on this image size or does not return a tensor.
_CANNOT_RUN = (AttributeError, AssertionError, IndexError, RuntimeError, TypeError, ValueError)


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> int:
    """Fold every batch norm that directly follows a convolution into it; return their number.

    A norm that uses batch statistics is skipped. If the outputs change, as they do if another
    module also reads the output of a convolution, or if the network cannot run on a small image,
    nothing is folded.

    The network has `forward_features`, is in float32 and evaluation mode, and is changed in-place.
    Tensors are replaced, not modified: a network that shares them is not affected.
    """
    pairs = _pairs(network)
    if not pairs:
        return 0
    ramp = torch.linspace(-2, 2, TRIAL_PX, device=next(network.parameters()).device)
    images = torch.stack([ramp.outer(ramp), ramp.square().outer(ramp), ramp.sin().outer(ramp)])[
        None
    ]
    try:
        before = network.forward_features(images)  # type: ignore[operator]
    except _CANNOT_RUN:
        return 0
    undo = [_fold(*pair) for pair in pairs]
    with suppress(*_CANNOT_RUN):
        after = network.forward_features(images)  # type: ignore[operator]
        if torch.allclose(after, before, rtol=0, atol=TOLERANCE * float(before.abs().max())):
            return len(pairs)
    for restore in reversed(undo):
        restore()
    return 0


def _pairs(network: nn.Module) -> list[tuple[nn.Conv2d, nn.Module, str]]:
    """Return convolutions that a batch norm follows among a module's children; its parent, name.

    A convolution with a computed weight, no parameter, is left out.
    """
    found = []
    for parent in network.modules():
        children = [one for one in parent.named_children() if not isinstance(one[1], nn.Identity)]
        for (_, convolution), (name, norm) in pairwise(children):
            if (
                isinstance(convolution, nn.Conv2d)
                and "weight" in convolution._parameters
                and isinstance(norm, nn.BatchNorm2d)
                and norm.num_features == convolution.out_channels
                and _after_fold(norm) is not None
            ):
                found.append((convolution, parent, name))
    return found


def _after_fold(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Return the module that remains of a folded norm; None if it cannot be folded.

    Subclasses of timm also apply drop-block and an activation, each as a child module.
    """
    if norm.training or norm.running_mean is None:
        return None
    children = dict(norm.named_children())
    if type(norm) is nn.BatchNorm2d or children.keys() == {"drop", "act"}:
        rest = [one for one in children.values() if not isinstance(one, nn.Identity)]
        return rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    return None


def _fold(convolution: nn.Conv2d, parent: nn.Module, name: str) -> Callable[[], None]:
    """Fold one norm; return a function that undoes it."""
    norm = parent.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm2d)
    rest = _after_fold(norm)
    assert rest is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = convolution.weight, convolution.bias
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    setattr(parent, name, rest.eval())

    def restore() -> None:
        convolution.weight, convolution.bias = weight, bias
        setattr(parent, name, norm)

    return restore
