"""What features of a dataset tell: doubtful labels, and what more images would bring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swinclf.data.folder import ImageFile
from swinclf.data_quality.label_issues import find_suspects, judge_by_features, judgeable
from swinclf.data_quality.learning_curve import learning_curve
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import LearningCurve, Suspect

IMAGES_MOST = 100_000  # values of 128 directions in float64: 100 MB


def suspect_labels(
    images: Sequence[ImageFile],
    features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    report: Reporter,
) -> list[Suspect]:
    """Find the images whose label is probably wrong.

    Args:
        images: N images with their labels.
        features: (N, D) of a network that was not trained on these labels.
        classes: Names in the order of the indices.
        seed: Of the parts that judge each other, and of what is drawn.
        report: Told where not all images are judged.

    Returns:
        The suspects, that with the least likely label first.
    """
    targets = _targets(images, classes)
    drawn = _drawn(len(images), IMAGES_MOST, seed)
    rows = drawn[judgeable(targets[drawn])]
    if not len(rows):
        return []
    known, labels = np.unique(targets[rows], return_inverse=True)
    if len(rows) < len(images):
        judged = f"{len(rows):,} of {len(images):,} images"
        report.note(f"mistakes looked for among the labels of {judged}")
    probs = judge_by_features(features[rows], labels, seed=seed)
    return [
        Suspect(
            images[rows[one.row]].path,
            images[rows[one.row]].label,
            classes[known[one.suggested]],
            one.other,
        )
        for one in find_suspects(probs, labels)
    ]


def worth_of_images(
    training: Sequence[ImageFile],
    training_features: np.ndarray,
    held_out: Sequence[ImageFile],
    held_out_features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    report: Reporter,
) -> LearningCurve | None:
    """What a part of the images brings, and what more of them would; None where nobody can tell.

    Args:
        training: With their labels.
        training_features: (N, D).
        held_out: With their labels.
        held_out_features: (M, D).
        classes: Names in the order of the indices.
        seed: Of the draws.
        report: Told where not all images are drawn on.
    """
    drawn = _drawn(len(training), IMAGES_MOST, seed)
    if len(drawn) < len(training):
        report.note(f"the learning curve is of {len(drawn):,} of {len(training):,} images")
    return learning_curve(
        training_features[drawn],
        _targets(training, classes)[drawn],
        held_out_features,
        _targets(held_out, classes),
        seed=seed,
    )


def _drawn(count: int, most: int, seed: int) -> np.ndarray:
    """At most so many rows, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, 3]).choice(count, most, replace=False))


def _targets(images: Sequence[ImageFile], classes: Sequence[str]) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[image.label] for image in images], dtype=np.int64)
