"""Folding of batch norm into the preceding convolution for inference, to save a pass over memory.

In evaluation mode batch norm is an affine map per channel, which can be absorbed by the weights and
bias of the convolution. Independent of the architecture: which norm follows which convolution is
observed, and the result is compared with the original network.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", sec. 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the largest output: float32 rounds by about 1e-6, a wrong fold is far off
TRIAL_PX = 64  # side of the test image

# Exceptions of a network that cannot run on this image size or does not return a tensor.
_CANNOT_RUN = (AttributeError, AssertionError, IndexError, RuntimeError, TypeError, ValueError)


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> int:
    """Fold every batch norm that directly follows a convolution into it; return their number.

    A norm is skipped if it uses batch statistics, and a pair if either module runs more than once
    or has hooks. If the outputs change, as they do if another module also reads the output of a
    convolution, or if the network cannot run on a small image, nothing is folded.

    The network has `forward_features`, is in float32 and evaluation mode, and is changed in-place.
    Tensors are replaced, not modified: a network that shares them is not affected.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return 0
    ramp = torch.linspace(-2, 2, TRIAL_PX, device=next(network.parameters()).device)
    images = torch.stack([ramp.outer(ramp), ramp.square().outer(ramp), ramp.sin().outer(ramp)])[
        None
    ]
    try:
        pairs, before = _observe(network, images)
    except _CANNOT_RUN:
        return 0
    undo = [_fold(network, convolution, norm) for convolution, norm in pairs]
    with suppress(*_CANNOT_RUN):
        after = network.forward_features(images)  # type: ignore[operator]
        if torch.allclose(after, before, rtol=0, atol=TOLERANCE * float(before.abs().max())):
            return len(pairs)
    for restore in undo:
        restore()
    return 0


def _observe(network: nn.Module, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the names of (convolution, norm) pairs, and the network's output for the images."""
    made_by: dict[int, str] = {}  # convolution by the id of its output
    outputs: list[Tensor] = []  # references, so that no id is reused
    runs: Counter[str] = Counter()
    pairs: list[tuple[str, str]] = []
    handles = []

    def observe(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            runs[name] += 1
            if _is_plain_convolution(module) and isinstance(output, Tensor):
                made_by[id(output)] = name
                outputs.append(output)
            elif inputs and id(inputs[0]) in made_by and _after_fold(module) is not None:
                pairs.append((made_by[id(inputs[0])], name))

        if not (module._forward_hooks or module._forward_pre_hooks):
            handles.append(module.register_forward_hook(note))

    for name, module in network.named_modules():
        observe(name, module)
    try:
        output: Tensor = network.forward_features(images)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    read = Counter(convolution for convolution, _ in pairs)
    once = [pair for pair in pairs if read[pair[0]] == runs[pair[0]] == runs[pair[1]] == 1]
    return once, output


def _is_plain_convolution(module: nn.Module) -> bool:
    """Return whether a module is a convolution with a weight parameter, not a computed weight."""
    return isinstance(module, nn.Conv2d) and "weight" in module._parameters


def _after_fold(norm: nn.Module) -> nn.Module | None:
    """Return the module that remains of a folded norm; None if it cannot be folded.

    Subclasses of timm also apply drop-block and an activation, each as a child module.
    """
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
        return None
    children = dict(norm.named_children())
    if type(norm) is nn.BatchNorm2d or children.keys() == {"drop", "act"}:
        rest = [one for one in children.values() if not isinstance(one, nn.Identity)]
        return rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    return None


def _fold(network: nn.Module, convolution_name: str, norm_name: str) -> Callable[[], None]:
    """Fold one norm; return a function that undoes it."""
    convolution, norm = network.get_submodule(convolution_name), network.get_submodule(norm_name)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    rest = _after_fold(norm)
    assert rest is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = convolution.weight, convolution.bias
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    holder, _, attribute = norm_name.rpartition(".")
    parent = network.get_submodule(holder)
    setattr(parent, attribute, rest.eval())

    def restore() -> None:
        convolution.weight, convolution.bias = weight, bias
        setattr(parent, attribute, norm)

    return restore
