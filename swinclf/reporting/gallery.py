"""The gallery of a report: the evaluated images, all mistakes first, in a bounded number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swinclf.reporting.report_data import PredictionRow

MAX_GALLERY = 300  # images


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a gallery."""

    # mistakes, most confident first, then correct predictions, least confident first
    rows: Sequence[PredictionRow]
    labels: Sequence[str]  # their true classes, sorted
    images: int  # number of images that they are chosen from


def choose_gallery(rows: Sequence[PredictionRow], *, limit: int = MAX_GALLERY) -> Gallery:
    """Return all mistakes, then a random sample of the other images, the same in every report.

    Of more mistakes than the limit a random sample is taken.
    """
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    shuffled = [rows[index] for index in order]
    chosen = sorted(shuffled, key=_is_right)[:limit]  # stable: a random sample of each half
    chosen.sort(key=lambda row: (_is_right(row), row.probability * (1 if _is_right(row) else -1)))
    return Gallery(chosen, sorted({row.label for row in chosen}), len(rows))


def _is_right(row: PredictionRow) -> bool:
    return row.label == row.predicted
