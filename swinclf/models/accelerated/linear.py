"""Linear layers in bfloat16 on a CPU, without gradients: bias and GELU inside oneDNN's product.

PyTorch's own linear layer writes the bias into the result before the product and reads it back.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor, nn


class FastLinear(nn.Linear):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x weight' + bias, (..., C) -> (..., D)."""
        if is_fused(x, self.weight):
            return product(x, self)
        return super().forward(x)


def is_eager_cpu(x: Tensor) -> bool:
    """Return whether `x` is computed at once, on a CPU.

    Compiled and exported graphs get the reference, which their compilers optimise themselves.
    """
    return not torch.compiler.is_compiling() and x.device.type == "cpu"


def is_fused(x: Tensor, weight: Tensor) -> bool:
    """Return whether the product of `x` and `weight` is `product`: bfloat16, without gradients."""
    if not is_eager_cpu(x) or torch.is_grad_enabled() or not has_fused_linear():
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16 and x.dtype is not torch.float64
    return x.dtype is weight.dtype is torch.bfloat16


@cache
def has_fused_linear() -> bool:
    """Return whether this PyTorch has oneDNN's fused linear layer, and the CPU its bfloat16."""
    ops = torch.ops.mkldnn
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    names = ("_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(ops, name) for name in names):
        return False
    return bool(ops._is_mkldnn_bf16_supported())


def product(x: Tensor, layer: nn.Linear, activation: str = "none") -> Tensor:
    """Return act(x weight' + bias) in one pass, (..., C) -> (..., D) in bfloat16.

    Args:
        x: Tokens, for which `is_fused` holds.
        layer: Weight and bias.
        activation: none or gelu.
    """
    x, weight = x.to(torch.bfloat16), layer.weight.to(torch.bfloat16)
    # The kernel takes the bias to be contiguous, without checking.
    bias = None if layer.bias is None else layer.bias.to(torch.bfloat16).contiguous()
    algorithm = "none" if activation == "gelu" else ""  # of GELU: none is the exact one
    fused = torch.ops.mkldnn._linear_pointwise
    out: Tensor = fused(x, weight, bias, activation, [], algorithm)
    return out


def is_plain(*layers: nn.Module) -> bool:
    """Return whether linear layers are nothing but their weights: no other class, no hooks."""
    return all(type(layer) is FastLinear for layer in layers) and not is_hooked(*layers)


def is_hooked(*modules: nn.Module) -> bool:
    """Return whether one of the modules has hooks, forward or backward ones; its own alone."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )
