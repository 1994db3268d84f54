"""A student and its teacher on the same images: who is right, and how often they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swinclf.metrics import wilson_interval
from swinclf.reporting.compare import Pair, Paired


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """What a teacher scores on the images that its student is scored on. Fractions in [0, 1].

    Attributes:
        name: The teacher.
        images: How many both have answered.
        accuracy: Of the teacher.
        accuracy_ci95: Its 95 % Wilson interval.
        agreement: Share of the images that both call the same, rightly or wrongly.
        difference: The student's accuracy less the teacher's.
        difference_ci95: Its 95 % score interval for paired answers.
        p_value: McNemar's exact test.
    """

    name: str
    images: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    agreement: float
    difference: float
    difference_ci95: tuple[float, float]
    p_value: float

    @classmethod
    def of(cls, name: str, pairs: Sequence[Pair]) -> TeacherScores:
        """Return the scores from answers, the teacher's first; at least one."""
        paired = Paired.of(pairs)
        return cls(
            name=name,
            images=paired.images,
            accuracy=paired.first_accuracy,
            accuracy_ci95=wilson_interval(paired.both + paired.only_first, paired.images),
            agreement=sum(one.first == one.second for one in pairs) / paired.images,
            difference=paired.difference,
            difference_ci95=paired.difference_ci95,
            p_value=paired.p_value,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what metrics.json holds under `teacher`."""
        values = asdict(self)
        return {name: list(one) if isinstance(one, tuple) else one for name, one in values.items()}

    def line(self) -> str:
        """Return the comparison in one line."""
        low, high = self.difference_ci95
        return (
            f"teacher {self.name}: accuracy {self.accuracy:.1%}; the student's is "
            f"{100 * self.difference:+.1f} points from it (95 % interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}), with the same answer for {self.agreement:.1%}"
        )
