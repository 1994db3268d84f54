"""Attention inside windows on a CPU in training: softmax and scores share one tensor.

Shape letters: N images, B windows of an image, T tokens of a window, P those after padding, C
channels, A heads, E channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swinclf.models.accelerated.linear import is_eager_cpu
from swinclf.models.swin import WindowAttention

# A row of scores is padded to a multiple of this: the bfloat16 values of a 512-bit vector. A
# softmax of 49 values took nearly twice the time of one of 64 on a Xeon with AMX, 2026-11-22;
# `python benchmarks/networks.py --constants` measures it.
VECTOR_VALUES = 32


class FastWindowAttention(WindowAttention):
    """The attention of a Swin block, with a hand-written derivative for training."""

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax(q k' / sqrt(E) + bias) v, (N, B, T, 3C) -> (N, B, T, C)."""
        learns = torch.is_grad_enabled() and self.relative_position_bias_table.requires_grad
        if not (learns and is_eager_cpu(qkv)):
            return super().attend(qkv, mask)
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _WindowAttention.apply(qkv, self.position_bias().to(qkv), mask)
        return out


def _spare(area: int) -> int:
    """Return the padding of a row of scores: to whole vectors, but never to twice its length."""
    spare = -area % VECTOR_VALUES
    return spare if spare < area else 0


class _WindowAttention(torch.autograd.Function):
    """Eq. 4 and its derivative.

    PyTorch's fused attention has no derivative for the bias, and its other form, like this one with
    autograd, copies every score matrix several times. Here scores and their softmax share one
    tensor, whose rows are padded to P values.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        heads = bias.shape[0]
        n, windows, area, triple = qkv.shape
        each, spare = triple // (3 * heads), _spare(area)
        apart = qkv.reshape(n * windows, area, 3 * heads, each).permute(2, 0, 1, 3).contiguous()
        q, k, v = apart.view(3, -1, area, each).unbind(0)  # (A * N * B, T, E) each
        filled = qkv.new_empty(heads, n, windows, area, area + spare)
        bias = bias[:, None, None] if mask is None else bias[:, None, None] + mask.to(bias.dtype)
        filled.copy_(F.pad(bias, (0, spare), value=-torch.inf))  # (A, 1, 1 or B, T, P)
        filled = filled.view(-1, area, area + spare)
        scores = filled[:, :, :area]
        torch.baddbmm(scores, q, k.mT, alpha=each**-0.5, out=scores)
        torch.softmax(filled, -1, out=filled)
        attention = scores.contiguous()  # (A * N * B, T, T)
        ctx.save_for_backward(apart, attention)
        out = torch.bmm(attention, v).view(heads, n, windows, area, each)
        return out.permute(1, 2, 3, 0, 4).flatten(3)  # -> (N, B, T, C)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        apart, attention = ctx.saved_tensors
        triple, count, area, each = apart.shape
        q, k, v = apart.view(3, -1, area, each).unbind(0)
        out = grad.reshape(count, area, -1, each).permute(2, 0, 1, 3).reshape(-1, area, each)
        grads = torch.empty_like(apart)
        grad_q, grad_k, grad_v = grads.view(3, -1, area, each).unbind(0)
        torch.bmm(attention.mT, out, out=grad_v)
        slope = torch.bmm(out, v.mT)  # (A * N * B, T, T)
        softmax_backward = torch.ops.aten._softmax_backward_data.out
        softmax_backward(slope, attention, -1, slope.dtype, grad_input=slope)
        grad_bias = slope.view(triple // 3, -1, area, area).sum(1)
        torch.baddbmm(grad_q, slope, k, beta=0, alpha=each**-0.5, out=grad_q)
        torch.baddbmm(grad_k, slope.mT, q, beta=0, alpha=each**-0.5, out=grad_k)
        return grads.permute(1, 2, 0, 3).reshape(*grad.shape[:3], -1), grad_bias, None
