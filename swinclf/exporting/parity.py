"""The proof: an exported file's answers beside its run's, picture by picture. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parity:
    """How far two sets of answers lie apart.

    Attributes:
        images: Pictures compared.
        largest: Largest difference of any probability, in [0, 1].
        flips: Pictures whose label differs.
        tolerance: The largest difference allowed.
    """

    images: int
    largest: float
    flips: int
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance and no label differs."""
        return self.largest <= self.tolerance and self.flips == 0


def compare(ours: np.ndarray, theirs: np.ndarray, *, tolerance: float) -> Parity:
    """Compares probabilities.

    Args:
        ours: (N, K), the run's.
        theirs: (N, K), the exported file's.
        tolerance: The largest difference allowed.
    """
    differences = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    # NaN compares as false everywhere: say it is the largest difference there can be.
    largest = float(np.nan_to_num(differences, nan=1.0).max())
    flips = int((ours.argmax(axis=1) != theirs.argmax(axis=1)).sum())
    return Parity(len(ours), largest, flips, tolerance)
