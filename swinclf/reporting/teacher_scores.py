"""The scores of a teacher compared with its student's on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swinclf.metrics import wilson_interval
from swinclf.reporter import format_percent
from swinclf.reporting.paired_comparison import PairedCounts, PredictionPair


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """The scores of a teacher on the images that its student is scored on. Fractions in [0, 1]."""

    name: str
    images: int
    accuracy: float
    accuracy_ci95: tuple[float, float]  # its 95 % Wilson interval
    agreement: float  # share of the images for which both predict the same class
    difference: float  # the student's accuracy less the teacher's
    difference_ci95: tuple[float, float]  # its 95 % score interval for paired predictions
    p_value: float  # of McNemar's exact test

    @classmethod
    def from_pairs(cls, name: str, pairs: Sequence[PredictionPair]) -> TeacherScores:
        """Return the scores from at least one pair of predictions, the teacher's first."""
        counts = PairedCounts.from_pairs(pairs)
        return cls(
            name=name,
            images=counts.images,
            accuracy=counts.first_accuracy,
            accuracy_ci95=wilson_interval(counts.both + counts.only_first, counts.images),
            agreement=sum(one.first == one.second for one in pairs) / counts.images,
            difference=counts.difference,
            difference_ci95=counts.difference_ci95,
            p_value=counts.p_value,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the value of `teacher` in metrics.json."""
        values = asdict(self)
        return {name: list(one) if isinstance(one, tuple) else one for name, one in values.items()}

    def line(self) -> str:
        """Return the comparison in one line."""
        low, high = self.difference_ci95
        return (
            f"teacher {self.name}: accuracy {format_percent(self.accuracy)}; the student's is "
            f"{100 * self.difference:+.1f} points from it (95 % interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}), with the same prediction for {format_percent(self.agreement)}"
        )
