"""Figures of a network's attention and of the evidence for its prediction.

Draws results of `attention`; computes nothing of the network itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from torch import Tensor

from swinclf.data.loader import evenly_spaced
from swinclf.explain import drawing
from swinclf.explain.attention import BlockAttention, Evidence
from swinclf.explain.drawing import Map, Pixels
from swinclf.reporter import format_percent
from swinclf.reporting.charts import (
    EMPTY_CELL,
    GRID,
    INK,
    MUTED,
    TRAIN_COLOUR,
    VAL_COLOUR,
    open_frame,
    save_png,
)

VIT_MAPS = 4  # blocks and heads shown
BARS = 5  # classes shown


def draw_vit_attention(
    found: Sequence[BlockAttention],
    followed: Tensor,
    pixels: Pixels,
    path: Path,
    *,
    reader: str,
    about: str,
) -> None:
    """Draw a ViT's rollout, (h, w), the attention of blocks and heads, and attention distances.

    `reader` is the pooled token, whose attention is shown, in words.
    """
    figure = drawing.new_figure(
        11,
        8.6,
        f"Attention of the {reader}",
        "Relative to a uniform share, which is 1: orange tokens receive more, purple ones less. "
        f"A square is a patch.\n{about}",
    )
    blocks = evenly_spaced(range(len(found)), VIT_MAPS)
    heads = enumerate(found[-1].received[:VIT_MAPS], start=1)
    rows = GridSpec(3, 1, figure=figure)
    _draw_overview(figure, rows[0], pixels, followed, found)
    maps = [(f"block {n + 1}, mean of heads", found[n].received.mean(0)) for n in blocks]
    _draw_row(figure, rows[1], pixels, maps)
    maps = [(f"block {len(found)}, head {number}", head) for number, head in heads]
    _draw_row(figure, rows[2], pixels, maps)
    save_png(figure, path)


def draw_swin_attention(
    found: Sequence[BlockAttention], followed: Tensor, pixels: Pixels, path: Path, *, about: str
) -> None:
    """Draw a Swin's rollout, (h, w), the attention in windows by stage, and attention distances."""
    last = {(one.stage, one.is_shifted): one.received.mean(0) for one in found}
    stages = sorted({one.stage for one in found})
    kinds = [[(stage, is_shifted) for stage in stages] for is_shifted in (False, True)]
    if len(stages) <= 2:  # both kinds of windows fit into one row
        kinds = [kinds[0] + kinds[1]]
    columns = max(3, len(kinds[0]))
    side = max(2.75, 11 / columns)  # of a map, inches
    figure = drawing.new_figure(
        side * columns,
        side * (1 + len(kinds)) + 0.35,
        "Attention inside the windows",
        "Relative to a uniform share in a window, which is 1: orange tokens receive more, purple "
        "ones less. A square is a token.\nThe last block of each stage with regular windows, and "
        f"the last one with shifted windows.\n{about}",
    )
    rows = GridSpec(1 + len(kinds), 1, figure=figure)
    _draw_overview(figure, rows[0], pixels, followed, found)
    for row, wanted in enumerate(kinds, start=1):
        maps: list[tuple[str, Tensor | None]] = []
        for stage, is_shifted in wanted:
            kind, received = "shifted" if is_shifted else "regular", last.get((stage, is_shifted))
            label = kind if received is not None else f"no {kind} windows"
            maps.append((f"stage {stage + 1}, {label}", received))
        _draw_row(figure, rows[row], pixels, maps)
    save_png(figure, path)


def _draw_overview(
    figure: Figure,
    row: SubplotSpec,
    pixels: Pixels,
    followed: Tensor,
    found: Sequence[BlockAttention],
) -> None:
    """Draw the image, the rollout and the attention distances in a row."""
    cells = row.subgridspec(1, 3, width_ratios=[1, 1, 1.8])
    image, over, distances = (figure.add_subplot(cells[column]) for column in range(3))
    drawing.show_image(image, pixels, "the image")
    shares = _array(followed) * followed.numel()
    norm = drawing.ratio_norm([shares])
    shown = drawing.show_map(over, pixels, shares, "rollout of all blocks, x uniform share", norm)
    drawing.colour_bar_below(figure, shown, over)
    _draw_distances(distances, found)


def _draw_row(
    figure: Figure, row: SubplotSpec, pixels: Pixels, maps: Sequence[tuple[str, Tensor | None]]
) -> None:
    """Draw labelled maps with a common scale, whose colour bar is at the end of the row.

    The label of a map that there is not is written instead.
    """
    arrays = [None if values is None else _array(values) for _, values in maps]
    drawn = [values for values in arrays if values is not None]
    cells = row.subgridspec(1, len(maps) + 1, width_ratios=[1] * len(maps) + [0.045])
    norm = drawing.ratio_norm(drawn) if drawn else None
    image = None
    for column, ((label, _), values) in enumerate(zip(maps, arrays, strict=True)):
        axes = figure.add_subplot(cells[column])
        if values is None or norm is None:
            drawing.write_instead(axes, label.replace(", ", ":\n"))
        else:
            image = drawing.show_map(axes, pixels, values, label, norm)
    if image is not None:
        drawing.colour_bar_in(figure, image, figure.add_subplot(cells[-1]), "x uniform share")


def _draw_distances(axes: Axes, found: Sequence[BlockAttention]) -> None:
    """Draw the mean attention distance of each head of each block, as points."""
    for number, one in enumerate(found, start=1):
        distances = one.distance_px.numpy()
        colour, mark = (VAL_COLOUR, "^") if one.is_shifted else (TRAIN_COLOUR, "o")
        label = "shifted" if one.is_shifted else "regular"
        first = all(other.is_shifted != one.is_shifted for other in found[: number - 1])
        axes.scatter(np.full(len(distances), number), distances, s=16, color=colour, marker=mark,
                     alpha=0.7, lw=0, label=label if first else None)  # fmt: skip
    open_frame(axes)
    axes.tick_params(labelsize=8, colors=MUTED, length=2)
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.set_ylim(0, 1.1 * max(float(one.distance_px.max()) for one in found) or 1)
    axes.set_xticks(range(1, len(found) + 1, max(1, len(found) // 12)))
    axes.set_xlabel("block", color=MUTED, fontsize=9)
    axes.set_ylabel("pixels", color=MUTED, fontsize=9)
    axes.set_title("mean attention distance of each head", color=INK, fontsize=10, loc="left",
                   pad=4)  # fmt: skip
    if any(one.is_shifted for one in found):
        axes.legend(frameon=False, fontsize=9, labelcolor=MUTED)


def draw_evidence(
    found: Evidence,
    probabilities: npt.NDArray[np.float32],
    classes: Sequence[str],
    pixels: Pixels,
    path: Path,
    *,
    about: str,
) -> None:
    """Draw the evidence for the predicted class by cell and by pixel, and the top classes.

    `probabilities` are those of all classes, (K,).
    """
    name, families = drawing.class_text(classes[found.target], found.target)
    figure = drawing.new_figure(
        12,
        3.6,
        f"Evidence for {name} ({format_percent(probabilities[found.target], 0)})",
        f"By {found.units}: gradient x activation of the {found.where}; orange supports the "
        "class, purple opposes it. By pixels: where a small change would\nchange the score most "
        "(gradient, averaged over noisy copies). The score: the class's logit minus the mean logit."
        f"\n{about}",
    )
    figure.texts[0].set_fontfamily(families)
    image, tokens, by_pixel, bars = figure.subplots(1, 4)
    drawing.show_image(image, pixels, "the image")
    cells = _array(found.cells)
    shown = drawing.show_map(
        tokens, pixels, cells, f"by {found.units}, logits", drawing.signed_norm(cells)
    )
    drawing.colour_bar_below(figure, shown, tokens)
    slopes = _array(found.pixels)
    slopes = slopes / max(float(slopes.mean()), 1e-12)
    shown = drawing.show_map(
        by_pixel, pixels, slopes, "by pixels, x mean gradient", drawing.heat_norm(slopes)
    )
    drawing.colour_bar_below(figure, shown, by_pixel)
    _draw_bars(bars, probabilities, classes)
    save_png(figure, path)


def _draw_bars(axes: Axes, probabilities: npt.NDArray[np.float32], classes: Sequence[str]) -> None:
    """Draw the most probable classes, named above their bars."""
    order = np.argsort(-probabilities, kind="stable")[:BARS].tolist()
    for row, index in enumerate(order):
        share = float(probabilities[index])
        colour = VAL_COLOUR if row == 0 else TRAIN_COLOUR
        axes.barh(row, 1, height=0.32, color=EMPTY_CELL)
        axes.barh(row, share, height=0.32, color=colour)
        text, families = drawing.class_text(classes[index], index, 20)
        axes.text(0, row - 0.22, text, fontsize=9, color=INK, va="bottom", parse_math=False,
                  fontfamily=families)  # fmt: skip
        axes.text(1, row - 0.22, format_percent(share), fontsize=9, color=INK, va="bottom",
                  ha="right")  # fmt: skip
    axes.set_ylim(len(order) - 0.5, -0.75)
    axes.set_xlim(0, 1)
    axes.set_axis_off()
    axes.set_title("most probable classes", color=INK, fontsize=10, loc="left", pad=4)


def _array(values: Tensor) -> Map:
    array: Map = values.detach().numpy().astype(np.float64)
    return array
