"""Figures of a network's structure: patches, position embeddings, windows, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, TwoSlopeNorm, to_rgb
from matplotlib.patches import Rectangle
from numpy import typing as npt
from torch import Tensor

from swinclf.data.loader import evenly_spaced
from swinclf.explain import drawing
from swinclf.explain.attention import swin_blocks
from swinclf.explain.drawing import Pixels
from swinclf.models.swin import Swin, SwinBlock, from_windows
from swinclf.models.vit import ViT
from swinclf.reporting.charts import GRID, INK, MUTED, save_png

APART_UP_TO = 16  # patches per side that are drawn separately; of more, the central ones
SMALL_MAPS = 7  # similarity maps per side
HEADS_SHOWN = 8
# Tokens that the cyclic shift moves: rows, columns, both. Okabe & Ito's colours.
TINTS = ("#e69f00", "#56b4e9", "#009e73")
Labels = npt.NDArray[np.int64]


def draw_patches(network: ViT | Swin, pixels: Pixels, path: Path, *, about: str) -> None:
    """Draw the image, (H, W, 3), with its grid of patches, and the patches separately."""
    embed = network.patch_embed
    (rows, columns), side = embed.grid_size, embed.patch_size[0]
    numbers = side * side * 3
    figure = drawing.new_figure(
        10,
        4.7,
        f"The image cut into patches of {side} x {side} pixels",
        f"{rows} x {columns} = {embed.num_patches:,} patches. Each is {side} x {side} px x 3 "
        f"colours = {numbers:,} numbers, and becomes a token of {embed.proj.out_channels} channels."
        f"\n{about}",
    )
    left, right = figure.subplots(1, 2)
    drawing.show_image(left, pixels, f"{pixels.shape[0]} x {pixels.shape[1]} px")
    width = 0.7 if rows <= 32 else 0.3
    for row in range(rows + 1):
        left.axhline(row * side - 0.5, color="white", lw=width, alpha=0.8)
    for column in range(columns + 1):
        left.axvline(column * side - 0.5, color="white", lw=width, alpha=0.8)
    shown = (min(rows, APART_UP_TO), min(columns, APART_UP_TO))
    first = ((rows - shown[0]) // 2, (columns - shown[1]) // 2)
    _draw_apart(right, pixels, first, shown, side)
    all_shown = shown == (rows, columns)
    label = "apart" if all_shown else f"the middle {shown[0]} x {shown[1]} apart"
    drawing.strip_axes(right, label)
    if not all_shown:
        corner = (first[1] * side - 0.5, first[0] * side - 0.5)
        box = (shown[1] * side, shown[0] * side)
        for colour, line in (("white", 3.5), (INK, 1.5)):
            left.add_patch(Rectangle(corner, *box, fill=False, ec=colour, lw=line))
    save_png(figure, path)


def _draw_apart(
    axes: Axes, pixels: Pixels, first: tuple[int, int], shown: tuple[int, int], side: int
) -> None:
    gap = max(1, round(side / 6))
    cell = side + gap
    sheet = np.full((shown[0] * cell + gap, shown[1] * cell + gap, 3), 255, np.uint8)
    for row in range(shown[0]):
        for column in range(shown[1]):
            y, x = (first[0] + row) * side, (first[1] + column) * side
            top, left = gap + row * cell, gap + column * cell
            sheet[top : top + side, left : left + side] = pixels[y : y + side, x : x + side]
    axes.imshow(sheet, interpolation="nearest")


def draw_positions(network: ViT | Swin, path: Path, *, about: str) -> None:
    """Draw the similarity of a ViT's position embeddings, or a Swin's relative position bias.

    Source: Dosovitskiy et al. 2021, fig. 7 (centre); Liu et al. 2021, sec. 3.2.
    """
    if isinstance(network, Swin):
        _draw_bias_tables(network, path, about)
        return
    rows, columns = network.patch_embed.grid_size
    unit = F.normalize(network.pos_embed.detach()[0, -rows * columns :], dim=1)
    _draw_similarity((unit @ unit.t()).view(rows, columns, rows, columns), path, about)


def _draw_similarity(alike: Tensor, path: Path, about: str) -> None:
    """Draw, for some patches, the similarity of their positions to all others', (h, w, h, w)."""
    rows, columns = alike.shape[:2]
    at_rows, at_columns = (evenly_spaced(range(n), SMALL_MAPS) for n in (rows, columns))
    figure = drawing.new_figure(
        7.6,
        6.6,
        "Similarity of the position embeddings",
        f"Maps for {len(at_rows)} x {len(at_columns)} of the {rows} x {columns} patches, each "
        "marked by the ring: the cosine\nsimilarity of its position embedding with that of every "
        f"other patch.\n{about}",
    )
    grid = figure.subplots(len(at_rows), len(at_columns), squeeze=False)
    lowest = float(alike.min())
    norm = TwoSlopeNorm(0, -1, 1) if lowest < 0 else Normalize(lowest, 1)
    colours = drawing.SIGNED if lowest < 0 else drawing.HEAT
    image = None
    for axes_row, row in zip(grid, at_rows, strict=True):
        for axes, column in zip(axes_row, at_columns, strict=True):
            values = alike[row, column].numpy()
            image = axes.imshow(values, cmap=colours, norm=norm)
            for colour, size in (("white", 8.5), (INK, 6.5)):
                axes.plot(column, row, "o", mfc="none", mec=colour, ms=size, mew=1.2, clip_on=False)
            drawing.strip_axes(axes)
        axes_row[0].set_ylabel(f"row {row + 1}", color=MUTED, fontsize=9)
    for axes, column in zip(grid[-1], at_columns, strict=True):
        axes.set_xlabel(f"column {column + 1}", color=MUTED, fontsize=9)
    assert image is not None
    drawing.colour_bar(figure, image, list(grid.ravel()), "cosine similarity")
    save_png(figure, path)


def _draw_bias_tables(network: Swin, path: Path, about: str) -> None:
    """Draw the tables of some heads of each stage's last block, one row per stage."""
    tables = []
    for stage in network.layers:
        attention = swin_blocks(stage)[-1].attn
        table = attention.relative_position_bias_table.detach().t()  # (A, offsets)
        down, across = (2 * side - 1 for side in attention.window_size)
        tables.append(table.reshape(-1, down, across))
    columns = min(HEADS_SHOWN, max(map(len, tables)))
    figure = drawing.new_figure(
        max(1.3 + 1.25 * columns, 6.5),
        1.45 * len(tables),
        "Relative position bias",
        "Bias that each head adds to the score of a query in the centre and a key at that offset,\n"
        f"in each stage's last block; up to {HEADS_SHOWN} heads.\n{about}",
    )
    grid = figure.subplots(len(tables), columns, squeeze=False)
    for number, (axes_row, table) in enumerate(zip(grid, tables, strict=True), start=1):
        norm = drawing.signed_norm(table[:columns].numpy().astype(np.float64))
        heads = len(table)
        image = None
        for head, axes in enumerate(axes_row):
            if head >= heads:
                axes.set_axis_off()
                continue
            image = axes.imshow(table[head].numpy(), cmap=drawing.SIGNED, norm=norm)
            middle = ((table.shape[2] - 1) / 2, (table.shape[1] - 1) / 2)
            axes.plot(*middle, "o", mfc="none", mec=INK, ms=4, mew=0.9)
            drawing.strip_axes(axes, f"head {head + 1}")
        offsets = f"{table.shape[1]} x {table.shape[2]} offsets"
        axes_row[0].set_ylabel(f"stage {number}\n{heads} heads\n{offsets}", color=INK, fontsize=9)
        assert image is not None
        drawing.colour_bar(figure, image, list(axes_row), "bias")
    save_png(figure, path)


def draw_windows(network: Swin, pixels: Pixels, path: Path, *, about: str) -> None:
    """Draw each stage's windows, how they are shifted, and which pairs the masks separate.

    Source: Liu et al. 2021, figs. 2 and 4.
    """
    stages = [swin_blocks(stage) for stage in network.layers]
    padded = any(any(block.padding) for blocks in stages for block in blocks)
    padding = (
        "\nHatched: padding to whole windows. It is added after the shift, so the mask falls on "
        "it, and tokens that are shifted around are not separated from their new neighbours."
        if padded
        else ""
    )
    figure = drawing.new_figure(
        11,
        2.95 * len(stages),
        "Windows, shifted windows, and masks",
        "Attention stays inside the boxes. Every other block shifts the grid; the tinted tokens "
        "move around to the other side, and a mask separates\nwindows along the dashed lines. A "
        "dark cell of a mask means that this query (row) cannot attend to this key (column)."
        f"{padding}\n{about}",
    )
    grid = figure.subplots(len(stages), 4, squeeze=False)
    for number, (axes_row, blocks) in enumerate(zip(grid, stages, strict=True), start=1):
        rows, columns = blocks[0].grid
        _draw_unshifted(axes_row[0], blocks[0], pixels)
        label = f"stage {number}: {rows} x {columns} tokens"
        axes_row[0].set_ylabel(label, color=INK, fontsize=10)
        shifted = next((block for block in blocks if any(block.shift)), None)
        if shifted is not None:
            _draw_shifted(axes_row[1:], shifted, pixels)
        else:
            is_one = blocks[0].grid == blocks[0].window
            why = "the grid is one window:\nnothing to shift or mask"
            drawing.write_instead(axes_row[1], why if is_one else "no block is shifted")
            for axes in axes_row[2:]:
                axes.set_axis_off()
    save_png(figure, path)


def _draw_unshifted(axes: Axes, block: SwinBlock, pixels: Pixels) -> None:
    ids = _window_ids(block)
    _draw_image(axes, pixels, block.grid)
    _draw_padding(axes, block)
    _draw_borders(axes, ids)
    count = int(ids.max()) + 1
    windows = f"{count} windows" if count > 1 else "1 window"
    drawing.strip_axes(axes, f"{windows} of {block.window[0]} x {block.window[1]} tokens")


def _draw_shifted(axes_row: npt.NDArray[np.object_], block: SwinBlock, pixels: Pixels) -> None:
    """Draw shifted windows in the image, as they are computed, and the masks."""
    in_image, turned, masks = axes_row
    (rows, columns), (down, across) = block.grid, block.shift
    ids = _window_ids(block)
    moved = (np.arange(rows) < down)[:, None] + 2 * (np.arange(columns) < across)[None, :]
    _draw_image(in_image, pixels, block.grid)
    _draw_tints(in_image, moved)
    _draw_borders(in_image, np.roll(ids[:rows, :columns], block.shift, (0, 1)))
    drawing.strip_axes(in_image, f"shifted by {down}, {across} tokens")
    step = pixels.shape[0] / rows, pixels.shape[1] / columns
    back = (-round(down * step[0]), -round(across * step[1]))
    _draw_image(turned, np.roll(pixels, back, (0, 1)), block.grid)
    _draw_tints(turned, np.roll(moved, (-down, -across), (0, 1)))
    _draw_padding(turned, block)
    _draw_borders(turned, ids)
    for draw, size, offset in (
        (turned.axhline, ids.shape[0], down),
        (turned.axvline, ids.shape[1], across),
    ):
        if offset:
            draw(size - offset, color="white", lw=2.4)
            draw(size - offset, color=INK, lw=1.3, ls=(0, (2, 1.5)))
    drawing.strip_axes(turned, "as computed: cyclically shifted")
    _draw_masks(masks, block)


def _window_ids(block: SwinBlock) -> Labels:
    """Return the window of each token of the padded grid as computed, (rows, columns)."""
    sizes = [size + more for size, more in zip(block.grid, block.padding, strict=True)]
    down, across = (size // side for size, side in zip(sizes, block.window, strict=True))
    each = torch.arange(down * across)[None, :, None, None]
    windows = each.expand(1, -1, block.window[0] * block.window[1], 1)
    ids: Labels = from_windows(windows, block.window, (sizes[0], sizes[1]))[0, :, :, 0].numpy()
    return ids


def _draw_image(axes: Axes, pixels: Pixels, grid: tuple[int, int]) -> None:
    """Draw the image in pale colours, with a token as the unit of length."""
    pale = 255 - (255 - pixels.astype(np.float64)) * 0.75
    extent = (0.0, float(grid[1]), float(grid[0]), 0.0)
    axes.imshow(pale.astype(np.uint8), extent=extent, interpolation="antialiased")


def _draw_tints(axes: Axes, moved: Labels) -> None:
    """Tint tokens that the shift moves: 1 rows, 2 columns, 3 both."""
    tints = np.zeros((*moved.shape, 4))
    for number, colour in enumerate(TINTS, start=1):
        tints[moved == number] = (*to_rgb(colour), 0.6)
    axes.imshow(tints, extent=(0, moved.shape[1], moved.shape[0], 0), interpolation="nearest")


def _draw_borders(axes: Axes, ids: Labels) -> None:
    """Draw a line wherever two neighbouring tokens are in different windows, and a frame."""
    lines = [((x, y + 1), (x + 1, y + 1)) for y, x in np.argwhere(ids[1:] != ids[:-1])]
    lines += [((x + 1, y), (x + 1, y + 1)) for y, x in np.argwhere(ids[:, 1:] != ids[:, :-1])]
    for colour, width in (("white", 2.6), (INK, 1.2)):
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width))
    axes.set_xlim(0, ids.shape[1])
    axes.set_ylim(ids.shape[0], 0)


def _draw_padding(axes: Axes, block: SwinBlock) -> None:
    (rows, columns), (down, across) = block.grid, block.padding
    for x, y, width, height in ((0, rows, columns + across, down), (columns, 0, across, rows)):
        if width and height:
            axes.add_patch(
                Rectangle((x, y), width, height, fc="white", ec=GRID, hatch="////", lw=0)
            )


def _draw_masks(axes: Axes, block: SwinBlock) -> None:
    """Draw the masks of four windows: the first, the first row's and column's last, the last."""
    assert block.attn_mask is not None
    sizes = [size + more for size, more in zip(block.grid, block.padding, strict=True)]
    down, across = (size // side for size, side in zip(sizes, block.window, strict=True))
    chosen = {"inside": 0, "right edge": across - 1, "bottom edge": (down - 1) * across}
    chosen["corner"] = down * across - 1
    area = block.attn_mask.shape[-1]
    gap = max(1, area // 12)
    sheet = np.full((2 * area + 2 * gap, 2 * area + gap), np.nan)
    for position, (name, window) in enumerate(chosen.items()):
        y, x = (position // 2) * (area + 2 * gap), (position % 2) * (area + gap)
        sheet[y : y + area, x : x + area] = block.attn_mask[window].numpy() < 0
        axes.text(x, y - gap * 0.3, name, fontsize=8, color=MUTED, va="bottom")
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), area, area, fill=False, ec=MUTED, lw=0.6))
    axes.imshow(sheet, cmap="Blues", vmin=0, vmax=1.15, interpolation="nearest")
    axes.set_xlim(-1, 2 * area + gap)
    axes.set_ylim(2 * area + 2 * gap, -2 * gap)
    axes.set_axis_off()
    axes.set_title(f"masks, {area} x {area}", color=INK, fontsize=10, loc="left", pad=4)
