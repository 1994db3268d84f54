"""Faster CPU versions of the package's networks, with the same parameters and results.

`accelerate` replaces the classes of a network's modules in-place. Each replacement overrides one
method of its reference in `swin.py`, `vit.py` or `layers.py` and falls back to it where it has no
advantage: on a GPU, in graphs of torch.compile and torch.export, and in other precisions. State
dicts, hooks, freezing, copying and pickling work as in the reference. Results are equal up to
rounding.

What is faster, and where:

    linear.FastLinear                       bfloat16, without gradients: bias inside the product
    linear.TrainedLinear                    training a Swin in bfloat16: the same
    mlp.FastMlp                             the same, with GELU inside the product, too
    dropout.drop                            training a ViT: dropout by random bits, other masks
    mlp.PortionedMlp                        training a Swin: a hidden layer that stays in the caches
    vit_attention.FastAttention             training a ViT in bfloat16, or with attention dropout
    window_attention.FastWindowAttention    training a Swin: no copies of the scores
    stage.FastSwinStage                     a Swin: one copy a block instead of up to four
"""

from __future__ import annotations

from torch import nn

from swinclf.models.accelerated.linear import FastLinear, TrainedLinear
from swinclf.models.accelerated.mlp import FastMlp, PortionedMlp
from swinclf.models.accelerated.stage import FastSwinStage
from swinclf.models.accelerated.vit_attention import FastAttention
from swinclf.models.accelerated.window_attention import FastWindowAttention
from swinclf.models.layers import Mlp
from swinclf.models.swin import Swin, SwinStage, WindowAttention
from swinclf.models.vit import Attention, ViT

_OF_VIT: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FastLinear,
    Mlp: FastMlp,
    Attention: FastAttention,
}
_OF_SWIN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TrainedLinear,
    Mlp: PortionedMlp,
    WindowAttention: FastWindowAttention,
    SwinStage: FastSwinStage,
}


def accelerate(network: nn.Module) -> None:
    """Replace the modules of a ViT or Swin of this package by faster ones, in-place.

    The network may be in any state. Its head is not changed.
    """
    if not isinstance(network, ViT | Swin):
        return
    classes = _OF_VIT if isinstance(network, ViT) else _OF_SWIN
    trunk = network.blocks if isinstance(network, ViT) else network.layers
    for module in trunk.modules():
        module.__class__ = classes.get(type(module), type(module))
        if isinstance(module, FastSwinStage):
            module.prepare()
