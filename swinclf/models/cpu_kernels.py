"""Linear layers in bfloat16 on a CPU: bias and GELU inside the product, quicker weight gradients.

PyTorch's own linear layer writes the bias into the result before the product and reads it back.
Knows nothing of networks; every function gives what the plain formula gives, but for rounding.

Shape letters: T tokens, C channels in, D channels out.
"""

from __future__ import annotations

import math
import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def is_eager_cpu(x: Tensor) -> bool:
    """Return whether `x` is computed now, on a CPU, where memory is the limit, not arithmetic.

    Compiled and exported graphs get the plain formulation, which their compilers fuse themselves.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


# Between so few and so many tokens autograd's derivative beats the one below.
_FEW_TOKENS, _MANY_TOKENS = 64, 512

# From how many tokens on, and up to how large a weight, its gradient is the sum of how large parts.
_PARTED_TOKENS, _PARTED_WEIGHTS = 8192, 1 << 17
_PART_TOKENS, _SMALLEST_PART = 1024, 256


@cache
def _has_fused_linear() -> bool:
    """Return whether this PyTorch has oneDNN's fused linear layer, and the CPU its bfloat16."""
    ops = torch.ops.mkldnn
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    names = ("_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(ops, name) for name in names):
        return False
    return bool(ops._is_mkldnn_bf16_supported())


def is_fused(x: Tensor) -> bool:
    """Return whether products with `x` are taken from oneDNN: bfloat16, now, on a CPU."""
    return x.dtype is torch.bfloat16 and is_eager_cpu(x) and _has_fused_linear()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None
) -> Tensor:
    """Return x weight' + bias (+ residual).

    Args:
        x: Tokens, (..., C).
        weight: (D, C).
        bias: (D,), or None.
        residual: What the result is added to, (..., D), or None.

    Returns:
        (..., D), differentiable in all four arguments.
    """
    if torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
        dtype = torch.get_autocast_dtype("cpu")
        if dtype is torch.bfloat16 and not torch.compiler.is_compiling():
            with torch.autocast("cpu", enabled=False):
                cast = None if bias is None else bias.to(dtype)
                return linear(x.to(dtype), weight.to(dtype), cast, residual)
    if not is_fused(x) or weight.dtype is not x.dtype:
        return _sum(F.linear(x, weight, bias), residual)
    if residual is not None and residual.dtype is not x.dtype:
        return linear(x, weight, bias) + residual
    values = (x, weight, bias, residual)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        if _FEW_TOKENS < x.numel() // x.shape[-1] < _MANY_TOKENS:
            return _sum(F.linear(x, weight, bias), residual)
        out: Tensor = _Linear.apply(*values)
        return out
    return product(x, weight, bias, residual=residual)


def _sum(x: Tensor, residual: Tensor | None) -> Tensor:
    """Return x + residual, if there is one."""
    return x if residual is None else x + residual


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Return act(x weight' + bias) (+ residual) in one pass, (..., C) -> (..., D), no derivative.

    Args:
        x: Tokens, for which `is_fused` holds.
        weight: (D, C).
        bias: (D,), or None.
        activation: none or gelu.
        residual: What the result is added to, (..., D), or None. Not together with an activation.
    """
    fused = torch.ops.mkldnn._linear_pointwise
    bias = None if bias is None else bias.contiguous()  # the kernel takes it to be so, unchecked
    out: Tensor
    if residual is not None:
        out = fused.binary(x, residual.contiguous(), weight, bias, "add")
    else:
        kind = "none" if activation == "gelu" else ""  # of GELU: none is the exact one
        out = fused(x, weight, bias, activation, [], kind)
    return out


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Return grad' x, the gradient of a linear layer's weight, (T, D), (T, C) -> (D, C).

    oneDNN multiplies by a transposed matrix at half its speed. Where tokens are few it pays to
    transpose it beforehand; where they are many and the weight is small, to multiply them in parts
    and add up the results. The choices are those measured fastest with AMX.
    """
    if grad.dtype is not torch.bfloat16:
        return grad.t() @ x
    tokens, outputs, inputs = grad.shape[0], grad.shape[1], x.shape[1]
    part = math.gcd(tokens, _PART_TOKENS)
    if part >= _SMALLEST_PART and tokens >= _PARTED_TOKENS and outputs * inputs <= _PARTED_WEIGHTS:
        parts = grad.view(-1, part, outputs).mT @ x.view(-1, part, inputs)  # (T / part, D, C)
        return parts.sum(0)
    few = tokens <= (inputs if outputs <= inputs else _FEW_TOKENS)
    return (grad.t().contiguous() if few else grad.t()) @ x


def bias_gradient(grad: Tensor) -> Tensor:
    """Return the sum over tokens, the gradient of a linear layer's bias, (T, D) -> (D,).

    In bfloat16 as a product, which adds up in float32 as a sum does, at more than its speed.
    """
    if grad.dtype is not torch.bfloat16:
        return grad.sum(0)
    return (grad.new_ones(1, grad.shape[0]) @ grad)[0]


class _Linear(torch.autograd.Function):
    """The linear layer and its derivative."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias, residual=residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])  # (..., D) -> (T, D)
        return (
            rows.mm(weight).view(x.shape) if wants_x else None,
            weight_gradient(rows, x.reshape(-1, x.shape[-1])) if wants_weight else None,
            bias_gradient(rows) if wants_bias else None,
            grad if wants_residual else None,
        )
