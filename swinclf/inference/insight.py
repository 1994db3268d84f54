"""What features and small pictures tell of a dataset: doubtful labels, what more images bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinclf.data.folder import VAL, ImageFile
from swinclf.evaluation.sections import LearningCurve, Suspect
from swinclf.evaluation.suspects import (
    find_suspects,
    judge_by_features,
    judgeable,
    pool_scores,
)
from swinclf.evaluation.worth import learning_curve
from swinclf.inference.small_look import Labelled, SmallLook, look_at_small_pictures
from swinclf.preprocess import ValueRange
from swinclf.progress import Reporter

IMAGES_MOST = 100_000  # values of 128 directions in float64: 100 MB
GOOD = 0.9  # of the labels told by features alone, by which small pictures are not needed
PICTURES_MOST = 20_000  # a minute on one core
SCORES_MOST = 10_000_000  # of one kind: 80 MB in float64
TINY = 1e-6  # a probability that stands for none


class Doubts(NamedTuple):
    """What is doubtful about a dataset's labels.

    Attributes:
        suspects: That of the least likely label first.
        look: What small pictures told, where they were looked at.
    """

    suspects: list[Suspect]
    look: SmallLook | None


def doubtful_labels(
    root: Path,
    images: Sequence[ImageFile],
    features: np.ndarray | None,
    classes: Sequence[str],
    *,
    seed: int,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...] = (),
    learn: bool = False,
) -> Doubts:
    """Finds the images whose label is probably wrong.

    Where the features tell classes well apart, they decide alone. Where they do not, or there are
    none, small copies of the pictures are looked at too (`small_pictures`). Says how many were
    judged by what, and where that is not all of them.

    Args:
        root: What the images' paths are relative to.
        images: With their labels.
        features: (N, D) of a network that was not trained on these labels; None without.
        classes: Names in the order of the indices.
        seed: Of the parts that judge each other, and of what is drawn.
        workers: Threads that read.
        report: Told of it.
        ranges: Which values of more than 8 bits are black and white.
        learn: Lets classifiers learn the small pictures of the training split, too, where these
            are looked at.

    Raises:
        DataError: If the images' disk is gone.
    """
    targets = _targets(images, classes)
    drawn = _drawn(len(images), IMAGES_MOST, seed)
    rows = drawn[judgeable(targets[drawn])]
    known, labels = np.unique(targets[rows], return_inverse=True)
    if not len(rows):
        return Doubts([], None)
    look = None
    probs = None if features is None else judge_by_features(features[rows], labels, seed=seed)
    right = 0.0 if probs is None else float((probs.argmax(axis=1) == labels).mean())
    if right < GOOD:
        if probs is not None:
            report.note(f"features tell {right:.0%} of the labels: small pictures are compared too")
        chosen = _drawn(len(rows), min(PICTURES_MOST, SCORES_MOST // len(known)), seed)
        by_network = [] if probs is None else [np.log(probs[chosen] + TINY)]
        rows, labels = rows[chosen], labels[chosen]
        pictures = Labelled(
            [images[row].path for row in rows],
            labels,
            known,
            len(classes),
            np.array([images[row].split == VAL for row in rows]) if learn else None,
        )
        look = look_at_small_pictures(
            root, pictures, seed=seed, workers=workers, report=report, ranges=ranges
        )
        probs = pool_scores([*by_network, *look.scores], labels)
    assert probs is not None
    if len(rows) < len(images):
        judged = f"{len(rows):,} of {len(images):,} images"
        report.note(f"mistakes looked for among the labels of {judged}")
    suspects = [
        Suspect(
            images[rows[one.row]].path,
            images[rows[one.row]].label,
            classes[known[one.suggested]],
            one.other,
        )
        for one in find_suspects(probs, labels)
    ]
    return Doubts(suspects, look)


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
        classes,
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
