"""Dropout on a CPU: masks of random bits, where torch draws a number for each value.

The seed of a mask is drawn from torch's generator, so a resumed training repeats its masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swinclf.models.accelerated.linear import is_eager_cpu

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class RandomBits:
    """A stream of random bits, from which masks are computed, for one use of dropout.

    `rate` is the fraction that is dropped, in (0, 1); exact to 1/65536 or finer. The attribute
    `scale` is that of the values that are not dropped.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._stream = np.random.SFC64(seed)
        self.scale = 1 / (1 - rate)

    @classmethod
    def drawn(cls, rate: float) -> RandomBits:
        """Return a stream with a seed from torch's generator."""
        return cls(rate, int(torch.randint(2**62, ())))

    def set_signs(self, values: Tensor) -> None:
        """Set the sign bits of a random fraction of contiguous floating-point values in-place."""
        integers = as_integers(values)
        integers.bitwise_or_(self._dropped(integers).mul_(torch.iinfo(integers.dtype).min))

    def mask(self, values: Tensor) -> Tensor:
        """Return 1 for the values that are not dropped, else 0, as integers of their size."""
        return self._dropped(as_integers(values)).bitwise_xor_(1)

    def _dropped(self, like: Tensor) -> Tensor:
        """Return 1 for the fraction that is dropped, else 0, in the shape and type of integers."""
        size = like.element_size()
        words = self._stream.random_raw(-(-like.numel() * size // 8)).view(np.int64)
        random = torch.from_numpy(words).view(like.dtype)[: like.numel()].view(like.shape)
        limit = torch.iinfo(like.dtype).min + round(self._rate * 2 ** (8 * size))
        return torch.lt(random, limit, out=torch.empty_like(random))


def as_integers(values: Tensor) -> Tensor:
    """Return the bits of floating-point values as integers that share their memory."""
    return values.view(_INTEGERS[values.element_size()])


def drop(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return `F.dropout(x, rate, training)`, by another mask of the same distribution."""
    if not (training and rate > 0.0 and is_eager_cpu(x) and x.is_floating_point()):
        return F.dropout(x, rate, training)
    out: Tensor = _Dropout.apply(x, RandomBits.drawn(rate))
    return out


class _Dropout(torch.autograd.Function):
    """Dropout and its derivative: bits times 0 or 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: RandomBits) -> Tensor:
        x = x.contiguous()
        mask = bits.mask(x)
        ctx.save_for_backward(mask)
        ctx.scale = bits.scale
        return (as_integers(x) * mask).view(x.dtype).mul_(bits.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return (as_integers(grad.contiguous()) * mask).view(grad.dtype).mul_(ctx.scale), None
