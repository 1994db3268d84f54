"""The confusion matrix of the HTML report: the classes, the shade and the images of each cell.

Knows counts and predictions; draws nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from swinclf.metrics import Metrics
from swinclf.reporting.report_data import PredictionRow

MAX_WHOLE = 40  # classes; with more the page shows those that are confused most often
MAX_CONFUSED = 24  # classes of such a part
LEVELS = 9  # shades of a cell that is not empty
MAX_CELL_IMAGES = 12  # shown of one cell
MAX_IMAGES = 1000  # shown of all cells, unless they have one each


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """A cell of the matrix."""

    true: int  # index of the true class
    predicted: int  # index of the predicted class
    count: int
    level: int  # shade, 0 for no image to `LEVELS` for all images of the row


@dataclass(frozen=True, slots=True)
class ConfusionGrid:
    """A confusion matrix, or the part of one that fits on a page."""

    classes: Sequence[int]  # indices of the classes, for rows and columns alike
    rows: Sequence[Sequence[ConfusionCell]]
    is_whole: bool  # whether it has all classes


@dataclass(frozen=True, slots=True)
class CellImages:
    """Images of a cell."""

    true: int  # index of the true class
    predicted: int  # index of the predicted class
    # some of its predictions: the most confident mistakes, the least confident hits
    rows: Sequence[PredictionRow]
    more: int  # how many there are besides


def build_grid(metrics: Metrics) -> ConfusionGrid:
    """Return the whole matrix if it is small, else that of the classes confused most often."""
    class_count = len(metrics.classes)
    is_whole = class_count <= MAX_WHOLE
    chosen = list(range(class_count)) if is_whole else _most_confused(metrics)
    counts = {(true, predicted): count for true, predicted, count in metrics.confusions}
    support = [row.support for row in metrics.per_class.values()]
    rows = []
    for true in chosen:
        row = []
        for predicted in chosen:
            count = counts.get((true, predicted), 0)
            # The square root makes rare mistakes visible.
            level = math.ceil(LEVELS * math.sqrt(count / support[true])) if count else 0
            row.append(ConfusionCell(true, predicted, count, level))
        rows.append(row)
    return ConfusionGrid(chosen, rows, is_whole)


def _most_confused(metrics: Metrics) -> list[int]:
    """Return the classes of the most frequent mistakes, in their order."""
    chosen: set[int] = set()
    for true, predicted, _ in metrics.frequent_mistakes:
        if len(chosen | {true, predicted}) > MAX_CONFUSED:
            break
        chosen |= {true, predicted}
    return sorted(chosen)


def collect_cell_images(
    metrics: Metrics,
    grid: ConfusionGrid,
    listed: Sequence[tuple[int, int]],
    rows: Sequence[PredictionRow],
) -> list[CellImages]:
    """Return the images of the grid's cells and of listed pairs, most frequent mistake first.

    Empty cells, and predictions of classes that `metrics` does not know, are left out.
    """
    index = {name: number for number, name in enumerate(metrics.classes)}
    cells = {(cell.true, cell.predicted) for row in grid.rows for cell in row if cell.count}
    by_cell: dict[tuple[int, int], list[PredictionRow]] = defaultdict(list)
    wanted = cells.union(listed)
    for row in rows:
        pair = (index.get(row.label, -1), index.get(row.predicted, -1))
        if pair in wanted:
            by_cell[pair].append(row)
    limit = _limit_per_cell([len(found) for found in by_cell.values()])
    images = []
    for (true, predicted), found in by_cell.items():
        sign = 1 if true == predicted else -1
        found.sort(key=lambda row: sign * row.probability)
        images.append(CellImages(true, predicted, found[:limit], len(found[limit:])))
    images.sort(key=lambda cell: (cell.true == cell.predicted, -len(cell.rows) - cell.more))
    return images


def _limit_per_cell(counts: Sequence[int]) -> int:
    """Return the largest limit with which all cells stay within `MAX_IMAGES`; at least 1.

    >>> _limit_per_cell([2000, 3])
    12
    """
    for each in range(MAX_CELL_IMAGES, 1, -1):
        if sum(min(count, each) for count in counts) <= MAX_IMAGES:
            return each
    return 1
