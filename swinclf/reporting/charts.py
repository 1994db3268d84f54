"""The plots of an evaluation as PNG files: the confusion matrix and the training curves.

Knows matplotlib and metrics; knows nothing about networks or datasets. Does not use pyplot, whose
state belongs to the caller.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox

from swinclf.files import write_bytes
from swinclf.metrics import PROBE_NOTE, Metrics
from swinclf.reporter import format_percent
from swinclf.reporting.display_names import (
    DEFAULT_FAMILY,
    distinct_labels,
    families_for,
    shorten,
    spell_out,
    to_printable,
    wrap_label,
)

INK, MUTED, GRID = "#1c2430", "#5b6675", "#d5dae1"
TRAIN_COLOUR, VAL_COLOUR = "#0b5fa5", "#a94400"  # as in report.css, safe for colour blindness
EMPTY_CELL, EMPTY_ROW = "#f4f6f8", "#d9dce1"
MAX_CELLS = 1000  # a side of the matrix; with more classes a cell represents several
# Everything outside the axes is in the file too.
WITH_LABELS: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.2}
MAX_MARKED_EPOCHS = 40  # more markers would overlap


class _MatrixLayout(NamedTuple):
    """The sizes of a confusion matrix, which depend on its number of cells."""

    cell: float  # side of a cell in inches
    dpi: int  # pixels per inch
    font_size: float  # of the class names, in points
    name_columns: int  # longest line of a class name in text columns; two lines at most
    has_counts: bool  # whether cells show their counts
    has_shares: bool  # whether they also show their shares of the row


def _layout_for(side: int) -> _MatrixLayout:
    if side <= 25:
        return _MatrixLayout(min(max(4.5 / side, 0.5), 1.2), 150, 9, 40, True, True)
    if side <= 60:
        return _MatrixLayout(0.32, 150, 8, 40, True, False)
    if side <= 250:
        return _MatrixLayout(0.15, 100, 7.5, 26, False, False)
    return _MatrixLayout(0.03, 100, 7, 26, False, False)  # 3 pixels: a single mistake is visible


def draw_confusion_matrix(metrics: Metrics, path: Path) -> None:
    """Draw the confusion matrix: rows true, columns predicted, coloured by the share of the row.

    Cells show counts and percentages if they have room. A name that no installed font can draw is
    replaced by its class index, with a key below. Above 250 classes only some are named, above
    1000 a cell represents several neighbouring classes.
    """
    class_count = len(metrics.classes)
    block = math.ceil(class_count / MAX_CELLS)
    counts = _block_counts(metrics, block)
    side = len(counts)
    layout = _layout_for(side)
    figure = Figure(figsize=(side * layout.cell,) * 2, dpi=layout.dpi, facecolor="white")
    FigureCanvasAgg(figure)
    # The axes fill the figure; labels around them are added by the tight bounding box.
    axes = figure.add_axes((0, 0, 1, 1))
    image = _draw_cells(axes, counts, layout)
    step = _label_step(layout)
    shown = range(0, side, step)
    labels, key = _class_labels(metrics.classes, [i * block for i in shown], layout.name_columns)
    _label_axes(axes, list(shown), labels, layout)
    extent = axes.get_tightbbox()
    assert extent is not None  # None only for invisible axes
    inches = Bbox(extent.get_points() / layout.dpi)
    _draw_colour_bar(figure, image, left=inches.x1 + 0.2, top=side * layout.cell)
    _write_title(axes, metrics, block, has_empty_rows=bool((counts.sum(axis=1) == 0).any()))
    _write_key(figure, key, left=0, top=inches.y0 - 0.25, width=max(side * layout.cell, 6))
    save_png(figure, path, **WITH_LABELS)


def _block_counts(metrics: Metrics, block: int) -> npt.NDArray[np.int64]:
    """Return the confusion matrix with blocks of `block` neighbouring classes summed up."""
    side = math.ceil(len(metrics.classes) / block)
    counts = np.zeros((side, side), dtype=np.int64)
    true, pred, count = np.asarray(metrics.confusions, dtype=np.int64).T
    np.add.at(counts, (true // block, pred // block), count)
    return counts


def _draw_cells(axes: Axes, counts: npt.NDArray[np.int64], layout: _MatrixLayout) -> AxesImage:
    """Colour the cells by their share of the row and write counts where there is room."""
    row_sums = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(row_sums, 1)
    # The square root and a lightest blue that is not white make rare mistakes visible; the smaller
    # the cells, the darker it is.
    lightest = 0.22 if layout.has_counts else 0.3 if layout.cell > 0.1 else 0.5
    blues = matplotlib.colormaps["Blues"](np.linspace(lightest, 1, 256))
    colours = LinearSegmentedColormap.from_list("shares", blues)
    image = axes.imshow(
        np.ma.masked_equal(shares, 0),
        cmap=colours,
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        interpolation="nearest",
        aspect="auto",
    )
    axes.set_facecolor(EMPTY_CELL if layout.has_counts else "white")
    for row in np.flatnonzero(row_sums == 0):
        axes.axhspan(row - 0.5, row + 0.5, color=EMPTY_ROW, lw=0)
    every = 1 if layout.has_counts else 10
    lines = np.arange(every, len(counts), every) - 0.5
    colour = "white" if layout.has_counts else GRID
    for draw_line in (axes.axhline, axes.axvline):
        for at in lines:
            draw_line(at, color=colour, lw=0.8 if layout.has_counts else 0.5)
    if layout.has_counts:
        _write_counts(axes, counts, shares, layout)
    return image


def _write_counts(
    axes: Axes,
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    layout: _MatrixLayout,
) -> None:
    """Write counts, and percentages under them, into the cells that are not empty."""
    points = layout.cell * 72
    longest = max(len(short_count(count)) for count in np.unique(counts).tolist())
    size = min(12.0, points * 0.85 / (0.64 * max(longest, 2)))
    small = min(size * 0.75, points * 0.85 / (0.62 * 5))
    centred: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
    for row, column in np.argwhere(counts).tolist():
        share = float(shares[row, column])
        colour = "white" if share > 0.3 else INK  # past the middle of the square-root scale
        style = centred | {"color": colour}
        text, above = short_count(int(counts[row, column])), size * 0.45 * layout.has_shares
        axes.annotate(text, (column, row), xytext=(0, above), fontsize=size, **style)
        if layout.has_shares:
            text, below = _short_share(share), -size * 0.6
            axes.annotate(text, (column, row), xytext=(0, below), fontsize=small, **style)


def short_count(count: int) -> str:
    """Return a count in at most six characters, up to a hundred million."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M"


def _short_share(share: float) -> str:
    """Return a share in whole percent; 0 % and 100 % only if exact."""
    if 0 < share <= 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def _label_step(layout: _MatrixLayout) -> int:
    """Return the step between labelled classes for which the labels have room: a round number."""
    room = layout.font_size * 1.35 / 72 / layout.cell  # in cells
    return next(step for step in (1, 2, 5, 10) if step >= room)


def _class_labels(
    classes: Sequence[str], shown: Sequence[int], columns: int
) -> tuple[list[Text], dict[int, str]]:
    """Return the axis labels of the classes in `shown`, and the key of those that are numbers.

    A label longer than `columns` has two lines. Each text has its fonts; the key has the
    spelled-out name by index for each class that no installed font can draw.
    """
    texts = distinct_labels({index: classes[index] for index in shown}, 2 * columns)
    labels, key = [], {}
    for (index, text), families in zip(
        texts.items(), families_for(list(texts.values())), strict=True
    ):
        if families is None:
            key[index] = shorten(spell_out(classes[index]), 2 * columns)
            text, families = f"#{index}", (DEFAULT_FAMILY,)
        text = wrap_label(text, columns)
        labels.append(Text(text=text, fontfamily=list(families), parse_math=False))
    return labels, key


def _label_axes(
    axes: Axes, shown: Sequence[int], labels: Sequence[Text], layout: _MatrixLayout
) -> None:
    """Label rows and columns, on all four sides of a matrix without counts."""
    texts = [label.get_text() for label in labels]
    longest = (
        max(len(line) for text in texts for line in text.split("\n")) * layout.font_size * 0.62 / 72
    )
    rotation = 0 if longest < layout.cell else 45 if layout.has_shares else 90
    is_wide = not layout.has_counts
    axes.set_xticks(shown, texts)
    axes.set_yticks(shown, texts)
    axes.tick_params(
        labelsize=layout.font_size,
        labelcolor=INK,
        length=2,
        color=MUTED,
        top=is_wide,
        labeltop=is_wide,
        right=is_wide,
        labelright=is_wide,
    )
    for axis in (axes.xaxis, axes.yaxis):
        for tick, label in zip(axis.get_major_ticks(), labels, strict=True):
            for text in (tick.label1, tick.label2):
                text.set_fontfamily(label.get_fontfamily())
                text.set_parse_math(False)
    for tick in axes.xaxis.get_major_ticks():
        ha = "right" if rotation == 45 else "center"
        mode = "anchor" if rotation == 45 else "default"
        tick.label1.set(rotation=rotation, ha=ha, rotation_mode=mode)
        tick.label2.set(rotation=rotation)
    axes.set_xlabel("predicted", color=MUTED, fontsize=10, labelpad=8)
    axes.set_ylabel("true", color=MUTED, fontsize=10, labelpad=8)
    for spine in axes.spines.values():
        spine.set(color=GRID, linewidth=0.8)


def _write_title(axes: Axes, metrics: Metrics, block: int, *, has_empty_rows: bool) -> None:
    """Write the title above the matrix, with the accuracy and remarks on unusual cells."""
    low, high = metrics.accuracy_ci95
    lines = [
        f"Confusion matrix: {to_printable(metrics.split)}",
        f"{metrics.images:,} images, {100 * metrics.accuracy:.1f} % right "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)",
    ]
    if has_empty_rows:
        lines.append("grey rows: classes without images")
    if block > 1:
        lines.append(f"each cell represents {block} neighbouring classes")
    axes.set_title("\n".join(lines), loc="left", color=INK, fontsize=10, pad=10, parse_math=False)


def _draw_colour_bar(figure: Figure, image: AxesImage, *, left: float, top: float) -> None:
    """Draw the colour bar of the shares next to the matrix; positions in inches."""
    width, height = figure.get_size_inches()
    tall = min(max(height, 1.8), 3.0)
    axes = figure.add_axes((left / width, (top - tall) / height, 0.14 / width, tall / height))
    bar = figure.colorbar(image, cax=axes, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    bar.ax.tick_params(labelsize=8, labelcolor=INK, length=2, color=MUTED)
    bar.set_label("share of the true class", color=MUTED, fontsize=9)
    bar.outline.set_visible(False)


def _write_key(
    figure: Figure, key: Mapping[int, str], *, left: float, top: float, width: float
) -> None:
    """Write the names of numbered classes below the matrix; positions in inches."""
    if not key:
        return
    lines = [f"#{index}  {name}" for index, name in key.items()]
    column_width = min(max(map(len, lines)) * 0.075 + 0.3, width)
    column_count = min(max(1, int(width / column_width)), len(lines))
    tall = math.ceil(len(lines) / column_count)
    figure_width, figure_height = figure.get_size_inches()
    style: dict[str, Any] = {
        "va": "top",
        "fontsize": 8,
        "family": DEFAULT_FAMILY,
        "parse_math": False,
    }
    head = "No installed font can draw these names. Numbers as in class_indices.json:"
    figure.text(left / figure_width, top / figure_height, head, color=MUTED, **style)
    for column in range(column_count):
        part = lines[column * tall : (column + 1) * tall]
        at = left + column * column_width
        y = (top - 0.22) / figure_height
        figure.text(at / figure_width, y, "\n".join(part), color=INK, linespacing=1.4, **style)


def draw_curves(
    history: Sequence[Mapping[str, Any]], path: Path, *, saved_epoch: int | None
) -> None:
    """Draw loss, accuracy and learning rate over the epochs, and mark the one that was saved.

    A row an epoch has the keys epoch, train_loss, train_accuracy, val_loss, val_accuracy and lr; a
    value may be None. Accuracies are in [0, 1]. `saved_epoch` is 0 for the linear probe, None if it
    is unknown.

    Raises:
        ValueError: If there is no epoch.
    """
    if not history:
        raise ValueError("no epoch to draw. Received: history=[]")
    epochs = history_column(history, "epoch")
    figure = Figure(figsize=(10.5, 3.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for axes, measure in ((loss, "loss"), (accuracy, "accuracy")):
        _draw_line(axes, epochs, history_column(history, f"train_{measure}"), "train")
        _draw_line(axes, epochs, history_column(history, f"val_{measure}"), "val")
    _draw_line(rate, epochs, history_column(history, "lr"), "")
    accuracy.yaxis.set_major_formatter(lambda value, _: as_percent(value))
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy"), (rate, "Learning rate")):
        _style_axes(axes, title, epochs)
    _widen(accuracy, at_least=0.1)
    rate.set_ylim(bottom=0)
    _mark_saved(accuracy, epochs, history_column(history, "val_accuracy"), saved_epoch)
    save_png(figure, path, **WITH_LABELS)


def as_percent(value: float) -> str:
    """Return the tick label of a share."""
    return f"{100 * value:.4g} %"


def history_column(history: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    """Return a value an epoch; missing and infinite values become NaN, which is not drawn."""
    values = [row.get(key) for row in history]
    column = np.array([math.nan if value in (None, "") else float(value) for value in values])
    return np.where(np.isfinite(column), column, math.nan)


def _draw_line(
    axes: Axes, epochs: npt.NDArray[np.float64], values: npt.NDArray[np.float64], label: str
) -> None:
    """Draw one measure if it was recorded, with line styles that work without colour."""
    if np.isnan(values).all():
        return
    is_train = label == "train"
    marker = {"train": "o", "val": "s"}.get(label, ".")
    axes.plot(
        epochs,
        values,
        label=label or None,
        color={"train": TRAIN_COLOUR, "val": VAL_COLOUR}.get(label, MUTED),
        linestyle="--" if is_train else "-",
        marker=marker if len(epochs) <= MAX_MARKED_EPOCHS else None,
        markersize=4,
        linewidth=1.8,
    )


def _mark_saved(
    axes: Axes,
    epochs: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    saved_epoch: int | None,
) -> None:
    """Mark the epoch whose weights were saved and write its validation accuracy.

    A linear probe that no epoch has reached is not on the curve.
    """
    if np.isnan(values).all():
        return
    found = np.flatnonzero(epochs == saved_epoch).tolist()
    if not found:
        if saved_epoch == 0:
            text = "saved: the linear probe"
            axes.set_title(text, loc="right", fontsize=9, color=VAL_COLOUR)
        return
    at = found[0]
    axes.plot(epochs[at], values[at], "o", ms=9, mfc="none", mec=VAL_COLOUR, mew=1.6)
    accuracy = format_percent(values[at])
    text = f"saved: epoch {saved_epoch}, val {accuracy}"
    if not epochs.any():  # a linear probe
        text = f"val {accuracy}: {PROBE_NOTE}"
    axes.set_title(text, loc="right", fontsize=9, color=VAL_COLOUR)


def _widen(axes: Axes, *, at_least: float) -> None:
    """Widen the range of an axis whose values hardly differ, so that its tick labels differ."""
    low, high = axes.get_ylim()
    if high - low < at_least:
        middle = (low + high) / 2
        axes.set_ylim(middle - at_least / 2, middle + at_least / 2)


def _style_axes(axes: Axes, title: str, epochs: npt.NDArray[np.float64]) -> None:
    """Set title, ticks at whole epochs, a margin around a single point and a grid."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel("epoch", fontsize=9, color=MUTED)
    axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))
    axes.tick_params(labelsize=9, labelcolor=INK, color=MUTED)
    axes.grid(color=GRID, linewidth=0.6)
    open_frame(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="best")


def open_frame(axes: Axes) -> None:
    """Draw the grid below the data, and the frame on the left and at the bottom only."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def save_png(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure as PNG, atomically, with further options of `savefig`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, **options)
    write_bytes(path, buffer.getvalue())
