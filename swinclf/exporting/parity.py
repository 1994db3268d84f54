"""Parity of an exported file: its predictions compared with those of its run.

Classes are compared by name and rejections by the file's own thresholds, so that wrong metadata
counts as much as wrong numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from swinclf.confidence.selective import Confidence, SelectiveScores, is_rejected
from swinclf.reporter import format_percent

COMPARED = ("classes", "preprocessing", "calibration", "reject", "license")
OOD_SLACK, MOST_SLACK = 10, 0.1  # relative, of the tolerance; features are sums of many products


@dataclass(frozen=True)
class Answers:
    """The outputs of a run or of an exported file for N images."""

    classes: tuple[str, ...]  # class names, K
    probabilities: np.ndarray  # (N, K), calibrated
    ood_scores: np.ndarray  # (N,); nan without a feature space
    confidence: Confidence
    labels: tuple[str, ...] = ()  # true labels; empty if they are not known

    @property
    def accuracy(self) -> float | None:
        """The share of correct labels, in [0, 1]; None without labels."""
        predicted = [self.classes[best] for best in self.probabilities.argmax(axis=1)]
        pairs = list(zip(predicted, self.labels, strict=True)) if self.labels else []
        return sum(one == other for one, other in pairs) / len(pairs) if pairs else None


@dataclass(frozen=True)
class Parity:
    """Difference between two sets of predictions.

    Attributes:
        images: Number of images compared.
        largest: Largest difference of any probability, in [0, 1].
        flips: Number of images whose predicted label differs.
        rejections: Number of images that are rejected by one of the two only, at any of the run's
            precisions; those within the tolerance of a threshold are not counted.
        tolerance: The largest difference allowed.
        metadata: Keys of the metadata that differ.
        most_flips: The number of labels that may differ.
        mean: Mean over the images of the largest difference of a probability.
        is_of_mean: Whether the tolerance is of the mean; then as many rejections as labels may
            differ.
        accuracy: Accuracy of the file on these images, in [0, 1]; None if labels are not known.
        fp32_accuracy: The same of the run in float32.
    """

    images: int
    largest: float
    flips: int
    tolerance: float
    rejections: int = 0
    metadata: tuple[str, ...] = ()
    most_flips: int = 0
    mean: float = 0.0
    is_of_mean: bool = False
    accuracy: float | None = None
    fp32_accuracy: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance and nothing else differs."""
        difference, most = (self.mean, self.most_flips) if self.is_of_mean else (self.largest, 0)
        is_near = difference <= self.tolerance and self.flips <= self.most_flips
        return is_near and self.rejections <= most and not self.metadata

    def describe(self) -> list[str]:
        """Return the differences in words, a line each."""
        lines = [
            f"{self.flips} of {self.images} labels differ",
            f"probabilities differ by {self.mean:.2g} on average and {self.largest:.2g} at most",
        ]
        if self.accuracy is not None and self.fp32_accuracy is not None:
            before, after = map(format_percent, (self.fp32_accuracy, self.accuracy))
            lines.insert(0, f"accuracy {after}, {before} in fp32")
        if self.rejections:
            lines.append(f"{self.rejections} rejections differ")
        if self.metadata:
            lines.append(f"its metadata differs: {', '.join(self.metadata)}")
        return lines


def compare_answers(
    ours: Answers,
    theirs: Answers,
    *,
    tolerance: float,
    most_flips: int = 0,
    is_of_mean: bool = False,
) -> Parity:
    """Compare the answers of a run and of an exported file to the same images.

    `tolerance`, `most_flips` and `is_of_mean` are those of `Parity`.
    """
    if set(ours.classes) != set(theirs.classes):
        images = len(ours.probabilities)
        return Parity(images, 1.0, images, tolerance, mean=1.0, is_of_mean=is_of_mean)
    order = [theirs.classes.index(name) for name in ours.classes]
    probabilities = theirs.probabilities[:, order]
    differences = np.abs(ours.probabilities.astype(np.float64) - probabilities.astype(np.float64))
    # NaN compares as false: treat it as the largest possible difference.
    differences = np.nan_to_num(differences, nan=1.0).max(axis=1)
    largest = float(differences.max())
    return Parity(
        images=len(ours.probabilities),
        largest=largest,
        flips=int((ours.probabilities.argmax(axis=1) != probabilities.argmax(axis=1)).sum()),
        tolerance=tolerance,
        rejections=_rejection_flips(ours, theirs, largest if is_of_mean else tolerance),
        most_flips=most_flips,
        mean=float(differences.mean()),
        is_of_mean=is_of_mean,
        accuracy=theirs.accuracy,
        fp32_accuracy=ours.accuracy,
    )


def worst_parity(parities: Iterable[Parity]) -> Parity:
    """Return the parity that is furthest from agreement: one that does not agree, if any."""
    return max(parities, key=lambda one: (not one.agrees, one.flips, one.rejections, one.largest))


def differing_metadata(expected: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of `COMPARED` whose values differ, compared as JSON where they are JSON."""
    return tuple(key for key in COMPARED if _value(expected.get(key)) != _value(found.get(key)))


def _value(text: str | None) -> object:
    try:
        return json.loads(text) if text is not None else None
    except json.JSONDecodeError:
        return text


def _rejection_flips(ours: Answers, theirs: Answers, tolerance: float) -> int:
    """Count images that are rejected by one only, unless the run itself is near a threshold."""
    slack = min(OOD_SLACK * tolerance, MOST_SLACK)
    differs = np.zeros(len(ours.probabilities), bool)
    best = ours.probabilities.max(axis=1)
    found = SelectiveScores(theirs.probabilities.max(axis=1), theirs.ood_scores)
    for row in ours.confidence.thresholds:
        if theirs.confidence.threshold(row.precision) is None:
            return len(differs)
        rejected = is_rejected(theirs.confidence, row.precision, found)
        low, high = (
            is_rejected(
                ours.confidence,
                row.precision,
                SelectiveScores(best + sign * tolerance, ours.ood_scores * (1 - sign * slack)),
            )
            for sign in (1, -1)
        )
        differs |= (low & ~rejected) | (~high & rejected)
    return int(differs.sum())
