"""The confusion matrix as a page shows it: which classes, how dark a cell, which images behind it.

Knows counts and answers; draws nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from swinclf.metrics import Metrics
from swinclf.reporting.report_data import Answer

WHOLE_UP_TO = 40  # classes; with more the page shows those that are mixed up most
MIXED_UP = 24  # so many of them
LEVELS = 9  # shades of a cell that is not empty
PAIR_IMAGES = 12  # most images shown of one cell
ALL_IMAGES = 1000  # most images shown of all cells, while each has one


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the matrix.

    Attributes:
        true: Index of the class that its images are.
        predicted: Index of the class that they were called.
        count: How many.
        level: How dark, 0 for none to `LEVELS` for the whole row.
    """

    true: int
    predicted: int
    count: int
    level: int


@dataclass(frozen=True, slots=True)
class Grid:
    """A confusion matrix, or the part of one that a page has room for.

    Attributes:
        classes: Indices of the classes, for rows and columns alike.
        rows: The cells.
        is_whole: Whether all classes are there.
    """

    classes: Sequence[int]
    rows: Sequence[Sequence[Cell]]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """The images behind a cell.

    Attributes:
        true: Index of the class that they are.
        predicted: Index of the class that they were called.
        answers: Some of them: of wrong answers the surest, of right ones the least sure.
        more: How many there are besides.
    """

    true: int
    predicted: int
    answers: Sequence[Answer]
    more: int


def grid_of(metrics: Metrics) -> Grid:
    """The matrix if it is small, else the classes that are mixed up most, in their order."""
    class_count = len(metrics.classes)
    is_whole = class_count <= WHOLE_UP_TO
    chosen = list(range(class_count)) if is_whole else _mixed_up(metrics)
    counts = {(true, predicted): count for true, predicted, count in metrics.confusions}
    support = [row.support for row in metrics.per_class.values()]
    rows = []
    for true in chosen:
        row = []
        for predicted in chosen:
            count = counts.get((true, predicted), 0)
            # The root makes the rare mistake visible.
            level = math.ceil(LEVELS * math.sqrt(count / support[true])) if count else 0
            row.append(Cell(true, predicted, count, level))
        rows.append(row)
    return Grid(chosen, rows, is_whole)


def _mixed_up(metrics: Metrics) -> list[int]:
    """The classes of the most frequent mistakes; none where all is right."""
    wrong = [pair for pair in metrics.confusions if pair[0] != pair[1]]
    wrong.sort(key=lambda pair: -pair[2])
    chosen: set[int] = set()
    for true, predicted, _ in wrong:
        if len(chosen | {true, predicted}) > MIXED_UP:
            break
        chosen |= {true, predicted}
    return sorted(chosen)


def pairs_of(
    metrics: Metrics, grid: Grid, listed: Sequence[tuple[int, int]], answers: Sequence[Answer]
) -> list[Pair]:
    """The images behind the grid's cells and the listed pairs, most frequent mistake first.

    Args:
        metrics: Of all answers.
        grid: Its cells that are not empty.
        listed: Other (true, predicted) pairs, such as the most frequent ones.
        answers: All of them; those of classes that `metrics` does not know are left out.
    """
    index = {name: number for number, name in enumerate(metrics.classes)}
    cells = {(cell.true, cell.predicted) for row in grid.rows for cell in row if cell.count}
    behind: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    wanted = cells.union(listed)
    for answer in answers:
        pair = (index.get(answer.label, -1), index.get(answer.predicted, -1))
        if pair in wanted:
            behind[pair].append(answer)
    each = _images_each([len(found) for found in behind.values()])
    pairs = []
    for (true, predicted), found in behind.items():
        sign = 1 if true == predicted else -1
        found.sort(key=lambda answer: sign * answer.probability)
        pairs.append(Pair(true, predicted, found[:each], len(found[each:])))
    pairs.sort(key=lambda pair: (pair.true == pair.predicted, -len(pair.answers) - pair.more))
    return pairs


def _images_each(counts: Sequence[int]) -> int:
    """The most images of a cell with which all cells together stay within `ALL_IMAGES`, at least 1.

    >>> _images_each([2000, 3])
    12
    """
    for each in range(PAIR_IMAGES, 1, -1):
        if sum(min(count, each) for count in counts) <= ALL_IMAGES:
            return each
    return 1
