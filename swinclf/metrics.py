"""The metrics of a classifier on one split, computed from a few numbers of each image.

Knows numpy and class names; knows nothing about networks, images or files. K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ECE_BINS = 15
SIMULATED, MAX_DRAWN = 100, 5_000_000  # evaluations of a perfectly calibrated model; their images
TOP = 5
MATRIX_CLASSES = 1000  # a dense matrix of 10,000 classes would be a file of 300 MB
TINY = float(np.finfo(np.float32).tiny)  # a float32 softmax underflows to 0, whose log is infinite
SELECTION_NOTE = (
    "these images also selected the epoch and the head: accuracy on new images may be lower"
)
Z_95 = 1.959964  # standard normal deviate of a two-sided 95 % interval
UNBIASED_NOTE = "for an unbiased score, train with --test-split 0.15, or use other images"
_SPLITS = {
    "val": "validation images",
    "test": "test images, which selected nothing",
    "train": "training images",
    "cross-validation": "images by cross-validation: each is scored by a head that has not seen it",
}
PROBE_NOTE = "linear probe (L-BFGS), no epochs"
UNTRAINED_NOTE = (
    "The network started from random weights: confidence, label errors and evidence need trained "
    "weights."
)


def describe_split(split: str, *, is_training_dataset: bool = True) -> str:
    """Return what the images of a split are, to print after their number.

    A split of another folder than the training's has its name from that folder alone.
    """
    other = f"images ({split})"
    return _SPLITS.get(split, other) if is_training_dataset else other


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """The scores of one class. A ratio whose denominator is 0 is 0.

    Attributes:
        precision: Share of the predictions of this class that are correct, in [0, 1].
        recall: Share of the images of this class that are predicted correctly, in [0, 1].
        f1: Harmonic mean of precision and recall, in [0, 1].
        support: Number of images of this class.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, repr=False)
class Metrics:
    """The scores of a classifier on one split. Fractions are in [0, 1].

    Attributes:
        split: The split that was scored: train, val, test or all.
        images: Number of images, at least 1.
        classes: Class names in the network's order.
        accuracy: Share of the images whose most probable class is the true one.
        accuracy_ci95: The accuracy's 95 % interval, low and high: Wilson's, or that of a
            cross-validation.
        top5_accuracy: Share whose true class is among the min(5, K) most probable.
        balanced_accuracy: Mean recall of the classes that have images.
        macro_f1: Mean F1 of the classes that have images.
        loss: Mean cross-entropy in nats.
        ece: Expected calibration error of the predicted class, with 15 bins of equal width.
        ece_ideal: The same of a perfectly calibrated classifier with these probabilities.
        majority_accuracy: Accuracy of always predicting the class with the most images.
        per_class: Class name -> its scores, in the order of `classes`.
        confusions: (true index, predicted index, count) of each pair that occurred, sorted: a
            sparse confusion matrix, as a dense one of ten thousand classes would take 800 MB.
    """

    split: str
    images: int
    classes: tuple[str, ...]
    accuracy: float
    accuracy_ci95: tuple[float, float]
    top5_accuracy: float
    balanced_accuracy: float
    macro_f1: float
    loss: float
    ece: float
    ece_ideal: float
    majority_accuracy: float
    per_class: Mapping[str, ClassMetrics]
    confusions: tuple[tuple[int, int, int], ...]

    def __repr__(self) -> str:
        """Return one line of the main scores.

        >>> scores = [image_scores(np.array([0.9, 0.1]), 0), image_scores(np.array([0.6, 0.4]), 1)]
        >>> compute_metrics(("daisy", "rose"), scores, "val")
        Metrics(split='val', images=2, accuracy=0.500, balanced_accuracy=0.500, macro_f1=0.333)
        """
        names = ("accuracy", "balanced_accuracy", "macro_f1")
        scores = ", ".join(f"{name}={getattr(self, name):.3f}" for name in names)
        return f"Metrics(split={self.split!r}, images={self.images}, {scores})"

    @property
    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Return the counts (K, K), rows true, columns predicted, as a new array."""
        matrix = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        true, pred, count = np.reshape(np.array(self.confusions, dtype=np.int64), (-1, 3)).T
        matrix[true, pred] = count
        return matrix

    def most_confused(self, n: int) -> list[tuple[str, str, int]]:
        """Return the most frequent mistakes.

        Args:
            n: Largest number of pairs.

        Returns:
            (true label, predicted label, count), most frequent first, ties in class order.
        """
        wrong = self.frequent_mistakes[:n]
        return [(self.classes[true], self.classes[pred], count) for true, pred, count in wrong]

    @property
    def frequent_mistakes(self) -> list[tuple[int, int, int]]:
        """Return the pairs of `confusions` that are mistakes, ordered as by `most_confused`."""
        wrong = (pair for pair in self.confusions if pair[0] != pair[1])
        return sorted(wrong, key=lambda pair: -pair[2])  # stable, and the pairs are in class order

    @property
    def has_matrix(self) -> bool:
        """Whether there are few enough classes for a dense confusion matrix."""
        return len(self.classes) <= MATRIX_CLASSES

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of metrics.json in their order, with plain Python values.

        Beyond `MATRIX_CLASSES` classes, `confusions` replaces `confusion_matrix`.
        """
        values = {
            **asdict(self),
            "classes": list(self.classes),
            "accuracy_ci95": list(self.accuracy_ci95),
            "confusions": [list(pair) for pair in self.confusions],
        }
        if self.has_matrix:
            del values["confusions"]
            values["confusion_matrix"] = self.confusion_matrix.tolist()
        return values


class ImageScores(NamedTuple):
    """What the metrics need to know of one image."""

    true: int  # index of its class
    predicted: int  # index of the most probable class
    is_in_top: bool  # whether its class is among the 5 most probable
    true_probability: float
    confidence: float  # probability of the predicted class


def image_scores(probabilities: npt.NDArray[np.floating], true: int) -> ImageScores:
    """Return the scores of one image by its (K,) probabilities and the index of its class.

    Raises:
        ValueError: If a value is not a probability (a logit, NaN).
    """
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= 0 and high <= 1.001):  # NaN fails; bf16 rounds a little above 1
        raise ValueError(f"probabilities must be in [0, 1]. Received: from {low} to {high}")
    own = probabilities[true]
    # Counted, as sorting ten thousand classes takes longer. Of equal ones the lower index is first.
    more_probable = (probabilities > own).sum() + (probabilities[:true] == own).sum()
    return ImageScores(
        true, int(probabilities.argmax()), bool(more_probable < TOP), float(own), high
    )


def compute_metrics(classes: Sequence[str], scores: Sequence[ImageScores], split: str) -> Metrics:
    """Return the metrics of the images of a split.

    `classes` are unique names in the network's order.

    Raises:
        ValueError: If there are no images.
    """
    if not scores:
        raise ValueError(f"no images to score. Received: split={split!r} with 0 images")
    true_column, predicted_column, in_top, true_probs, confidence = np.array(scores, np.float64).T
    true, predicted = true_column.astype(np.int64), predicted_column.astype(np.int64)
    is_right = true == predicted
    class_count, image_count = len(classes), len(true)
    codes, counts = np.unique(true * class_count + predicted, return_counts=True)
    hits, support, calls = (
        np.bincount(one, minlength=class_count) for one in (true[is_right], true, predicted)
    )
    recall, precision = hits / np.maximum(support, 1), hits / np.maximum(calls, 1)
    f1 = 2 * hits / np.maximum(support + calls, 1)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    per_class = (ClassMetrics(*row) for row in zip(*columns, strict=True))
    pairs = np.column_stack([*np.divmod(codes, class_count), counts]).tolist()
    return Metrics(
        split=split,
        images=image_count,
        classes=tuple(classes),
        accuracy=float(is_right.mean()),
        accuracy_ci95=wilson_interval(int(is_right.sum()), image_count),
        top5_accuracy=float(in_top.mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        macro_f1=float(f1[support > 0].mean()),
        loss=float(-np.log(np.maximum(true_probs, TINY)).mean()),
        ece=expected_calibration_error(confidence, is_right),
        ece_ideal=ideal_calibration_error(confidence),
        majority_accuracy=float(support.max() / image_count),
        per_class=dict(zip(classes, per_class, strict=True)),
        confusions=tuple((i, j, count) for i, j, count in pairs),
    )


def calibration_bins(confidence: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return the bin of each confidence in [0, 1], (N,) -> (N,) from 0 to ECE_BINS - 1.

    The bins are of equal width, open below and closed above.
    """
    bins = np.ceil(confidence.astype(np.float64) * ECE_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, ECE_BINS - 1)


def expected_calibration_error(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_]
) -> float:
    """Return the gap between confidence and accuracy of a bin, averaged over the images, in [0, 1].

    `confidence` is the probability of each predicted class, (N,), N >= 1, `correct` whether it is
    right.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.
    """
    excess = confidence.astype(np.float64) - correct
    gaps = np.bincount(calibration_bins(confidence), weights=excess)
    return float(np.abs(gaps).sum()) / len(confidence)


def ideal_calibration_error(confidence: npt.NDArray[np.floating]) -> float:
    """Return the expected calibration error of a perfectly calibrated model, by simulation.

    It is above 0, as the accuracy of few images in a bin is never their mean confidence, (N,).
    """
    rng, count = np.random.default_rng(0), len(confidence)
    draws = range(max(1, min(SIMULATED, MAX_DRAWN // count)))
    errors = [expected_calibration_error(confidence, rng.random(count) < confidence) for _ in draws]
    return float(np.mean(errors))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share, low and high, in [0, 1].

    Raises:
        ValueError: Unless 0 <= successes <= trials and trials >= 1.

    Source: Wilson 1927; recommended by Brown, Cai & DasGupta 2001, sec. 3.1.1.
    """
    if not 0 <= successes <= trials or trials < 1:  # for which some versions of scipy return nan
        raise ValueError(f"need 0 <= successes <= trials >= 1. Received: {successes}, {trials}")
    from scipy.stats import binomtest  # not at the top: predicting starts sooner without

    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    share = successes / trials  # which rounding may put outside
    return min(float(low), share), max(float(high), share)


def cross_validation_interval(accuracy: float, images: int, folds: int) -> tuple[float, float]:
    """Return the 95 % interval of a cross-validated accuracy, for new images, in [0, 1].

    The heads share most of their training images, so the scores of the folds are correlated: for K
    folds, the variance of their mean is 1 + K / (K - 1) times that of independent images. This is
    Wilson's interval of so many fewer images; `benchmarks/held_out.py` measures how often it
    contains the accuracy of new ones.

    `images` is the number of scored images, at least 1; `folds` is K, at least 2.

    Source: Nadeau & Bengio 2003, Inference for the Generalization Error, sec. 4.
    """
    count = images / (1 + folds / (folds - 1))
    scale = 1 + Z_95**2 / count
    centre = (accuracy + Z_95**2 / (2 * count)) / scale
    variance = accuracy * (1 - accuracy) / count + Z_95**2 / (4 * count**2)
    half = Z_95 * math.sqrt(variance) / scale
    # Rounding may put an accuracy of 0 or 1 outside.
    return max(0.0, min(centre - half, accuracy)), min(1.0, max(centre + half, accuracy))


def difference_interval(
    first: int, first_trials: int, second: int, second_trials: int
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of different images, in [-1, 1].

    `first` and `second` are the successes.

    Raises:
        ValueError: Unless 0 <= successes <= trials and trials >= 1, for both.

    Source: Newcombe 1998, "Interval Estimation for the Difference between Independent Proportions",
    method 10.
    """
    one_low, one_high = wilson_interval(first, first_trials)
    other_low, other_high = wilson_interval(second, second_trials)
    one, other = first / first_trials, second / second_trials
    low = one - other - math.hypot(one - one_low, other_high - other)
    high = one - other + math.hypot(one_high - one, other - other_low)
    return low, high
