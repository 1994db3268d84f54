"""A Swin's stages on a CPU: tokens stay in windows between blocks, in small portions.

Shape letters: N images, H and W tokens down and across, L = H * W, B windows, T tokens of a window,
C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from swinclf.models.accelerated.linear import is_eager_cpu, is_hooked
from swinclf.models.swin import SwinBlock, SwinStage, to_windows

# Without gradients a stage takes as many images at a time as have this many tokens: the output of a
# block is then still in the caches for the next. The fastest of the values tried on two cores of a
# Xeon with AMX, 2026-11-22; `python benchmarks/networks.py --constants` measures it.
PORTION_TOKENS = 12544


class FastSwinStage(SwinStage):
    """Patch merging, then blocks, with one copy from each block's windows to the next one's.

    The reference copies up to four times per block: shift, cut, join, shift back. All but the
    attention works token by token, independently of the order of the tokens.
    """

    orders: list[tuple[Tensor, Tensor]]
    """Permutations to the first block's windows, from each block's to the next one's, and back to
    the grid, each with its inverse, (L,). Empty where windows hold more than the grid."""

    def prepare(self) -> None:
        """Compute the permutations."""
        self.orders = []
        blocks = _blocks(self)
        (height, width), padded = blocks[0].grid, any(any(block.padding) for block in blocks)
        if padded:
            return
        now = tokens = torch.arange(height * width, device="cpu")
        for block in blocks:
            shifted = block.shifted(tokens.view(1, height, width, 1))
            after = to_windows(shifted, block.window).flatten()
            self.orders.append(_order(now, after))
            now = after
        self.orders.append(_order(now, tokens))

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage, (N, H, W, C) -> (N, H/2, W/2, 2C); the first one keeps the shape."""
        # Hooks must get the same tensors as in the reference.
        if not is_eager_cpu(x) or is_hooked(*self.downsample.modules(), *self.blocks.modules()):
            return super().forward(x)
        run = self._in_windows if self.orders else super().forward
        count = max(1, PORTION_TOKENS // (x.shape[1] * x.shape[2]))
        if torch.is_grad_enabled() or x.shape[0] <= count:
            return run(x)
        return torch.cat([run(part) for part in x.split(count)])

    def _in_windows(self, x: Tensor) -> Tensor:
        """Run the stage on windows, (N, H, W, C) -> (N, H/2, W/2, 2C)."""
        x = self.downsample(x)
        grid = x.shape
        *orders, last = self.orders
        for block, order in zip(_blocks(self), orders, strict=True):
            area = block.window[0] * block.window[1]
            x = _Reorder.apply(x, *order).view(grid[0], -1, area, grid[3])
            x = x + block.drop_path(block.attn(block.norm1(x), block.attn_mask))
            x = x + block.drop_path(block.mlp(block.norm2(x)))
        out: Tensor = _Reorder.apply(x, *last).view(grid)
        return out


def _blocks(stage: SwinStage) -> list[SwinBlock]:
    return [block for block in stage.blocks if isinstance(block, SwinBlock)]


def _order(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the permutation from one order of tokens to another, and its inverse."""
    order = before.argsort()[after]
    return order, order.argsort()


class _Reorder(torch.autograd.Function):
    """A permutation of each image's tokens; its derivative is a permutation, not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return _permuted(x, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _permuted(grad, ctx.inverse), None, None


def _permuted(x: Tensor, order: Tensor) -> Tensor:
    """Permute each image's tokens, (N, ..., C) and (L,) -> (N, ..., C)."""
    if x.shape[0] > 1:  # one index for all images: twice as fast along the first axis
        images = torch.arange(x.shape[0], device="cpu") * order.shape[0]
        order = (images[:, None] + order).view(-1)
    return x.reshape(-1, x.shape[-1]).index_select(0, order).view(x.shape)
