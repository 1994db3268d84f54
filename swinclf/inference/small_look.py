"""A look at small copies of a dataset's pictures: what they tell of its labels and of its classes.

Letters: N pictures, K classes that are judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinclf.data.thumbnails import small_squares
from swinclf.evaluation.second_opinion import fit_picture_classifier
from swinclf.evaluation.suspects import judge_by_likeness
from swinclf.inference.small_pictures import count_colours, describe, kinds_of_places
from swinclf.mixture import Mixture
from swinclf.preprocess import ValueRange
from swinclf.progress import Reporter
from swinclf.second_opinion import SIDE, PictureClassifier, Told

PART_MOST = 6_000  # whose likenesses to each other take 144 MB
LEARNED_MOST = 2_000  # pictures that a classifier is fitted on
DESCRIPTIONS = 3  # by edges, by hues, by the colours of the whole


class Labelled(NamedTuple):
    """Pictures to look at.

    Attributes:
        paths: N files.
        labels: (N,), 0 to K - 1.
        classes: (K,) class index of each label.
        of_all: How many classes there are in all.
        held_out: (N,) whether no classifier may learn it; None where none shall.
    """

    paths: Sequence[str]
    labels: np.ndarray
    classes: np.ndarray
    of_all: int
    held_out: np.ndarray | None = None


class Heard(NamedTuple):
    """A classifier that learned pictures, and what it tells of those that were held out."""

    classifier: PictureClassifier
    told: Told


class SmallLook(NamedTuple):
    """What small pictures tell.

    Attributes:
        scores: By each description, (N, K), the higher the more likely; a picture's own label took
            no part in its scores.
        heard: By edges and by hues; empty where there were too few pictures to learn from.
        held_out: The files that these tell of, in order.
    """

    scores: list[np.ndarray]
    heard: list[Heard]
    held_out: list[str]


def look_at_small_pictures(
    root: Path,
    pictures: Labelled,
    *,
    seed: int,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...] = (),
) -> SmallLook:
    """Describes small copies of pictures, a part of them at a time, which judge each other.

    Args:
        root: What the paths are relative to.
        pictures: At least one.
        seed: Of the parts, and of what is drawn.
        workers: Threads that read.
        report: Told of progress.
        ranges: Which values of more than 8 bits are black and white.

    Raises:
        DataError: If the pictures' disk is gone.
    """
    count = len(pictures.paths)
    order = np.random.default_rng(seed).permutation(count)
    shape = (count, len(pictures.classes))
    look = SmallLook([np.empty(shape, np.float32) for _ in range(DESCRIPTIONS)], [], [])
    kinds = None
    with report.track("comparing small pictures", count) as advance:
        for part in np.array_split(order, math.ceil(count / PART_MOST)):
            files = [pictures.paths[row] for row in part]
            small = _small_pictures(root, files, workers, ranges)
            is_first, kinds = kinds is None, kinds or kinds_of_places(small, seed=seed)
            # One description at a time: each may take 200 MB.
            described = chain(describe(small, kinds), map(count_colours, [small]))
            for place, one in enumerate(described):
                look.scores[place][part] = judge_by_likeness(
                    one, pictures.labels[part], len(pictures.classes)
                )
                if is_first and place < len(kinds):
                    look.heard.extend(_heard(kinds[place], one, part, pictures))
            advance(len(part))
            if is_first and pictures.held_out is not None:
                look.held_out.extend(pictures.paths[row] for row in part[pictures.held_out[part]])
    return look if len(look.heard) == len(kinds or ()) else look._replace(heard=[], held_out=[])


def _heard(
    kinds: Mixture, described: np.ndarray, part: np.ndarray, pictures: Labelled
) -> list[Heard]:
    """Lets a classifier learn from part of a dataset; none where there is too little."""
    if pictures.held_out is None:
        return []
    truth, out = pictures.classes[pictures.labels[part]], pictures.held_out[part]
    learned, judged = np.flatnonzero(~out)[:LEARNED_MOST], described[out]
    classifier = fit_picture_classifier(
        kinds, described[learned], truth[learned], pictures.of_all, judged, truth[out]
    )
    return [] if classifier is None else [Heard(classifier, classifier.tell(judged))]


def _small_pictures(
    root: Path, files: Sequence[str], workers: int, ranges: tuple[ValueRange, ...]
) -> np.ndarray:
    """(N, SIDE, SIDE, 3) uint8."""
    pictures = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    squares = small_squares(root, files, side_px=SIDE, workers=workers, ranges=ranges)
    for place, square in enumerate(squares):
        pictures[place] = square
    return pictures
