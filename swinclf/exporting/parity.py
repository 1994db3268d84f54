"""Parity of an exported file: its probabilities compared with those of its run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parity:
    """Difference between two sets of predictions.

    Attributes:
        images: Number of images compared.
        largest: Largest difference of any probability, in [0, 1].
        flips: Number of images whose predicted label differs.
        tolerance: The largest difference allowed.
        most_flips: The number of labels that may differ.
    """

    images: int
    largest: float
    flips: int
    tolerance: float
    most_flips: int = 0

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance and not too many labels differ."""
        return self.largest <= self.tolerance and self.flips <= self.most_flips


def compare_probabilities(
    ours: np.ndarray, theirs: np.ndarray, *, tolerance: float, most_flips: int = 0
) -> Parity:
    """Compare the probabilities of a run and of an exported file.

    Args:
        ours: (N, K), the run's.
        theirs: (N, K), the exported file's.
        tolerance: The largest difference allowed.
        most_flips: The number of labels that may differ.
    """
    differences = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    # NaN compares as false: treat it as the largest possible difference.
    largest = float(np.nan_to_num(differences, nan=1.0).max())
    flips = int((ours.argmax(axis=1) != theirs.argmax(axis=1)).sum())
    return Parity(len(ours), largest, flips, tolerance, most_flips)
