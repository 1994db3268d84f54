"""Swin Transformer, from the paper: attention inside windows that shift from block to block.

Knows nothing of names, weight files or data. Parameters are called as timm calls them, so state
dicts go both ways.

Shape letters: N images, H and W tokens down and across (H x W pixels on the way in), C channels,
B windows of an image, T = M * M tokens of a window, A heads, E channels of a head.

Source: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, Liu et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swinclf.models.cpu_kernels import is_eager_cpu, linear
from swinclf.models.layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    drop_path_rates,
    init_linear,
    merge_heads,
    relative_position_index,
    with_norm,
)

# Added to the score of two tokens that the cyclic shift made neighbours. After the softmax it is 0.
# The published code's -100 leaves 1e-44 there, a denormal number: a CPU takes many times as long.
_MASKED = -1000.0

# Numbers of 16 bits in a vector of the processor, where it has long ones.
_VECTOR = 32

# Without gradients a stage takes as many images at a time as have this many tokens: what one block
# leaves is then still in the caches for the next.
_PORTION_TOKENS = 12544


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer's shape. The defaults are Swin-T."""

    img_size: tuple[int, int] = (224, 224)
    """Height and width of the images, pixels."""
    patch_size: int = 4
    """Side of a patch, pixels."""
    in_chans: int = 3
    """Colours of an image."""
    num_classes: int = 1000
    """Classes of the head; 0 builds none."""
    embed_dim: int = 96
    """Channels C of the first stage; each later stage has twice as many."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Heads of each stage's attention."""
    window_size: int | tuple[int, ...] = 7
    """Side M of a window, tokens: one for all stages, or one a stage."""
    mlp_ratio: float = 4.0
    """Width of the MLP's hidden layer over that of its input."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    drop_path: float = 0.0
    """Drop rate of the last block's branches, in [0, 1); the first block's is 0."""
    head_dropout: float = 0.0
    """Fraction of the pooled features dropped before the head, in [0, 1)."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norms."""

    @property
    def windows(self) -> tuple[int, ...]:
        """The window's side for each stage, tokens."""
        if isinstance(self.window_size, int):
            return (self.window_size,) * len(self.depths)
        return self.window_size


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a grid of tokens into windows, (N, H, W, C) -> (N, B, T, C)."""
    n, height, width, channels = x.shape
    rows, columns = height // window[0], width // window[1]
    x = x.view(n, rows, window[0], columns, window[1], channels).transpose(2, 3)
    return x.reshape(n, rows * columns, window[0] * window[1], channels)


def from_windows(x: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Put windows together again, (N, B, T, C) -> (N, H, W, C)."""
    rows, columns = grid[0] // window[0], grid[1] // window[1]
    x = x.view(x.shape[0], rows, columns, window[0], window[1], x.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], grid[0], grid[1], x.shape[-1])


def shift_mask(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Return what to add to the scores of a shifted grid, (B, T, T): 0, or a lot less.

    The cyclic shift brings the first rows and columns behind the last ones. Tokens that are
    neighbours only by that must not see each other: they are numbered by region, and pairs from
    two regions are masked.

    Source: sec. 3.2, "Efficient batch computation for shifted configuration", fig. 4.
    """
    bands = []
    for size, side, offset in zip(grid, window, shift, strict=True):
        position = torch.arange(size)
        bands.append((position >= size - side).int() + (position >= size - offset).int())
    regions = bands[0][:, None] * 3 + bands[1][None, :]  # (H, W)
    windows = to_windows(regions[None, :, :, None], window)[0, :, :, 0]  # (B, T)
    apart = windows[:, :, None] != windows[:, None, :]  # (B, T, T)
    return torch.zeros(apart.shape).masked_fill(apart, _MASKED)


class WindowAttention(nn.Module):
    """Multi-head self-attention among the tokens of each window, biased by relative position.

    Args:
        width: Channels C.
        heads: Heads A; each has E = C / A channels.
        window: Rows and columns of a window, tokens.
        qkv_bias: Whether queries, keys and values have a bias.

    Source: sec. 3.2, eq. 4.
    """

    relative_position_index: Tensor

    def __init__(
        self, width: int, heads: int, window: tuple[int, int], *, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.window_size = heads, window
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = relative_position_index(window)
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def position_bias(self) -> Tensor:
        """Return what each head adds to the score of each pair of tokens, (A, T, T)."""
        area = self.relative_position_index.shape[0]
        bias = self.relative_position_bias_table.t()  # (offsets, A) -> (A, offsets)
        bias = bias.index_select(1, self.relative_position_index.view(-1))
        return bias.view(self.heads, area, area)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        norm: nn.LayerNorm | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Let the tokens of each window see each other, (N, B, T, C) -> (N, B, T, C).

        Args:
            x: Tokens in windows, (N, B, T, C).
            mask: Added to the scores, (B, T, T), or None.
            norm: What the tokens go through first, if anything.
            residual: What the result is added to, (N, B, T, C), or None.
        """
        qkv = linear(*with_norm(norm, x, self.qkv.weight, self.qkv.bias))  # -> (N, B, T, 3C)
        if self._learns(x):
            out: Tensor = _WindowAttention.apply(qkv, self.position_bias().to(qkv), mask)
        else:
            out = self._attend(qkv, mask)
        return linear(out, self.proj.weight, self.proj.bias, residual)

    def _attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Attend by PyTorch's fused attention, (N, B, T, 3C) -> (N, B, T, C)."""
        n, count, area, triple = qkv.shape
        kept = not torch.is_grad_enabled() and is_eager_cpu(qkv)
        bias = self._kept_bias(mask) if kept else _masked(self.position_bias(), mask)
        if bias.shape[0] > 1:
            bias = bias[None].expand(n, -1, -1, -1, -1).reshape(n * count, -1, area, area)
        qkv = qkv.view(n * count, area, 3, self.heads, triple // 3 // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (N * B, A, T, E) each
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return merge_heads(out).view(n, count, area, triple // 3)

    def _learns(self, x: Tensor) -> bool:
        """Return whether a CPU computes the position bias's derivative."""
        table = self.relative_position_bias_table
        return torch.is_grad_enabled() and table.requires_grad and is_eager_cpu(x)

    def _kept_bias(self, mask: Tensor | None) -> Tensor:
        """Return what is added to the scores, made anew only if table or mask are others.

        Tables are compared by what they hold, a few microseconds: whichever way one was changed,
        it is seen.
        """
        table = self.relative_position_bias_table
        kept = _KEPT_BIASES.get(self)
        if kept is not None and kept.mask is mask and _is_same(kept.table, table):
            return kept.bias
        bias = _masked(self.position_bias(), mask)
        _KEPT_BIASES[self] = _KeptBias(table.detach().clone(), mask, bias)
        return bias


def _masked(bias: Tensor, mask: Tensor | None) -> Tensor:
    """Put position bias and mask together, (A, T, T) and (B, T, T) -> (1 or B, A, T, T)."""
    return bias[None] if mask is None else bias + mask[:, None].to(bias.dtype)


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same numbers in the same precision and place."""
    return a.dtype is b.dtype and a.device == b.device and torch.equal(a, b)


class _KeptBias(NamedTuple):
    """Position bias with its mask, and what both were made from."""

    table: Tensor
    mask: Tensor | None
    bias: Tensor


# Beside the modules, so that copies and files of a network do not carry them.
_KEPT_BIASES: WeakKeyDictionary[WindowAttention, _KeptBias] = WeakKeyDictionary()


def _spare(area: int) -> int:
    """Return how many numbers fill up a row of scores: to whole vectors, but never to twice."""
    spare = -area % _VECTOR
    return spare if spare < area else 0


class _WindowAttention(torch.autograd.Function):
    """Attention inside windows written out with its derivative, for training on a CPU.

    PyTorch's fused attention has no derivative for the bias, and its other form, like this one left
    to autograd, copies every score matrix several times. Here scores and their softmax share one
    tensor, whose rows are filled up to P numbers, whole vectors of the processor: a softmax of 49
    takes nearly twice the time of one of 64.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        heads = bias.shape[0]
        n, windows, area, triple = qkv.shape
        each, spare = triple // (3 * heads), _spare(area)
        apart = qkv.view(n * windows, area, 3 * heads, each).permute(2, 0, 1, 3).contiguous()
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


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP, each added to what came in.

    Args:
        width: Channels C.
        heads: Heads A.
        grid: Rows and columns of tokens.
        window: Side M of a window; a grid that is no larger is one window and never shifted.
        shifted: Whether the windows are shifted by half their side (SW-MSA).
        config: The network's shape.
        drop_path: Fraction of images whose branches are dropped in training.

    Source: sec. 3.2, eq. 3 and fig. 3 (b).
    """

    attn_mask: Tensor | None

    def __init__(
        self,
        width: int,
        heads: int,
        grid: tuple[int, int],
        window: int,
        *,
        shifted: bool,
        config: SwinConfig,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.window = (min(window, grid[0]), min(window, grid[1]))
        sides = zip(grid, self.window, strict=True)
        shift = tuple(window // 2 if shifted and size > side else 0 for size, side in sides)
        self.shift = (shift[0], shift[1])
        self.padding = (-grid[0] % self.window[0], -grid[1] % self.window[1])
        padded = (grid[0] + self.padding[0], grid[1] + self.padding[1])
        mask = shift_mask(padded, self.window, self.shift) if any(shift) else None
        self.register_buffer("attn_mask", mask, persistent=False)
        self.norm1 = nn.LayerNorm(width, config.norm_eps)
        self.attn = WindowAttention(width, heads, self.window, qkv_bias=config.qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, config.norm_eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens within windows, then channels, (N, H, W, C) -> (N, H, W, C)."""
        return self._mix(x, self.attend)

    def in_windows(self, x: Tensor) -> Tensor:
        """Do the same to tokens that lie in this block's windows, (N, B, T, C) -> (N, B, T, C).

        All but the attention goes token by token, so it does not matter where a token lies.
        """
        return self._mix(x, self._attend_there)

    def _mix(self, x: Tensor, attend: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """Attend, then the MLP, each added to what came in."""
        if self.drop_path.is_idle:
            x = attend(x, x)  # the sum is part of the last product
            out: Tensor = self.mlp(x, norm=self.norm2, residual=x)
        else:
            x = x + self.drop_path(attend(x, None))
            out = x + self.drop_path(self.mlp(x, norm=self.norm2))
        return out

    def attend(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Norm, shift, cut into windows, attend, undo the latter two, add the residual.

        (N, H, W, C) -> (N, H, W, C). What was padded is cut off at the end.
        """
        shifted = self.shifted(self.norm1(x))
        out = self.attn(to_windows(shifted, self.window), self.attn_mask)
        out = from_windows(out, self.window, (shifted.shape[1], shifted.shape[2]))
        out = out[:, : self.grid[0], : self.grid[1]]
        if any(self.shift):
            out = out.roll(self.shift, (1, 2))
        return out if residual is None else residual + out

    def _attend_there(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Norm, attend, add the residual, all in windows, (N, B, T, C) -> (N, B, T, C)."""
        out: Tensor = self.attn(x, self.attn_mask, norm=self.norm1, residual=residual)
        return out

    def shifted(self, x: Tensor) -> Tensor:
        """Shift a grid of tokens and pad it to whole windows, (N, H, W, C) -> (N, H', W', C)."""
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        if any(self.padding):
            x = F.pad(x, (0, 0, 0, self.padding[1], 0, self.padding[0]))
        return x


class PatchMerging(nn.Module):
    """Make one token of every 2 x 2: four times the channels, then a linear map to twice.

    Source: sec. 3.1, "Stage 2".
    """

    def __init__(self, width: int, config: SwinConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, config.norm_eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the grid (odd sides are padded with zeros), (N, H, W, C) -> (N, H/2, W/2, 2C)."""
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        n, height, width, channels = x.shape
        x = x.view(n, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # down before across, as the weights expect
        out: Tensor = self.reduction(self.norm(x))  # (N, H/2, W/2, 4C) -> (N, H/2, W/2, 2C)
        return out


class Reorder(nn.Module):
    """Put the tokens of each image in another order.

    Args:
        order: Where each token is to be taken from, a permutation, (L,).
    """

    order: Tensor
    place: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Reorder, (N, B, T, C) -> (N, B, T, C); how tokens are grouped does not matter."""
        if not x.requires_grad:
            return _permuted(x, self.order)
        out: Tensor = _Reordered.apply(x, self.order, self.place)
        return out


class _Reordered(torch.autograd.Function):
    """A permutation of tokens, whose derivative is the way back: a copy, not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.place = place
        return _permuted(x, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _permuted(grad, ctx.place), None, None


def _permuted(x: Tensor, order: Tensor) -> Tensor:
    """Take each image's tokens in this order, (N, ..., C) and (L,) -> (N, ..., C)."""
    if x.shape[0] > 1:  # all images' tokens in one row: along the first axis it takes half as long
        images = torch.arange(x.shape[0], device=x.device) * order.shape[0]
        order = (images[:, None] + order).view(-1)
    return x.reshape(-1, x.shape[-1]).index_select(0, order).view(x.shape)


def _moves(blocks: Sequence[SwinBlock]) -> list[nn.Module]:
    """Return what takes tokens from the grid to the first block's windows, and on, and back again.

    Empty for grids that are padded: there windows hold more than the grid.
    """
    if any(any(block.padding) for block in blocks):
        return []
    (height, width), moves = blocks[0].grid, []
    now = tokens = torch.arange(height * width, device="cpu")
    for block in blocks:
        shifted = block.shifted(tokens.view(1, height, width, 1))
        after = to_windows(shifted, block.window).flatten()
        moves.append(_move(now, after))
        now = after
    return [*moves, _move(now, tokens)]


def _move(before: Tensor, after: Tensor) -> nn.Module:
    """Return what brings tokens from one order into another, (L,) each."""
    return nn.Identity() if torch.equal(before, after) else Reorder(before.argsort()[after])


class SwinStage(nn.Module):
    """Patch merging (but for the first stage), then blocks with and without shift in turns.

    Source: sec. 3.1, fig. 3 (a).
    """

    def __init__(self, index: int, grid: tuple[int, int], config: SwinConfig) -> None:
        super().__init__()
        width = config.embed_dim * 2**index
        first = sum(config.depths[:index])
        rates = drop_path_rates(config.drop_path, sum(config.depths))[first:]
        self.downsample = PatchMerging(width // 2, config) if index else nn.Identity()
        blocks = [
            SwinBlock(
                width,
                config.num_heads[index],
                grid,
                config.windows[index],
                shifted=block % 2 == 1,
                config=config,
                drop_path=rates[block],
            )
            for block in range(config.depths[index])
        ]
        self.blocks = nn.Sequential(*blocks)
        self.moves = nn.ModuleList(_moves(blocks))
        self.area = blocks[0].window[0] * blocks[0].window[1]  # tokens of a window
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage, (N, H, W, C) -> (N, H/2, W/2, 2C), the first one (N, H, W, C) -> same."""
        count = max(1, _PORTION_TOKENS // (x.shape[1] * x.shape[2]))
        if count < x.shape[0] and not torch.is_grad_enabled() and is_eager_cpu(x):
            return torch.cat([self.run(part) for part in x.split(count)])
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """Run the stage on all of `x` at once."""
        x = self.downsample(x)
        if self.moves and is_eager_cpu(x):
            return self._run_in_windows(x)
        for block in self.blocks:
            x = self._through(block, x)
        return x

    def _run_in_windows(self, x: Tensor) -> Tensor:
        """Do the same with one copy from each block's windows to the next one's, none to the grid.

        (N, H, W, C) -> (N, H, W, C).
        """
        grid, moves = x.shape, list(self.moves)
        x = x.reshape(grid[0], -1, self.area, grid[3])  # as yet row by row
        for block, move in zip(self.blocks, moves[:-1], strict=True):
            assert isinstance(block, SwinBlock)
            x = self._through(block.in_windows, move(x))
        out: Tensor = moves[-1](x)
        return out.view(grid)

    def _through(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run a block, keeping what its derivative needs or only its input."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, x, use_reentrant=False)
            return out
        return block(x)


class SwinHead(nn.Module):
    """Global average pooling, dropout and a linear layer.

    Source: sec. 3.1 and A2.1.
    """

    def __init__(self, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Pool the grid and classify, (N, H, W, C) -> (N, K), or (N, C) with `pre_logits`."""
        x = self.drop(x.mean((1, 2)))
        return x if pre_logits else self.fc(x)


class Swin(nn.Module):
    """The Swin Transformer image classifier.

    Args:
        config: Its shape.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config, self.num_classes = config, config.num_classes
        patch = (config.patch_size, config.patch_size)
        norm = nn.LayerNorm(config.embed_dim, config.norm_eps)
        self.patch_embed = PatchEmbed(
            config.img_size, patch, patch, config.in_chans, config.embed_dim, norm=norm
        )
        grid, stages = self.patch_embed.grid_size, []
        for index in range(len(config.depths)):
            grid = (-(-grid[0] // 2), -(-grid[1] // 2)) if index else grid
            stages.append(SwinStage(index, grid, config))
        self.layers = nn.Sequential(*stages)
        self.num_features = config.embed_dim * 2 ** (len(config.depths) - 1)
        self.head_hidden_size = self.num_features
        self.norm = nn.LayerNorm(self.num_features, config.norm_eps)
        self.head = SwinHead(self.num_features, config.num_classes, config.head_dropout)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's tokens, (N, 3, H, W) -> (N, H/32, W/32, 8C)."""
        x = self.layers(self.patch_embed(x))
        out: Tensor = self.norm(x)
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify tokens, (N, H/32, W/32, 8C) -> (N, K), or pool them only, -> (N, 8C)."""
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, (N, 3, H, W) -> (N, K)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the layer that makes logits."""
        return self.head.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, random classifier in place of the old one; 0 classes for none.

        It starts as torch starts a linear layer: as narrow as the other layers it learns later.
        """
        like = self.norm.weight
        self.num_classes = num_classes
        self.head.fc = nn.Identity()
        if num_classes:
            self.head.fc = nn.Linear(self.num_features, num_classes).to(like.device, like.dtype)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that weight decay must leave alone: the bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("bias_table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that put parameters in order of depth: stem, blocks (or stages), head."""
        fine = [
            (r"^layers\.(\d+).downsample", (0,)),
            (r"^layers\.(\d+)\.\w+\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": r"^layers\.(\d+)" if coarse else fine}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input for the backward pass and compute the rest again."""
        for stage in self.layers:
            assert isinstance(stage, SwinStage)
            stage.grad_checkpointing = enable
