"""Labelled images -> metrics and a row for each image, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinclf.data.folder import ImageFile, Skipped
from swinclf.errors import DataError
from swinclf.evaluation.metrics import Metrics, Tally
from swinclf.inference.predictor import Predictor
from swinclf.inference.stream import answer_all
from swinclf.progress import Reporter


class ScoredImage(NamedTuple):
    """A row of predictions.csv."""

    path: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Scored:
    """What became of the images.

    Attributes:
        metrics: Over the readable ones.
        rows: One for each readable image, in order.
        strangeness: Of each of these; None where the model cannot tell.
        skipped: The others.
    """

    metrics: Metrics
    rows: list[ScoredImage]
    strangeness: list[float | None]
    skipped: list[Skipped]


def score_images(
    predictor: Predictor,
    root: Path,
    images: Sequence[ImageFile],
    *,
    split: str,
    workers: int,
    report: Reporter,
) -> Scored:
    """Scores a predictor on labelled images.

    Args:
        predictor: What is scored.
        root: The folder that the images' paths are relative to.
        images: Each with a label that is one of the predictor's classes.
        split: What the images are, for the metrics.
        workers: Threads that decode.
        report: Told of progress.

    Raises:
        DataError: If not one image can be read.
    """
    classes = predictor.card.classes
    index = {name: number for number, name in enumerate(classes)}
    tally = Tally(classes)
    rows: list[ScoredImage] = []
    strangeness: list[float | None] = []
    skipped: list[Skipped] = []
    answers = answer_all(predictor, (root / image.path for image in images), workers=workers)
    with report.track(f"scoring {split}", len(images)) as advance:
        for image, (_, answer) in zip(images, answers, strict=True):
            if answer.probabilities is None:
                skipped.append(Skipped(image.path, answer.error))
            else:
                best = int(answer.probabilities.argmax())
                tally.update(answer.probabilities[None], np.array([index[image.label]]))
                probability = float(answer.probabilities[best])
                rows.append(ScoredImage(image.path, image.label, classes[best], probability))
                strangeness.append(answer.strangeness)
            advance(1)
    if not rows:
        raise DataError(
            f"at least one readable image to score in '{root}'",
            found=f"{len(images)} images, none readable",
            hint="swinclf predict on one of them, to see why",
        )
    return Scored(tally.result(split), rows, strangeness, skipped)
