"""What features that a frozen network has seen tell of a dataset: doubtful labels, more images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swinclf.data.folder import ImageFile
from swinclf.evaluation.sections import LearningCurve, Suspect
from swinclf.evaluation.suspects import find_suspects
from swinclf.evaluation.worth import learning_curve

IMAGES_MOST = 100_000  # values of 128 directions in float64: 100 MB


def doubtful_labels(
    images: Sequence[ImageFile], features: np.ndarray, classes: Sequence[str], *, seed: int
) -> list[Suspect]:
    """Lists the images whose label is probably wrong, the surest first.

    Args:
        images: With their labels.
        features: (N, D) of a network that was not trained on these labels.
        classes: Names in the order of the indices.
        seed: Of the parts that judge each other.
    """
    if len(images) > IMAGES_MOST:
        return []
    found = find_suspects(features, _targets(images, classes), seed=seed)
    return [
        Suspect(images[one.row].path, images[one.row].label, classes[one.suggested], one.other)
        for one in found
    ]


def worth_of_images(
    training: Sequence[ImageFile],
    training_features: np.ndarray,
    held_out: Sequence[ImageFile],
    held_out_features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
) -> LearningCurve | None:
    """What a part of the images brings, and what more of them would; None where nobody can tell.

    Args:
        training: With their labels.
        training_features: (N, D).
        held_out: With their labels.
        held_out_features: (M, D).
        classes: Names in the order of the indices.
        seed: Of the draws.
    """
    if len(training) > IMAGES_MOST:
        return None
    return learning_curve(
        training_features,
        _targets(training, classes),
        held_out_features,
        _targets(held_out, classes),
        seed=seed,
    )


def _targets(images: Sequence[ImageFile], classes: Sequence[str]) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[image.label] for image in images], dtype=np.int64)
