"""Position embeddings: relative position biases, and fixed ones of sines and cosines.

Shape letters: h x w patches, T tokens, C channels, A heads, M the side of a window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def gather_bias(table: Tensor, index: Tensor) -> Tensor:
    """Return each head's bias for each pair of tokens, (offsets, A), (T, T) -> (A, T, T)."""
    bias: Tensor = table.t().index_select(1, index.view(-1)).unflatten(1, index.shape)
    return bias


class RelativePosition(nn.Module):
    """A learned bias for each head and each offset between two patches.

    Tokens before the patches have no position; three more entries are for attention to, from and
    among them.

    Source: Swin Transformer, Liu et al. 2021, sec. 3.2; the three entries as in BEiT, Bao et al.
    2022.
    """

    relative_position_index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int, prefix: int) -> None:
        super().__init__()
        offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        index = F.pad(relative_position_index(grid), (prefix, 0, prefix, 0))
        index[:prefix, :], index[:, :prefix] = offsets, offsets + 1
        index[:prefix, :prefix] = offsets + 2
        self.window_size = grid
        entries = offsets + 3 if prefix else offsets
        self.relative_position_bias_table = nn.Parameter(torch.empty(entries, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self) -> Tensor:
        """Return the bias of each head's scores, (A, T, T)."""
        return gather_bias(self.relative_position_bias_table, self.relative_position_index)


def sincos_2d(grid: tuple[int, int], width: int) -> Tensor:
    """Return fixed position embeddings, (1, h * w, C): sine and cosine of row and column.

    Args:
        grid: Patches down and across.
        width: Channels C, a multiple of 4: a quarter each for sin and cos of column and row.

    Source: Attention Is All You Need, Vaswani et al. 2017, sec. 3.5; in two dimensions as in
    MoCo v3, Chen, Xie & He 2021, sec. 5.
    """
    rows, columns = torch.meshgrid(
        torch.arange(float(grid[0])), torch.arange(float(grid[1])), indexing="ij"
    )
    rates = 10000.0 ** -(torch.arange(float(width // 4)) / (width // 4))
    angles = [axis.flatten()[:, None] * rates for axis in (columns, rows)]  # (h * w, C / 4) each
    waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)[None]
