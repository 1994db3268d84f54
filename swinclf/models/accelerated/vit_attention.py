"""Attention of a ViT in training on a CPU: its weights are stored, and some of them dropped.

In bfloat16 this is faster than PyTorch's own attention.

Shape letters: N images, T tokens, A heads, E channels of a head, B images times heads of a portion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from swinclf.models.accelerated.dropout import RandomBits
from swinclf.models.accelerated.linear import is_eager_cpu, is_fused
from swinclf.models.vit import Attention

# Scores of the images that are computed at a time, so that they stay in the caches.
PORTION_SCORES = 1 << 20
# Up to so many tokens in bfloat16; of more, the weights would take much memory. With 0, a step of
# ViT-S/16 took 1.16 times as long on two cores of an AMD EPYC with AVX512-BF16, 2026-11-27:
# `python benchmarks/networks.py --constants BF16_TOKENS`.
BF16_TOKENS = 640


class FastAttention(Attention):
    """A ViT's attention, with a hand-written derivative where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Let every token attend to every token, (N, T, C) -> (N, T, C)."""
        if not (torch.is_grad_enabled() and is_eager_cpu(x) and self._pays(x)):
            return super().forward(x)
        qkv = self.qkv(x)
        bits = RandomBits.drawn(self.attn_dropout) if self.attn_dropout > 0.0 else None
        with torch.autocast("cpu", enabled=False):
            mixed = _Attention.apply(qkv, self.heads, bits)
        out: Tensor = self.proj(mixed)
        return out

    def _pays(self, x: Tensor) -> bool:
        """Return whether the hand-written derivative is faster for these tokens."""
        is_short = x.shape[1] <= BF16_TOKENS
        is_faster = self.attn_dropout > 0.0 or (is_short and is_fused(x, self.qkv.weight))
        return self.training and is_faster


class _Attention(torch.autograd.Function):
    """dropout(softmax(q k' / sqrt(E))) v and its derivative; without bits nothing is dropped.

    Only the weights are stored, with the sign of those that are dropped set: a weight is never
    negative. With dropout, PyTorch's own attention stores scores, weights, mask and their product.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, bits: RandomBits | None) -> Tensor:
        n, tokens, triple = qkv.shape
        each = triple // (3 * heads)
        signed = qkv.new_empty(n, heads, tokens, tokens)
        out = qkv.new_empty(n, tokens, heads, each)
        ctx.drops, ctx.scale = bits is not None, 1.0 if bits is None else bits.scale
        for part in _portions(n, heads * tokens**2):
            q, k, v = _by_head(qkv[part], 3, heads)  # (B, T, E) each
            weights = signed[part].view(-1, tokens, tokens)
            torch.baddbmm(weights, q, k.mT, beta=0, alpha=each**-0.5, out=weights)
            torch.softmax(weights, -1, out=weights)
            if bits is not None:
                bits.set_signs(weights)
                weights = weights.relu()
            mixed = torch.empty_like(v)
            torch.baddbmm(mixed, weights, v, beta=0, alpha=ctx.scale, out=mixed)
            out[part] = mixed.view(-1, heads, tokens, each).transpose(1, 2)
        ctx.save_for_backward(qkv, signed)
        return out.flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, signed = ctx.saved_tensors
        n, heads, tokens, _ = signed.shape
        each = qkv.shape[-1] // (3 * heads)
        scale = ctx.scale * each**-0.5
        grad_qkv = torch.empty_like(qkv).view(n, tokens, 3, heads, each)
        for part in _portions(n, heads * tokens**2):
            q, k, v = _by_head(qkv[part], 3, heads)
            (out,) = _by_head(grad[part], 1, heads)
            weights = signed[part].view(-1, tokens, tokens)
            used = weights.relu() if ctx.drops else weights
            grads = q.new_empty(3, *q.shape)
            torch.baddbmm(grads[2], used.mT, out, beta=0, alpha=ctx.scale, out=grads[2])
            slope = torch.bmm(out, v.mT)  # (B, T, T)
            if ctx.drops:
                torch.ops.aten.threshold_backward.grad_input(slope, weights, 0, grad_input=slope)
                weights = weights.abs()
            torch.ops.aten._softmax_backward_data.out(
                slope, weights, -1, slope.dtype, grad_input=slope
            )
            torch.baddbmm(grads[0], slope, k, beta=0, alpha=scale, out=grads[0])
            torch.baddbmm(grads[1], slope.mT, q, beta=0, alpha=scale, out=grads[1])
            apart = grads.view(3, -1, heads, tokens, each)
            grad_qkv[part] = apart.permute(1, 3, 0, 2, 4)
        return grad_qkv.flatten(2), None, None


def _by_head(x: Tensor, kinds: int, heads: int) -> Tensor:
    """Return the channels of each head apart, (N, T, kinds * A * E) -> (kinds, B, T, E)."""
    n, tokens, _ = x.shape
    apart: Tensor = x.unflatten(-1, (kinds, heads, -1)).permute(2, 0, 3, 1, 4)
    return apart.reshape(kinds, n * heads, tokens, -1)


def _portions(n: int, scores: int) -> list[slice]:
    """Return parts of `n` images with `scores` numbers each."""
    size = max(1, PORTION_SCORES // scores)
    return [slice(start, start + size) for start in range(0, n, size)]
