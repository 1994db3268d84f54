"""Drawing helpers shared by all figures: layout, titles, heat maps over an image, files.

Every figure is a separate object, so that a caller's pyplot state is neither used nor changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from swinclf.reporting.charts import GRID, INK, MUTED
from swinclf.reporting.display_names import (
    DEFAULT_FAMILY,
    families_for,
    shorten,
    spell_out,
    to_composed,
)

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float64]

DPI = 110
HEAT = "inferno"  # dark to light for every kind of colour vision
SIGNED = "PuOr_r"  # purple to orange, distinguishable by every kind of colour vision
TITLE_INCHES = 0.75


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """Return an empty figure of a size in inches, without the title, laid out by matplotlib."""
    lines = subtitle.count("\n") + 1
    room = TITLE_INCHES + 0.19 * (lines - 1)
    figure = Figure(figsize=(width, height + room), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    inches = height + room
    figure.set_layout_engine(
        "constrained", rect=(0.008, 0.008, 0.984, height / inches - 0.008), hspace=0.04, wspace=0.04
    )
    figure.text(0.01, 1 - 0.14 / inches, title, color=INK, fontsize=14, weight="bold", va="top",
                parse_math=False)  # fmt: skip
    figure.text(0.01, 1 - 0.43 / inches, subtitle, color=MUTED, fontsize=10, va="top",
                linespacing=1.3, parse_math=False)  # fmt: skip
    return figure


def strip_axes(axes: Axes, label: str = "") -> None:
    """Remove the ticks and fade the frame of axes with an image, and label them."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=GRID, linewidth=0.8)
    axes.set_title(label, color=INK, fontsize=10, parse_math=False, loc="left", pad=4)


def write_instead(axes: Axes, text: str) -> None:
    """Write why axes show nothing."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, fontsize=10,
              transform=axes.transAxes)  # fmt: skip


def show_image(axes: Axes, pixels: Pixels, label: str) -> None:
    """Show the network's input image, (H, W, 3), under a label."""
    axes.imshow(pixels, interpolation="antialiased")
    strip_axes(axes, label)


def show_map(axes: Axes, pixels: Pixels, values: Map, label: str, norm: Normalize) -> AxesImage:
    """Draw a map, (h, w), over a grey copy of the image, (H, W, 3), with a square for each token.

    The colours are diverging if `norm` has a centre. The mappable is returned for a colour bar.
    """
    height, width, _ = pixels.shape
    grey = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
    axes.imshow(grey, cmap="gray", vmin=-60, vmax=315)  # paler than black and white
    colours = SIGNED if isinstance(norm, TwoSlopeNorm | LogNorm) else HEAT
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    image = axes.imshow(
        values, cmap=colours, norm=norm, extent=extent, alpha=0.62, interpolation="nearest"
    )
    strip_axes(axes, label)
    return image


def ratio_norm(values: Sequence[Map]) -> LogNorm:
    """Return a common logarithmic scale of ratios, centred at 1 and clipped."""
    ratios = np.abs(np.log2(np.concatenate([one.ravel() for one in values]).clip(1e-6)))
    top = 2.0 ** float(np.clip(np.percentile(ratios, 99), 1, 4))
    return LogNorm(1 / top, top, clip=True)


def heat_norm(values: Map) -> Normalize:
    """Return a scale from 0, clipped at the 99th percentile."""
    return Normalize(0, max(float(np.percentile(values, 99)), 1e-12), clip=True)


def signed_norm(values: Map) -> TwoSlopeNorm:
    """Return a scale symmetric about 0."""
    top = max(float(np.abs(values).max()), 1e-12)
    return TwoSlopeNorm(0, -top, top)


def colour_bar(figure: Figure, image: ScalarMappable, axes: Sequence[Axes], label: str) -> None:
    """Add a colour bar to the right of axes."""
    bar = figure.colorbar(image, ax=list(axes), fraction=0.046, pad=0.02, aspect=24)
    _quiet(bar, label)


def colour_bar_below(figure: Figure, image: ScalarMappable, axes: Axes) -> None:
    """Add a colour bar below axes, which keep their size."""
    room = axes.inset_axes((0, -0.075, 1, 0.035))
    _quiet(figure.colorbar(image, cax=room, orientation="horizontal"), "")


def colour_bar_in(figure: Figure, image: ScalarMappable, axes: Axes, label: str) -> None:
    """Draw a colour bar into axes."""
    _quiet(figure.colorbar(image, cax=axes), label)


def _quiet(bar: Colorbar, label: str) -> None:
    """Style a colour bar; ratios are written as ratios."""
    bar.outline.set_visible(False)
    bar.solids.set_alpha(1)  # type: ignore[union-attr]
    if isinstance(bar.norm, LogNorm):
        ends = math.floor(math.log2(bar.norm.vmax or 1))
        powers = [2.0**power for power in range(-ends, ends + 1)]
        bar.set_ticks(powers, labels=[f"{p:g}" if p >= 1 else f"1/{1 / p:g}" for p in powers])
        bar.minorticks_off()
    else:
        bar.locator = MaxNLocator(5)
        bar.formatter = FuncFormatter(lambda value, _position: f"{value:.3g}")
        bar.update_ticks()
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=2)
    bar.set_label(label, color=MUTED, fontsize=9)


def class_text(name: str, index: int, width: int = 24) -> tuple[str, list[str]]:
    """Return the text for a class, up to `width` columns, and its fonts.

    The index in class_indices.json is used if no font can draw the name.
    """
    text = shorten(to_composed(name), width)
    (families,) = families_for([text])
    if families is None:
        return f"#{index} {shorten(spell_out(name), width)}", [DEFAULT_FAMILY]
    return text, list(families)
