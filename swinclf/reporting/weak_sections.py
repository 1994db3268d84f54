"""Sections of a report that its data cannot support: collapsed, with the reason in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from swinclf.reporter import format_percent
from swinclf.reporting.verdict import (
    MIN_PER_CLASS,
    RunFigures,
    has_tiny_classes,
    is_near_chance,
)

MIN_CURVE, MIN_CALIBRATION = 100, 200  # scored images
MIN_SUPPORT = 5  # scored images of a class


def find_weak_sections(figures: RunFigures, ideal_ece: float | None) -> Mapping[str, str]:
    """Return the reason for each section to collapse, by the section's id.

    `ideal_ece` is the calibration error of a perfectly calibrated model with as many images.
    """
    low, high = figures.interval
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
    if figures.images < MIN_CURVE and "learning" not in reasons:
        reasons["learning"] = (
            f"{figures.images:,} held-out images are too few: a point of the curve may be off by "
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
