"""What features and small pictures tell of a dataset: doubtful labels, what more images bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from swinclf.data.folder import ImageFile
from swinclf.data.thumbnails import small_squares
from swinclf.evaluation.sections import LearningCurve, Suspect
from swinclf.evaluation.suspects import (
    find_suspects,
    judge_by_features,
    judge_by_likeness,
    judgeable,
    pool_scores,
)
from swinclf.evaluation.worth import learning_curve
from swinclf.inference.small_pictures import SIDE, count_colours, describe, kinds_of_places
from swinclf.progress import Reporter

IMAGES_MOST = 100_000  # values of 128 directions in float64: 100 MB
GOOD = 0.9  # of the labels told by features alone, by which small pictures are not needed
PICTURES_MOST = 20_000  # a minute on one core
SCORES_MOST = 10_000_000  # of one kind: 80 MB in float64
PART_MOST = 6_000  # whose likenesses to each other take 144 MB
TINY = 1e-6  # a probability that stands for none


def doubtful_labels(
    root: Path,
    images: Sequence[ImageFile],
    features: np.ndarray | None,
    classes: Sequence[str],
    *,
    seed: int,
    workers: int,
    report: Reporter,
) -> list[Suspect]:
    """Lists the images whose label is probably wrong, that of the least likely label first.

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

    Raises:
        DataError: If the images' disk is gone.
    """
    targets = _targets(images, classes)
    drawn = _drawn(len(images), IMAGES_MOST, seed)
    rows = drawn[judgeable(targets[drawn])]
    known, labels = np.unique(targets[rows], return_inverse=True)
    if not len(rows):
        return []
    probs = None if features is None else judge_by_features(features[rows], labels, seed=seed)
    right = 0.0 if probs is None else float((probs.argmax(axis=1) == labels).mean())
    if right < GOOD:
        if probs is not None:
            report.note(f"features tell {right:.0%} of the labels: small pictures are compared too")
        chosen = _drawn(len(rows), min(PICTURES_MOST, SCORES_MOST // len(known)), seed)
        by_network = [] if probs is None else [np.log(probs[chosen] + TINY)]
        rows, labels = rows[chosen], labels[chosen]
        paths = [images[row].path for row in rows]
        by_pictures = _judge_pictures(
            root, paths, labels, len(known), seed=seed, workers=workers, report=report
        )
        probs = pool_scores([*by_network, *by_pictures], labels)
    assert probs is not None
    if len(rows) < len(images):
        judged = f"{len(rows):,} of {len(images):,} images"
        report.note(f"mistakes looked for among the labels of {judged}")
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
        classes,
        seed=seed,
    )


def _judge_pictures(
    root: Path,
    paths: Sequence[str],
    labels: np.ndarray,
    classes: int,
    *,
    seed: int,
    workers: int,
    report: Reporter,
) -> list[np.ndarray]:
    """Scores by what small pictures look like, (N, K) a kind; parts of them judge each other."""
    rng = np.random.default_rng(seed)
    parts = np.array_split(rng.permutation(len(paths)), math.ceil(len(paths) / PART_MOST))
    scores = [np.empty((len(paths), classes), np.float32) for _ in range(3)]
    kinds = None
    with report.track("comparing small pictures", len(paths)) as advance:
        for part in parts:
            pictures = _small_pictures(root, [paths[row] for row in part], workers)
            kinds = kinds or kinds_of_places(pictures, seed=seed)
            # One kind at a time: each may take 200 MB.
            described = chain(describe(pictures, kinds), map(count_colours, [pictures]))
            for score, one in zip(scores, described, strict=True):
                score[part] = judge_by_likeness(one, labels[part], classes)
            advance(len(part))
    return scores


def _small_pictures(root: Path, files: Sequence[str], workers: int) -> np.ndarray:
    """(N, SIDE, SIDE, 3) uint8."""
    pictures = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    squares = small_squares(root, files, side_px=SIDE, workers=workers)
    for place, square in enumerate(squares):
        pictures[place] = square
    return pictures


def _drawn(count: int, most: int, seed: int) -> np.ndarray:
    """At most so many rows, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, 3]).choice(count, most, replace=False))


def _targets(images: Sequence[ImageFile], classes: Sequence[str]) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[image.label] for image in images], dtype=np.int64)
