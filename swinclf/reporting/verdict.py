"""The verdict on a run in three lines: how good it is, how certain that is, and what to do next.

Pure rules on plain figures. `benchmarks/verdicts.py` measures how often each rule is right on
simulated runs.

Sections of a report that its data cannot support are collapsed, with the reason in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

import numpy as np

from swinclf.metrics import (
    SELECTION_NOTE,
    UNBIASED_NOTE,
    ClassMetrics,
    difference_interval,
    wilson_interval,
)
from swinclf.reporter import format_percent

MIN_SCORED = 50  # images; the interval of fewer is about 25 points wide
MIN_PER_CLASS = 20  # training images
MIN_GAIN = 0.02  # of twice as many images
MIN_CONFIDENT = 0.2  # share of the labels that must be predicted confidently to judge labels
MAX_CONTRADICTED = 0.05  # share of the confident predictions
RARE = 1 / 3  # of the largest class
MIN_RECALL_GAP = 0.05  # lower end of its interval
SMOOTHED, MIN_EPOCHS = 3, 6  # epochs
MIN_RISE = 0.15  # of the held-out loss above its minimum
SMALL_INPUT_PX = 128
GOOD_SKILL = 0.7  # part of the way from the majority class to perfect


class VerdictKind(StrEnum):
    """What stands out in a run, the most urgent first."""

    NEAR_CHANCE = "near chance"
    TOO_FEW_IMAGES = "too few images"
    LABEL_NOISE = "label noise"
    IMBALANCE = "imbalance"
    OVERFITTING = "overfitting"
    WRONG_RESOLUTION = "wrong resolution"
    GOOD = "good"


ADVICE = {
    VerdictKind.NEAR_CHANCE: "The model is hardly better than always answering the most frequent "
    "class: start from trained weights (--model embedded), and check the dataset (swinclf check "
    "DATA)",
    VerdictKind.LABEL_NOISE: "Correct the likely label errors listed in suspects.csv, then train "
    "again",
    VerdictKind.IMBALANCE: "The rare classes are recognised less often: add images of them, or use "
    "--class-weights balanced",
    VerdictKind.OVERFITTING: "The held-out loss rises while the training loss falls: train fewer "
    "epochs or fewer layers (--freeze-layers), or add images",
    VerdictKind.GOOD: "Good: export the model (swinclf export), or test it on images from where it "
    "will be used (swinclf eval OTHER)",
}
NO_ADVICE = (
    "Nothing particular limits the accuracy: try fine-tuning (--no-freeze-layers), another --model "
    "or a larger --img-size"
)
SCORE_OTHERS = (
    "Score images that the model was not trained on (swinclf eval OTHER --run RUN), or train with "
    "--val-split 0.2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReview:
    """Labels compared with the predictions of classifiers that were not trained on them."""

    images: int  # number of labels judged
    confident: int  # number of predictions with a probability of at least 90 %
    contradicted: int  # number of these that differ from the label

    @property
    def is_reliable(self) -> bool:
        """Whether enough predictions are confident to judge labels by them."""
        return self.images > 0 and self.confident >= MIN_CONFIDENT * self.images


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What a verdict is based on. Fractions are in [0, 1]; what is unknown is None or empty."""

    accuracy: float  # on the scored images
    interval: tuple[float, float]
    images: int
    majority: float  # share of the most frequent class among them
    probe_accuracy: float | None = None  # of a linear probe on the same images
    is_selected: bool = False  # whether the scored images also selected the epoch
    is_trained_on: bool = False  # whether the model was trained on the scored images
    train_counts: Mapping[str, int] | None = None  # number of training images of each class
    per_class: Mapping[str, ClassMetrics] | None = None
    train_losses: Sequence[float] = ()  # of each epoch
    val_losses: Sequence[float] = ()  # of each epoch
    # forecast gain in accuracy of twice as many images, and the lower end of its interval
    gain: tuple[float, float] | None = None
    curve_images: int | None = None  # that the learning curve is measured on; not the scored ones
    labels: LabelReview | None = None  # the review of the labels
    image_px: float | None = None  # median shorter side of the images
    input_px: int | None = None  # side of the network's input


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a run."""

    kinds: tuple[VerdictKind, ...]  # what stands out, the most urgent first; may be empty
    lines: tuple[str, str, str]  # how good, how certain, what next: a sentence or two each

    def to_dict(self) -> dict[str, Any]:
        """Return the value of `verdict` in metrics.json."""
        return {"kinds": [str(kind) for kind in self.kinds], "lines": list(self.lines)}


def judge(figures: RunFigures) -> Verdict:
    """Return the verdict on a run."""
    kinds = find_kinds(figures)
    return Verdict(kinds, verdict_lines(figures, kinds))


def find_kinds(figures: RunFigures) -> tuple[VerdictKind, ...]:
    """Return what stands out, the most urgent first."""
    found = {
        VerdictKind.NEAR_CHANCE: is_near_chance(figures),
        VerdictKind.TOO_FEW_IMAGES: _what_is_too_few(figures) is not None,
        VerdictKind.LABEL_NOISE: _has_label_noise(figures),
        VerdictKind.IMBALANCE: _neglects_rare_classes(figures),
        VerdictKind.OVERFITTING: _overfits(figures.train_losses, figures.val_losses),
        VerdictKind.WRONG_RESOLUTION: _resolution_advice(figures) is not None,
    }
    if not any(found.values()) and not figures.is_trained_on:
        skill = (figures.interval[0] - figures.majority) / max(1 - figures.majority, 1e-9)
        found[VerdictKind.GOOD] = skill >= GOOD_SKILL
    return tuple(kind for kind, applies in found.items() if applies)


def verdict_lines(figures: RunFigures, kinds: Sequence[VerdictKind]) -> tuple[str, str, str]:
    """Return how good the model is, how certain that is, and what to do next."""
    low, high = figures.interval
    interval = f"{format_percent(low)} to {format_percent(high)}"
    probe = figures.probe_accuracy
    good = (
        f"{format_percent(figures.accuracy)} of the images are classified correctly (95 % interval "
        f"{interval}); always answering the most frequent class would reach "
        f"{format_percent(figures.majority)}"
        + (f", a linear probe {format_percent(probe)}." if probe is not None else ".")
    )
    certain = (
        f"Measured on {figures.images:,} {'image' if figures.images == 1 else 'images'}: the "
        f"interval is {100 * (high - low):.1f} points wide."
    )
    if figures.is_trained_on:
        certain += " The model was trained on them: that says nothing about new images."
    elif figures.is_selected:
        certain += (
            f" {SELECTION_NOTE.capitalize()}. {UNBIASED_NOTE.capitalize()}: swinclf eval OTHER "
            "--run RUN."
        )
    otherwise = SCORE_OTHERS if figures.is_trained_on else NO_ADVICE
    advice = [_advice(kind, figures) for kind in kinds[:2]] or [otherwise]
    return good, certain, ". ".join(advice) + "."


def _advice(kind: VerdictKind, figures: RunFigures) -> str:
    if kind is VerdictKind.TOO_FEW_IMAGES:
        return f"Add images: {_what_is_too_few(figures)}"
    if kind is VerdictKind.WRONG_RESOLUTION:
        return f"Check the resolution: {_resolution_advice(figures)}"
    return ADVICE[kind]


def is_near_chance(figures: RunFigures) -> bool:
    """Return whether the accuracy may be that of always answering the most frequent class."""
    return figures.majority < 1 and figures.interval[0] <= figures.majority


def _what_is_too_few(figures: RunFigures) -> str | None:
    """Return why more images would help; None if nothing shows that they would."""
    if has_tiny_classes(figures):
        return f"half of the classes have fewer than {MIN_PER_CLASS} training images"
    gain, gain_low = figures.gain or (0.0, 0.0)
    if gain >= MIN_GAIN and gain_low > 0:
        return f"twice as many might raise the accuracy by {100 * gain:.1f} points"
    if figures.images < MIN_SCORED:
        return f"{figures.images:,} held-out images are too few for a reliable accuracy"
    return None


def has_tiny_classes(figures: RunFigures) -> bool:
    """Return whether half of the classes have hardly any training images."""
    counts = [count for count in (figures.train_counts or {}).values() if count]
    return bool(counts) and median(counts) < MIN_PER_CLASS


def _has_label_noise(figures: RunFigures) -> bool:
    labels = figures.labels
    # Classifiers fitted on a few images of each class are confident without reason.
    if labels is None or not labels.is_reliable or has_tiny_classes(figures):
        return False
    return wilson_interval(labels.contradicted, labels.confident)[0] > MAX_CONTRADICTED


def _neglects_rare_classes(figures: RunFigures) -> bool:
    """Return whether the recall of rare classes is significantly lower than that of the others."""
    counts, scores = figures.train_counts, figures.per_class
    if not counts or not scores:
        return False
    most = max(counts.values())
    hits, support = {True: 0, False: 0}, {True: 0, False: 0}
    for name, one in scores.items():
        is_rare = counts.get(name, 0) < RARE * most
        hits[is_rare] += round(one.recall * one.support)
        support[is_rare] += one.support
    if not all(support.values()):
        return False
    low, _ = difference_interval(hits[False], support[False], hits[True], support[True])
    return low > MIN_RECALL_GAP


def _overfits(train: Sequence[float], val: Sequence[float]) -> bool:
    """Return whether the held-out loss rises while the training loss falls."""
    if len(val) < MIN_EPOCHS or len(train) != len(val):
        return False
    smooth = np.ones(SMOOTHED) / SMOOTHED
    val_means, train_means = (np.convolve(one, smooth, "valid") for one in (val, train))
    lowest = int(val_means.argmin())
    rises = val_means[-1] > (1 + MIN_RISE) * val_means[lowest]
    return bool(rises and train_means[-1] < train_means[lowest])


def _resolution_advice(figures: RunFigures) -> str | None:
    """Return what does not fit; None if the image size and the input size do."""
    image, size = figures.image_px, figures.input_px
    if image is None or size is None:
        return None
    if 2 * image <= size:
        return (
            f"the shorter side of most images has {image:.0f} px, the input {size} px: use images "
            "of a higher resolution"
        )
    if size < SMALL_INPUT_PX and image >= 2 * size:
        return (
            f"the shorter side of most images has {image:.0f} px, the input {size} px: a larger "
            "--img-size shows more detail"
        )
    return None


MIN_CURVE, MIN_CALIBRATION = 100, 200  # scored images
MIN_SUPPORT = 5  # scored images of a class


def find_weak_sections(figures: RunFigures, ideal_ece: float | None) -> Mapping[str, str]:
    """Return the reason for each section to collapse, by the section's id.

    `ideal_ece` is the calibration error of a perfectly calibrated model with as many images.
    """
    reasons = {}
    if is_near_chance(figures):
        reasons["suspects"] = "A model that is near chance is too weak to judge labels."
        reasons["learning"] = "The model is near chance, so the curve says little."
    elif has_tiny_classes(figures):
        reasons["suspects"] = (
            f"Half of the classes have fewer than {MIN_PER_CLASS} training images: too few to "
            "judge labels."
        )
    elif figures.labels is not None and not figures.labels.is_reliable:
        share = figures.labels.confident / figures.labels.images
        reasons["suspects"] = (
            f"These features are too weak to judge labels: only {format_percent(share)} of the "
            "labels can be predicted with a probability of 90 % or more."
        )
    held_out = figures.images if figures.curve_images is None else figures.curve_images
    if held_out < MIN_CURVE and "learning" not in reasons:
        low, high = wilson_interval(round(figures.accuracy * held_out), held_out)
        reasons["learning"] = (
            f"{held_out:,} held-out images are too few: a point of the curve may be off by "
            f"{50 * (high - low):.0f} points."
        )
    if figures.images < MIN_CALIBRATION and ideal_ece is not None:
        reasons["confidence"] = (
            f"{figures.images:,} images are too few to judge calibration: even a perfectly "
            f"calibrated model would have a calibration error of about {format_percent(ideal_ece)}."
        )
    support = [one.support for one in (figures.per_class or {}).values() if one.support]
    if support and median(support) < MIN_SUPPORT:
        reasons["classes"] = (
            f"Half of the classes have fewer than {MIN_SUPPORT} images here: scores of single "
            "classes are mostly chance."
        )
    return reasons
