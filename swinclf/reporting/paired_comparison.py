"""Statistics of two classifiers on the same images: the accuracy difference and its significance.

Knows pairs of predictions; knows nothing about files or networks. Images on which both are right,
or both wrong, do not tell which is better: only the discordant ones count.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.optimize import brentq
from scipy.stats import binomtest
from scipy.stats import t as student_t

from swinclf.metrics import Z_95, wilson_interval
from swinclf.reporter import format_percent


@dataclass(frozen=True, slots=True)
class RunScore:
    """One of several runs on the images that all of them have. Fractions are in [0, 1]."""

    run: str  # the folder of its predictions
    number: int  # its position on the command line, from 1
    accuracy: float  # on the common images
    # its 95 % interval: Wilson's, or that of a cross-validation
    accuracy_ci95: tuple[float, float]
    difference: float  # that accuracy less the best one
    difference_ci95: tuple[float, float]  # the 95 % score interval of the difference
    # of McNemar's exact test against the best one, corrected by Holm; None for the best
    p_value: float | None
    own_images: int  # number of all its images
    own_accuracy: float  # on all its images


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Runs with the same settings but for the seed."""

    settings: str  # in what they differ from the other groups
    seeds: tuple[int, ...]  # of each run
    mean: float  # mean accuracy, each run on all its images
    deviation: float | None  # standard deviation of the accuracy; None for a single run
    # 95 % interval of the mean accuracy less that of the best group, by Student's t over the seeds
    # that both have; None for the best group, or if they share less than two seeds
    difference_ci95: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class DifferingImage:
    """An image with different predictions."""

    path: str
    label: str
    predicted: tuple[str, ...]  # the class predicted by each run, in the order of the command line


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The comparison of any number of classifiers on the images that all of them have."""

    images: int  # number of those images; 0 if another seed has selected other validation images
    runs: tuple[RunScore, ...]  # the runs, the most accurate first; none without such images
    # runs that differ in their seed only, the most accurate first; empty if none do
    groups: tuple[SeedGroup, ...]
    differing: tuple[DifferingImage, ...]  # images with different predictions, in order of path
    notes: tuple[str, ...]  # what the comparison does not show
    # what a model has to exceed on those images: the accuracy of always answering the largest class
    majority_accuracy: float | None = None
    # and of the best linear probe on a starting network of the runs; None if it has other images
    probe_accuracy: float | None = None

    @property
    def baselines(self) -> list[tuple[str, float]]:
        """Return the names and accuracies of the baselines that are known."""
        found = {
            "always the largest class": self.majority_accuracy,
            "linear probe, without epochs": self.probe_accuracy,
        }
        return [(name, share) for name, share in found.items() if share is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON.

        A difference of `runs` is the run's accuracy less the best; the one of two runs is the
        second accuracy less the first, in the order of the command line.
        """
        values = asdict(self)
        if len(self.runs) == 2:
            best, other = self.runs
            first, second = sorted(self.runs, key=lambda run: run.number)
            sign = 1 if best is first else -1
            values |= {
                "first_accuracy": first.accuracy,
                "second_accuracy": second.accuracy,
                "difference": sign * other.difference,
                "difference_ci95": sorted(sign * end for end in other.difference_ci95),
                "mcnemar_p": other.p_value,
            }
        return values


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Counts of images that two classifiers predict correctly."""

    images: int  # number of images, at least 1
    both: int  # correct by both
    only_first: int  # correct by the first alone
    only_second: int  # correct by the second alone

    @classmethod
    def from_outcomes(cls, outcomes: Iterable[tuple[bool, bool]]) -> PairedCounts:
        """Count images by whether the first and the second prediction are correct."""
        right = list(outcomes)
        counted = (right.count(which) for which in ((True, True), (True, False), (False, True)))
        return cls(len(right), *counted)

    @property
    def first_accuracy(self) -> float:
        """Accuracy of the first classifier, in [0, 1]."""
        return (self.both + self.only_first) / self.images

    @property
    def second_accuracy(self) -> float:
        """Accuracy of the second classifier, in [0, 1]."""
        return (self.both + self.only_second) / self.images

    @property
    def difference(self) -> float:
        """The second accuracy less the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.images

    @property
    def difference_ci95(self) -> tuple[float, float]:
        """The 95 % score interval of the difference."""
        return score_interval(self.only_second, self.only_first, self.images)

    @property
    def p_value(self) -> float:
        """The two-sided p-value of McNemar's exact test; 1 if no pair is discordant.

        Source: McNemar 1947; exact form: the binomial test of the discordant pairs against 1/2.
        """
        discordant = self.only_first + self.only_second
        return float(binomtest(self.only_first, discordant, 0.5).pvalue) if discordant else 1.0


def seeds_interval(
    own: Mapping[int, float], best: Mapping[int, float]
) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean difference in accuracy, own less best, paired by seed.

    It is that of Student's t; None if they share less than two seeds.
    """
    differences = [own[seed] - best[seed] for seed in sorted(own.keys() & best.keys())]
    if len(differences) < 2:
        return None
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    margin = float(student_t.ppf(0.975, len(differences) - 1)) * error
    return mean - margin, mean + margin


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    corrected = list(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(corrected)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(corrected) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def score_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    """Return the 95 % score interval of a difference of paired shares, (gained - lost) / images.

    Its ends are in [-1, 1]. It has its nominal coverage for few images and for differences near 0,
    where Wald's has not.

    Source: Tango 1998, Statistics in Medicine 17:891-908, eqs. 3 and 4; recommended by Newcombe
    1998, Statistics in Medicine 17:2635-2650, and Fagerland et al. 2014.
    """
    estimate = (gained - lost) / images

    def end(bound: float, wanted: float) -> float:
        """Return the difference between the estimate and `bound` whose score is `wanted`."""
        if estimate == bound:
            return bound
        near_bound = bound + (estimate - bound) * 1e-12  # the score is infinite at the bound itself
        if abs(_score(gained, lost, images, near_bound)) < abs(wanted):
            return bound
        low, high = sorted((near_bound, estimate))
        return float(brentq(lambda at: _score(gained, lost, images, at) - wanted, low, high))

    return end(-1.0, Z_95), end(1.0, -Z_95)


def _score(gained: int, lost: int, images: int, difference: float) -> float:
    """Return by how many standard errors the estimate is above an assumed difference.

    The standard error is the one under that difference; `q` is the most likely share of lost
    images there.
    """
    a = 2.0 * images
    b = -gained - lost + (2.0 * images - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    q = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
    variance = images * (2.0 * q + difference * (1.0 - difference))
    excess = gained - lost - images * difference
    if variance <= 0.0:
        return 0.0 if excess == 0.0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


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
    def from_outcomes(
        cls, name: str, outcomes: Iterable[tuple[bool, bool]], agreement: float
    ) -> TeacherScores:
        """Return the scores of at least one image: whether teacher and student are correct."""
        counts = PairedCounts.from_outcomes(outcomes)
        return cls(
            name=name,
            images=counts.images,
            accuracy=counts.first_accuracy,
            accuracy_ci95=wilson_interval(counts.both + counts.only_first, counts.images),
            agreement=agreement,
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
