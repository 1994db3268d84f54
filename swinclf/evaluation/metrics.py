"""The measures of a classifier on one split: summed batch by batch, divided once at the end.

Knows numpy and class names; knows nothing about networks, images or files.

Letters: B images in a batch, K classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ECE_BINS = 15
TOP = 5
MATRIX_CLASSES = 1000  # a matrix of 10,000 classes would be a file of 300 MB, nearly all zeros
Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
TINY = float(np.finfo(np.float32).tiny)  # a float32 softmax underflows to 0, whose log is no number
SELECTION_NOTE = "these images also selected the epoch and the head: new images may do less well"
UNBIASED_NOTE = "an unbiased score, on a folder kept out of the training"


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How one class fared. A ratio whose denominator is 0 is 0.

    Attributes:
        precision: Share of the images called this class that are of it, in [0, 1].
        recall: Share of the images of this class that were called it, in [0, 1].
        f1: Harmonic mean of precision and recall, in [0, 1].
        support: Images of this class.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, repr=False)
class Metrics:
    """What a classifier scored on one split. Fractions are in [0, 1].

    Attributes:
        split: Which images were scored: train, val, test or all.
        images: How many there were, at least 1.
        classes: Class names in the network's order.
        accuracy: Share of the images whose most probable class is the true one.
        accuracy_ci95: The accuracy's 95 % Wilson interval, low and high.
        top5_accuracy: Share whose true class is among the min(5, K) most probable.
        balanced_accuracy: Mean recall of the classes that have images.
        macro_f1: Mean F1 of the classes that have images or were predicted.
        loss: Mean cross-entropy in nats.
        ece: Expected calibration error: confidence of the predicted class, 15 bins of equal width.
        per_class: Class name -> its own measures, in the order of `classes`.
        confusions: (true index, predicted index, count) of each pair that occurred, sorted.
            Kept sparse: ten thousand classes would make a matrix of 800 MB.
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
    per_class: Mapping[str, ClassMetrics]
    confusions: tuple[tuple[int, int, int], ...]

    def __repr__(self) -> str:
        """Return one line of the main scores.

        >>> tally = Tally(("daisy", "rose"))
        >>> tally.update(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
        >>> tally.result("val")
        Metrics(split='val', images=2, accuracy=0.500, balanced_accuracy=0.500, macro_f1=0.333)
        """
        names = ("accuracy", "balanced_accuracy", "macro_f1")
        scores = ", ".join(f"{name}={getattr(self, name):.3f}" for name in names)
        return f"Metrics(split={self.split!r}, images={self.images}, {scores})"

    @property
    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Counts (K, K), rows true, columns predicted; made anew at each call."""
        return _dense(self.confusions, len(self.classes))

    def most_confused(self, n: int) -> list[tuple[str, str, int]]:
        """The pairs of different classes mistaken most often.

        Args:
            n: At most so many pairs.

        Returns:
            (true label, predicted label, count), most frequent first, ties in class order.
        """
        wrong = [pair for pair in self.confusions if pair[0] != pair[1]]
        wrong.sort(key=lambda pair: -pair[2])  # stable, and the pairs come in class order
        return [(self.classes[true], self.classes[pred], count) for true, pred, count in wrong[:n]]

    @property
    def has_matrix(self) -> bool:
        """Whether there are few enough classes to write the matrix out, zeros and all."""
        return len(self.classes) <= MATRIX_CLASSES

    def to_dict(self) -> dict[str, Any]:
        """The keys of metrics.json in their order, of plain Python values.

        Beyond `MATRIX_CLASSES` classes, `confusions` takes the place of `confusion_matrix`.
        """
        counts: dict[str, Any] = (
            {"confusion_matrix": self.confusion_matrix.tolist()}
            if self.has_matrix
            else {"confusions": [list(pair) for pair in self.confusions]}
        )
        return {
            "split": self.split,
            "images": self.images,
            "classes": list(self.classes),
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "top5_accuracy": self.top5_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "loss": self.loss,
            "ece": self.ece,
            "per_class": {name: asdict(row) for name, row in self.per_class.items()},
            **counts,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metrics:
        """The inverse of `to_dict`; keys it does not know are ignored.

        Raises:
            KeyError: If a key is missing.
        """
        if "confusions" in values:
            pairs = [(int(true), int(pred), int(n)) for true, pred, n in values["confusions"]]
        else:
            matrix = np.asarray(values["confusion_matrix"], dtype=np.int64)
            places = np.argwhere(matrix).tolist()
            pairs = [(true, pred, int(matrix[true, pred])) for true, pred in places]
        low, high = values["accuracy_ci95"]
        return cls(
            split=str(values["split"]),
            images=int(values["images"]),
            classes=tuple(values["classes"]),
            accuracy=float(values["accuracy"]),
            accuracy_ci95=(float(low), float(high)),
            top5_accuracy=float(values["top5_accuracy"]),
            balanced_accuracy=float(values["balanced_accuracy"]),
            macro_f1=float(values["macro_f1"]),
            loss=float(values["loss"]),
            ece=float(values["ece"]),
            per_class={name: ClassMetrics(**row) for name, row in values["per_class"].items()},
            confusions=tuple(pairs),
        )


class Tally:
    """Adds up batches of predictions and divides once.

    Memory grows with the classes and the pairs confused, not with the images.

    Args:
        classes: Class names in the network's order, each once.

    Raises:
        ValueError: If there is no class, or one twice.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        if not classes or len(set(classes)) != len(classes):
            raise ValueError(f"classes must be at least one name, each once. Received: {classes!r}")
        self.classes = tuple(classes)
        self.image_count = 0
        self._top_count = 0
        self._loss_sum = 0.0
        self._pair_counts: Counter[int] = Counter()  # true * K + predicted -> images
        self._bin_confidence_sums = np.zeros(ECE_BINS)
        self._bin_correct_counts = np.zeros(ECE_BINS)

    def update(self, probs: npt.NDArray[np.floating], targets: npt.NDArray[np.integer]) -> None:
        """Add a batch.

        Args:
            probs: (B, K) probabilities, each row summing to 1. B may be 0.
            targets: (B,) class indices, 0 <= target < K.

        Raises:
            ValueError: If the shapes do not fit, a target is no class, or `probs` holds a value
                that is no probability (logits, NaN).
        """
        _check_batch(probs, targets, len(self.classes))
        if not len(targets):
            return
        rows = np.arange(len(targets))
        true: npt.NDArray[np.int64] = targets.astype(np.int64)
        predicted = probs.argmax(axis=1)
        true_probs = probs[rows, true].astype(np.float64)
        self.image_count += len(true)
        self._top_count += int((_ranks(probs, true) < TOP).sum())
        self._loss_sum -= float(np.log(np.maximum(true_probs, TINY)).sum())
        self._pair_counts.update((true * len(self.classes) + predicted).tolist())
        self._add_confidence(probs[rows, predicted].astype(np.float64), predicted == true)

    def _add_confidence(
        self, confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
    ) -> None:
        """Sum confidences and hits bin by bin."""
        confidence_sums, correct_counts = _calibration_bins(confidence, correct)
        self._bin_confidence_sums += confidence_sums
        self._bin_correct_counts += correct_counts

    def result(self, split: str) -> Metrics:
        """What the images so far amount to.

        Args:
            split: Name of the split they came from.

        Raises:
            ValueError: If there were no images: no ratio of nothing is a number.

        Source: ECE as in Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.
        """
        if not self.image_count:
            raise ValueError(f"no images to score. Received: split={split!r} with 0 images")
        class_count = len(self.classes)
        confusions = tuple(
            (*divmod(code, class_count), count) for code, count in sorted(self._pair_counts.items())
        )
        hits, support, calls = _margins(confusions, class_count)
        recall, precision = _ratio(hits, support), _ratio(hits, calls)
        f1 = _ratio(2 * hits, support + calls)
        correct_count = int(hits.sum())
        gaps = np.abs(self._bin_confidence_sums - self._bin_correct_counts)
        columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
        per_class = (ClassMetrics(*row) for row in zip(*columns, strict=True))
        return Metrics(
            split=split,
            images=self.image_count,
            classes=self.classes,
            accuracy=correct_count / self.image_count,
            accuracy_ci95=wilson_interval(correct_count, self.image_count),
            top5_accuracy=self._top_count / self.image_count,
            balanced_accuracy=float(recall[support > 0].mean()),
            macro_f1=float(f1[support + calls > 0].mean()),
            loss=self._loss_sum / self.image_count,
            ece=float(gaps.sum()) / self.image_count,
            per_class=dict(zip(self.classes, per_class, strict=True)),
            confusions=confusions,
        )


def expected_calibration_error(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_]
) -> float:
    """How far confidence and hits lie apart: 15 bins of equal width, weighted by their images.

    Args:
        confidence: (N,) probability of each image's answer, N >= 1.
        correct: (N,) whether the answer is right.

    Returns:
        In [0, 1].

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.
    """
    confidence_sums, correct_counts = _calibration_bins(confidence.astype(np.float64), correct)
    return float(np.abs(confidence_sums - correct_counts).sum()) / len(confidence)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share: sensible for few trials and for shares near 0 and 1.

    Args:
        successes: 0 <= successes <= trials.
        trials: At least 1.

    Returns:
        Low and high, in [0, 1].

    Raises:
        ValueError: If the counts are not as above.

    Source: Wilson 1927; recommended by Brown, Cai & DasGupta 2001, sec. 3.1.1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"need 0 <= successes <= trials >= 1. Received: {successes}, {trials}")
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = Z_95 * math.sqrt(spread) / (1 + z2 / trials)
    # The ends are exact where all or none succeed, where rounding would leave 1e-17 over.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def difference_interval(
    first: int, first_trials: int, second: int, second_trials: int
) -> tuple[float, float]:
    """The 95 % interval of the first share less the second, of different images.

    Args:
        first: Successes, 0 <= first <= first_trials.
        first_trials: At least 1.
        second: As `first`.
        second_trials: As `first_trials`.

    Returns:
        Low and high, in [-1, 1].

    Raises:
        ValueError: If the counts are not as above.

    Source: Newcombe 1998, "Interval Estimation for the Difference between Independent Proportions",
    method 10.
    """
    one_low, one_high = wilson_interval(first, first_trials)
    other_low, other_high = wilson_interval(second, second_trials)
    one, other = first / first_trials, second / second_trials
    low = one - other - math.hypot(one - one_low, other_high - other)
    high = one - other + math.hypot(one_high - one, other - other_low)
    return low, high


def _calibration_bins(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums of confidences and of hits in bins that are open below and closed above."""
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    confidence_sums: npt.NDArray[np.float64] = np.zeros(ECE_BINS)
    np.add.at(confidence_sums, bins, confidence)
    correct_counts: npt.NDArray[np.float64] = np.zeros(ECE_BINS)
    np.add.at(correct_counts, bins, correct)
    return confidence_sums, correct_counts


def _check_batch(
    probs: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], class_count: int
) -> None:
    """Refuse a batch that cannot be added, before any sum has changed."""
    if probs.shape != (*targets.shape, class_count) or targets.ndim != 1:
        raise ValueError(
            f"probs must be (B, {class_count}) beside targets (B,). "
            f"Received: probs {probs.shape}, targets {targets.shape}"
        )
    if not len(targets):
        return
    low, high = float(probs.min()), float(probs.max())
    if not (low >= 0 and high <= 1.001):  # so written that NaN fails; bf16 rounds a little above 1
        raise ValueError(f"probs must lie in [0, 1]. Received: from {low} to {high}")
    if targets.min() < 0 or targets.max() >= class_count:
        raise ValueError(
            f"targets must lie in [0, {class_count}). "
            f"Received: from {targets.min()} to {targets.max()}"
        )


def _ranks(
    probs: npt.NDArray[np.floating], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Place of the true class among the probabilities; of equal ones the lower index leads.

    So argmax is at rank 0. Counted, not sorted: (B, K) -> (B,).
    """
    own = np.take_along_axis(probs, targets[:, None], axis=1)
    ahead = (probs == own) & (np.arange(probs.shape[1]) < targets[:, None])
    ranks: npt.NDArray[np.int64] = np.count_nonzero((probs > own) | ahead, axis=1)
    return ranks


def _margins(
    confusions: Sequence[tuple[int, int, int]], class_count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hits, images and predictions of each class: three of shape (K,)."""
    true, pred, count = np.asarray(confusions, dtype=np.int64).T
    hits, support, calls = (np.zeros(class_count, dtype=np.int64) for _ in range(3))
    np.add.at(hits, true[true == pred], count[true == pred])
    np.add.at(support, true, count)
    np.add.at(calls, pred, count)
    return hits, support, calls


def _ratio(
    numerator: npt.NDArray[np.int64], denominator: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Element-wise quotient, 0 where the denominator is."""
    return numerator / np.maximum(denominator, 1)


def _dense(confusions: Sequence[tuple[int, int, int]], class_count: int) -> npt.NDArray[np.int64]:
    """Counts (K, K) from the pairs that occurred."""
    matrix = np.zeros((class_count, class_count), dtype=np.int64)
    if confusions:
        true, pred, count = np.asarray(confusions, dtype=np.int64).T
        matrix[true, pred] = count
    return matrix
