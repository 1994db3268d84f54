"""Dataset diagnostics from features: label issues and the learning curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swinclf.data.folder import ImageFile
from swinclf.data_quality.label_issues import (
    out_of_fold_probabilities,
    rank_label_issues,
    scorable_rows,
)
from swinclf.data_quality.learning_curve import learning_curve
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import LearningCurve, Suspect
from swinclf.reporting.verdict import LabelReview

CONFIDENT = 0.9  # probability from which a prediction counts in the review of the labels
IMAGES_MOST = 100_000  # 128 components each in float64: 100 MB


def find_label_issues(
    images: Sequence[ImageFile],
    features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    report: Reporter,
) -> tuple[list[Suspect], LabelReview | None]:
    """Return the images whose label is probably wrong, the least likely label first, and a review.

    `features` are (N, D) of a network that was not trained on these labels. A note says if only a
    part of the images is scored; the review is None if no label could be judged.
    """
    targets = _targets(images, classes)
    drawn = _subsample(len(images), IMAGES_MOST, seed)
    rows = drawn[scorable_rows(targets[drawn])]
    if not len(rows):
        return [], None
    known, labels = np.unique(targets[rows], return_inverse=True)
    if len(rows) < len(images):
        report.note(f"label issues are searched in {len(rows):,} of {len(images):,} images")
    probs = out_of_fold_probabilities(features[rows], labels, seed=seed)
    suspects = [
        Suspect(
            images[rows[one.row]].path,
            images[rows[one.row]].label,
            classes[known[one.suggested]],
            one.other,
        )
        for one in rank_label_issues(probs, labels)
    ]
    review = LabelReview(
        images=len(rows),
        confident=int((probs.max(axis=1) >= CONFIDENT).sum()),
        contradicted=sum(one.probability >= CONFIDENT for one in suspects),
    )
    return suspects, review


def fit_learning_curve(
    training: Sequence[ImageFile],
    training_features: np.ndarray,
    held_out: Sequence[ImageFile],
    held_out_features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    report: Reporter,
) -> LearningCurve | None:
    """Return the learning curve of a linear classifier; None if there are too few images.

    Training features are (N, D), held-out ones (M, D). A note says if only a part of them is used.
    """
    drawn = _subsample(len(training), IMAGES_MOST, seed)
    if len(drawn) < len(training):
        report.note(f"the learning curve is of {len(drawn):,} of {len(training):,} images")
    return learning_curve(
        training_features[drawn],
        _targets(training, classes)[drawn],
        held_out_features,
        _targets(held_out, classes),
        seed=seed,
    )


def _subsample(count: int, most: int, seed: int) -> np.ndarray:
    """Return at most `most` row indices, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, 3]).choice(count, most, replace=False))


def _targets(images: Sequence[ImageFile], classes: Sequence[str]) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[image.label] for image in images], dtype=np.int64)
