"""Linear layers in bfloat16 on a CPU: bias and GELU fused into oneDNN's product.

PyTorch's own linear layer writes the bias into the result before the product and reads it again.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Tokens from which training a fused layer pays; with fewer, autograd's own derivative is faster.
# As measured on two cores of a Xeon with AMX, 2026-11-21; `python benchmarks/networks.py
# --constants` measures it.
TRAINED_TOKENS = 512


class FastLinear(nn.Linear):
    """A linear layer, fused if no gradients are computed."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x weight' + bias, (..., C) -> (..., D)."""
        if is_fused(x, self.weight) and not torch.is_grad_enabled():
            return product(x, self.weight, self.bias)
        return super().forward(x)


class TrainedLinear(FastLinear):
    """A linear layer that is fused in training as well."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x weight' + bias, (..., C) -> (..., D)."""
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        # In this order: a graph for any batch size must not depend on the number of tokens.
        if not learns or not is_fused(x, self.weight):
            return super().forward(x)
        if x.numel() < TRAINED_TOKENS * self.in_features:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        values = (x.to(torch.bfloat16), self.weight.to(torch.bfloat16), bias)
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _Linear.apply(*values)
        return out


class _Linear(torch.autograd.Function):
    """The fused linear layer and its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])  # (..., D) -> (T, D)
        return (
            rows.mm(weight).view(x.shape) if wants_x else None,
            rows.t().mm(x.reshape(-1, x.shape[-1])) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def is_eager_cpu(x: Tensor) -> bool:
    """Return whether `x` is computed eagerly on a CPU.

    Compiled and exported graphs get the reference, which their compilers optimise themselves.
    """
    return not torch.compiler.is_compiling() and x.device.type == "cpu"


def is_fused(x: Tensor, weight: Tensor) -> bool:
    """Return whether `x` and `weight` are multiplied in bfloat16 on a CPU with `product`."""
    if not is_eager_cpu(x) or not has_fused_linear():
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16 and x.dtype is not torch.float64
    return x.dtype is weight.dtype is torch.bfloat16


@cache
def has_fused_linear() -> bool:
    """Return whether PyTorch has oneDNN's fused linear layer and the CPU supports bfloat16."""
    ops = torch.ops.mkldnn
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    names = ("_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(ops, name) for name in names):
        return False
    return bool(ops._is_mkldnn_bf16_supported())


def product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """Return act(x weight' + bias) in one pass, (..., C) -> (..., D), in bfloat16, no derivative.

    `x` are tokens for which `is_fused` holds, `weight` is (D, C), `bias` (D,). The activation is
    none or gelu.
    """
    x, weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
    # The kernel assumes without checking that the bias is contiguous.
    bias = None if bias is None else bias.to(torch.bfloat16).contiguous()
    algorithm = "none" if activation == "gelu" else ""  # of GELU: none is the exact one
    fused = torch.ops.mkldnn._linear_pointwise
    out: Tensor = fused(x, weight, bias, activation, [], algorithm)
    return out


def is_plain(*layers: nn.Module) -> bool:
    """Return whether modules are plain accelerated linear layers without hooks."""
    return all(type(layer) in (FastLinear, TrainedLinear) for layer in layers) and not is_hooked(
        *layers
    )


def is_hooked(*modules: nn.Module) -> bool:
    """Return whether one of the modules itself has forward or backward hooks."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )
