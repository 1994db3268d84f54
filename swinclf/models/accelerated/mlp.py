"""The two-layer MLP with GELU on a CPU: fused in bfloat16, and in chunks in training.

Shape letters: T tokens, C channels in and out, D the hidden layer's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from swinclf.models.accelerated.dropout import drop
from swinclf.models.accelerated.linear import is_eager_cpu, is_fused, is_plain, product
from swinclf.models.layers import ACTIVATIONS, Mlp

# A hidden layer above 32 MiB is memory that the C library requests from the system on every call,
# which costs more than the product. In portions it stays in the caches, in a reused buffer.
# The three values were the fastest of those tried on two cores of a Xeon with AMX, 2026-11-22;
# `python benchmarks/networks.py --constants` measures them.
PORTION_BYTES = 6 << 20  # of the hidden layer
PORTIONED_VALUES = 12 << 20  # of the hidden layer below which it is computed in one piece
PORTIONED_WIDTH = 2048  # D above which reading the weights again for each portion costs more


class FastMlp(Mlp):
    """The MLP, with bias and GELU fused into oneDNN's product if no gradients are computed."""

    def forward(self, x: Tensor) -> Tensor:
        """Map every token by itself, (..., C) -> (..., C)."""
        if self.training and self.dropout > 0.0 and is_eager_cpu(x):
            act = ACTIVATIONS[self.activation]
            out = self.fc2(drop(act(self.fc1(x)), self.dropout, True))
            return drop(act(out) if self.is_activated_twice else out, self.dropout, True)
        is_open = not torch.is_grad_enabled() and self._is_open()
        if not is_open or not is_fused(x, self.fc1.weight):
            return super().forward(x)
        hidden = product(x, self.fc1.weight, self.fc1.bias, "gelu")
        return product(hidden, self.fc2.weight, self.fc2.bias)

    def _is_open(self) -> bool:
        """Return whether nothing but GELU is between the layers' weights."""
        is_alone = self.activation == "gelu" and not self.is_activated_twice
        return is_alone and is_plain(self.fc1, self.fc2)


class PortionedMlp(FastMlp):
    """The MLP in portions of some thousand tokens in training, without storing the hidden layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map every token by itself, (..., C) -> (..., C)."""
        if not self._learns_in_portions(x):
            return super().forward(x)
        values: tuple[Tensor, ...]
        values = (x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            values = tuple(value.to(dtype) for value in values)
        out: Tensor = _MlpInPortions.apply(*values)
        return out

    def _learns_in_portions(self, x: Tensor) -> bool:
        hidden, width = self.fc1.weight.shape
        return (
            is_eager_cpu(x)
            and torch.is_grad_enabled()
            and hidden <= PORTIONED_WIDTH
            and x.numel() // width * hidden >= PORTIONED_VALUES
            and all(value.requires_grad for value in self.parameters())
            and self._is_open()
        )


def _portion(x: Tensor, hidden: int) -> int:
    """Return how many of the tokens `x`, (..., C), to take at a time."""
    return max(1024, PORTION_BYTES // (hidden * x.element_size()))


class _MlpInPortions(torch.autograd.Function):
    """GELU(x w1' + b1) w2' + b2 and its derivative, which recomputes the hidden layer.

    That product costs less than writing D channels to memory and reading them again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])  # (..., C) -> (T, C)
        ctx.save_for_backward(tokens, w1, b1, w2)
        size = _portion(x, w1.shape[0])
        out, buffer = torch.empty_like(tokens), x.new_empty(size, w1.shape[0])
        for part, part_out in zip(tokens.split(size), out.split(size), strict=True):
            hidden = buffer[: part.shape[0]]
            torch.addmm(b1, part, w1.t(), out=hidden)  # (T, C) -> (T, D)
            torch.addmm(b2, torch.ops.aten.gelu_(hidden), w2.t(), out=part_out)  # -> (T, C)
        return out.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        tokens, size = grad.reshape(x.shape), _portion(x, w1.shape[0])
        grad_x = torch.empty_like(x)
        # Sums over portions are in float32: bfloat16 would round at every portion.
        grad_w1, grad_b1, grad_w2 = (torch.zeros_like(w, dtype=torch.float32) for w in (w1, b1, w2))
        buffers = [x.new_empty(size, w1.shape[0]) for _ in range(3)]
        parts = zip(*(value.split(size) for value in (x, tokens, grad_x)), strict=True)
        for part, part_grad, part_grad_x in parts:
            before, after, slope = (buffer[: part.shape[0]] for buffer in buffers)  # (T, D) each
            torch.addmm(b1, part, w1.t(), out=before)
            torch.ops.aten.gelu.out(before, out=after)
            grad_w2 += part_grad.t() @ after
            torch.mm(part_grad, w2, out=after)
            torch.ops.aten.gelu_backward.grad_input(after, before, grad_input=slope)
            grad_w1 += slope.t() @ part
            grad_b1 += slope.sum(0)
            torch.mm(slope, w1, out=part_grad_x)
        grads = (grad_w1.to(w1), grad_b1.to(b1), grad_w2.to(w2), tokens.sum(0))
        return (grad_x.view(grad.shape), *grads)
