"""Swin Transformer, in the order of its paper: the network, its stages, blocks, windows, attention.

A plain reference implementation; `models/accelerated` computes the same faster. Parameters are
named as in timm, so state dicts are interchangeable.

Shape letters: N images, H and W tokens down and across (H x W pixels on the way in), C channels,
B windows of an image, T = M * M tokens of a window, A heads, E channels of a head, K classes.

Equations and figures of the paper:

    fig. 1 (a)  hierarchical feature maps             Swin.forward_features
    fig. 2      windows, regular and shifted          to_windows, SwinBlock.shifted
    fig. 3 (a)  architecture                          Swin, SwinStage, PatchMerging
    fig. 3 (b)  two successive blocks                 SwinBlock, alternating in SwinStage
    fig. 4      cyclic shift and masked attention     SwinBlock.attend, shift_mask
    eqs. 1, 2   multiply-adds of MSA and W-MSA        complexity.py: _vit_parts, _swin_block
    eq. 3       block with W-MSA, block with SW-MSA   SwinBlock.forward
    eq. 4       attention with position bias          WindowAttention.attend
    sec. 3.3    variants Swin-T, S, B and L           registry.json

Source: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, Liu et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.models.layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    drop_path_rates,
    init_linear,
    merge_heads,
    split_heads,
)

# Added to the score of tokens that are neighbours only by the cyclic shift; 0 after the softmax.
# The -100 of the published code leaves 1e-44, a denormal number, with which a CPU computes slowly.
MASKED = -1000.0


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer's shape. The defaults are Swin-T."""

    img_size: tuple[int, int] = (224, 224)
    """Height and width of the images, pixels."""
    patch_size: int = 4
    """Side of a patch, pixels."""
    num_classes: int = 1000
    """Classes K of the head; 0 builds none."""
    embed_dim: int = 96
    """Channels C of the first stage; each later stage has twice as many."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Heads of each stage's attention."""
    window_size: int | tuple[int, ...] = 7
    """Side M of a window, tokens: one for all stages, or one per stage."""
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


class Swin(nn.Module):
    """Swin Transformer image classifier: sec. 3.1, fig. 3 (a)."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config, self.num_classes = config, config.num_classes
        norm = nn.LayerNorm(config.embed_dim, config.norm_eps)
        self.patch_embed = PatchEmbed(
            config.img_size, config.patch_size, config.embed_dim, norm=norm
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
        x = self.patch_embed(x)  # (N, 3, H, W) -> (N, H/4, W/4, C)
        x = self.layers(x)  # -> (N, H/32, W/32, 8C)
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
        """Return the layer that computes the logits."""
        return self.head.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one, initialised by torch's default; 0 for none."""
        self.num_classes, self.head.fc = num_classes, nn.Identity()
        if num_classes:
            self.head.fc = nn.Linear(self.num_features, num_classes).to(self.norm.weight)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters excluded from weight decay: the bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("bias_table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group parameters by depth: stem, blocks (or stages), head."""
        fine = [
            (r"^layers\.(\d+).downsample", (0,)),
            (r"^layers\.(\d+)\.\w+\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": r"^layers\.(\d+)" if coarse else fine}


class SwinHead(nn.Module):
    """Global average pooling, dropout and a linear layer: sec. 3.1 and A2.1."""

    def __init__(self, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Pool the grid and classify, (N, H, W, C) -> (N, K), or (N, C) with `pre_logits`."""
        x = self.drop(x.mean((1, 2)))
        return x if pre_logits else self.fc(x)


class SwinStage(nn.Module):
    """Patch merging (except in the first stage), then blocks, alternately without and with shift.

    Source: sec. 3.1, fig. 3 (a).
    """

    def __init__(self, index: int, grid: tuple[int, int], config: SwinConfig) -> None:
        super().__init__()
        width = config.embed_dim * 2**index
        first = sum(config.depths[:index])
        rates = drop_path_rates(config.drop_path, sum(config.depths))[first:]
        self.downsample = PatchMerging(width // 2, config) if index else nn.Identity()
        shape = (width, config.num_heads[index], grid, config.windows[index])
        self.blocks = nn.Sequential()
        for block in range(config.depths[index]):
            shifted, rate = block % 2 == 1, rates[block]
            self.blocks.append(SwinBlock(*shape, shifted=shifted, config=config, drop_path=rate))

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage, (N, H, W, C) -> (N, H/2, W/2, 2C); the first one keeps the shape."""
        out: Tensor = self.blocks(self.downsample(x))
        return out


class PatchMerging(nn.Module):
    """Linear map of every 2 x 2 concatenated tokens to half the channels: sec. 3.1."""

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


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP, each after a norm and with a residual connection.

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
        offset = window // 2 if shifted else 0
        self.shift = (offset if grid[0] > window else 0, offset if grid[1] > window else 0)
        self.padding = (-grid[0] % self.window[0], -grid[1] % self.window[1])
        padded = (grid[0] + self.padding[0], grid[1] + self.padding[1])
        mask = shift_mask(padded, self.window, self.shift) if any(self.shift) else None
        self.register_buffer("attn_mask", mask, persistent=False)
        self.norm1 = nn.LayerNorm(width, config.norm_eps)
        self.attn = WindowAttention(width, heads, self.window, qkv_bias=config.qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, config.norm_eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens within windows, then channels, (N, H, W, C) -> (N, H, W, C)."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Shift, cut into windows, attend, join, shift back, (N, H, W, C) -> (N, H, W, C)."""
        x = self.shifted(x)
        padded = (x.shape[1], x.shape[2])
        windows = self.attn(to_windows(x, self.window), self.attn_mask)
        x = from_windows(windows, self.window, padded)[:, : self.grid[0], : self.grid[1]]
        return x.roll(self.shift, (1, 2)) if any(self.shift) else x

    def shifted(self, x: Tensor) -> Tensor:
        """Shift a grid cyclically and pad it to whole windows, (N, H, W, C) -> (N, H', W', C)."""
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        if any(self.padding):
            x = F.pad(x, (0, 0, 0, self.padding[1], 0, self.padding[0]))
        return x


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a grid of tokens into windows, (N, H, W, C) -> (N, B, T, C)."""
    n, height, width, channels = x.shape
    rows, columns = height // window[0], width // window[1]
    x = x.view(n, rows, window[0], columns, window[1], channels).transpose(2, 3)
    return x.reshape(n, rows * columns, window[0] * window[1], channels)


def from_windows(x: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Join windows to a grid, (N, B, T, C) -> (N, H, W, C)."""
    rows, columns = grid[0] // window[0], grid[1] // window[1]
    x = x.view(x.shape[0], rows, columns, window[0], window[1], x.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], grid[0], grid[1], x.shape[-1])


def shift_mask(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Return the mask for the scores of a shifted grid, (B, T, T): 0 or MASKED.

    The cyclic shift moves the first rows and columns behind the last ones. Tokens that are
    neighbours only by that must not attend to each other: they are numbered by region, and pairs
    from two regions are masked.

    Source: sec. 3.2, "Efficient batch computation for shifted configuration", fig. 4.
    """
    bands = []
    for size, side, offset in zip(grid, window, shift, strict=True):
        position = torch.arange(size)
        bands.append((position >= size - side).int() + (position >= size - offset).int())
    regions = bands[0][:, None] * 3 + bands[1][None, :]  # (H, W)
    windows = to_windows(regions[None, :, :, None], window)[0, :, :, 0]  # (B, T)
    apart = windows[:, :, None] != windows[:, None, :]  # (B, T, T)
    return torch.zeros(apart.shape).masked_fill(apart, MASKED)


def relative_position_index(window: tuple[int, int]) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window, (T, T).

    Entry (i, j) counts the offsets from token j to token i row by row, from (1 - M, 1 - M).
    M is `window` down and across.

    Source: Swin Transformer, Liu et al. 2021, sec. 3.2, "Relative position bias".
    """
    y, x = torch.arange(window[0]), torch.arange(window[1])
    dy = y[:, None] - y[None, :] + window[0] - 1  # (M, M), from 0 to 2M - 2
    dx = x[:, None] - x[None, :] + window[1] - 1
    index = dy[:, None, :, None] * (2 * window[1] - 1) + dx[None, :, None, :]  # (M, M, M, M)
    area = window[0] * window[1]
    return index.reshape(area, area)


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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the tokens of each window attend to each other, (N, B, T, C) -> (N, B, T, C).

        The mask, (B, T, T), is added to the scores.
        """
        out: Tensor = self.proj(self.attend(self.qkv(x), mask))
        return out

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax(q k' / sqrt(E) + bias) v, eq. 4, (N, B, T, 3C) -> (N, B, T, C)."""
        q, k, v = split_heads(qkv.flatten(0, 1), self.heads)  # (N * B, A, T, E) each
        bias = self.position_bias()[None]  # (1, A, T, T)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(qkv.shape[0], 1, 1, 1)  # (N * B, A, T, T)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        merged: Tensor = merge_heads(out).unflatten(0, qkv.shape[:2])
        return merged

    def position_bias(self) -> Tensor:
        """Return the bias of each head for each pair of tokens, (A, T, T)."""
        index, table = self.relative_position_index, self.relative_position_bias_table
        bias: Tensor = table.t().index_select(1, index.view(-1)).unflatten(1, index.shape)
        return bias
