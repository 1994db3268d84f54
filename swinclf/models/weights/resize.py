"""Resizing of position tables to another grid of patches or another window, as timm does it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(
    table: Tensor,
    grid: tuple[int, int],
    prefix: int,
    *,
    smooth: bool = True,
) -> Tensor:
    """Resize a table of position embeddings like an image, channel by channel.

    Args:
        table: Positions, (1, P + h * w, C).
        grid: New grid of patches (rows, columns).
        prefix: Number P of positions of tokens that are not patches; they are not changed.
        smooth: Bicubic with anti-aliasing; otherwise bilinear without, as for Google's files.

    Returns:
        Positions, (1, P + new h * new w, C).

    Raises:
        ValueError: If the patches of the table do not form a square.

    Source: An Image is Worth 16x16 Words, Dosovitskiy et al. 2021, sec. 3.2.
    """
    count = table.shape[1] - prefix
    side = round(max(count, 0) ** 0.5)
    if side * side != count:
        raise ValueError(f"{count} positions make no grid of {side} x {side}")
    patches = table[:, prefix:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    mode = "bicubic" if smooth else "bilinear"
    patches = F.interpolate(patches, size=grid, mode=mode, antialias=smooth)  # (1, C, h, w)
    patches = patches.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat((table[:, :prefix], patches), dim=1)


def resize_bias_table(table: Tensor, window: tuple[int, int], entries: int) -> Tensor:
    """Resize a table of relative position biases to another window.

    A trained table changes quickly near offset 0 and slowly far from it. So the old entries are
    spread at geometrically growing distances over the new window, and the new entries are
    interpolated between them.

    Args:
        table: Biases, (offsets + extra, heads), of a square window.
        window: Rows and columns of the new window, tokens.
        entries: Rows of the new table, with the extra ones.

    Returns:
        Biases, (entries, heads).

    Raises:
        ValueError: If the offsets of `table` do not form a square.

    Source: BEiT, Bao et al. 2022, the published fine-tuning code (geometric interpolation).
    """
    new = (2 * window[0] - 1, 2 * window[1] - 1)
    extra = entries - new[0] * new[1]
    count = table.shape[0] - extra
    side = round(max(count, 0) ** 0.5)
    if side * side != count or side % 2 == 0:
        raise ValueError(f"{count} offsets are not those of a square window")
    if (side, side) == new:
        return table
    down, across = (torch.from_numpy(_between(side, size)) for size in new)
    biases = table[:count].float().t().unflatten(1, (side, side))  # (heads, side, side)
    biases = down @ biases @ across.t()  # (heads, new, new)
    return torch.cat((biases.flatten(1).t().to(table.dtype), table[count:]), dim=0)


def _between(old: int, new: int) -> np.ndarray:
    """Return (new, old) interpolation weights from geometric to uniform positions."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1 - ratio ** (old // 2)) / (1 - ratio)
        low, high = (low, ratio) if reach > new // 2 else (ratio, high)
    reached = np.cumsum([ratio**step for step in range(old // 2)])
    positions = np.concatenate((-reached[::-1], [0.0], reached))
    targets = np.arange(new) - new // 2
    weights = [np.interp(targets, positions, unit) for unit in np.eye(old)]
    return np.stack(weights, axis=1).astype(np.float32)
