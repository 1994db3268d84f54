"""Labelled images -> metrics and a row for each image, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swinclf.confidence.parameters import Confidence
from swinclf.confidence.selective import Judged
from swinclf.data.folder import ImageFile, SkippedFile
from swinclf.data.scan_notes import most_frequent_reason, remedy_for
from swinclf.device import whole_batch
from swinclf.errors import DataError
from swinclf.inference.predictor import Outputs, Predictor
from swinclf.inference.stream import Answer, answer_all, answers_from
from swinclf.metrics import Metrics, Tally
from swinclf.reporter import Reporter


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
        judged: What is known of each of these answers.
        skipped: The others.
    """

    metrics: Metrics
    rows: list[ScoredImage]
    judged: Judged
    skipped: list[SkippedFile]


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
    files = (root / image.path for image in images)
    size = whole_batch(predictor.device)
    whole = _WholeBatches(predictor, size)
    answers = answer_all(whole, files, workers=workers, batch_size=size)
    return score_answers(
        predictor.card.classes,
        root,
        images,
        (answer for _, answer in answers),
        split=split,
        report=report,
    )


def score_answers(
    classes: Sequence[str],
    root: Path,
    images: Sequence[ImageFile],
    answers: Iterable[Answer],
    *,
    split: str,
    report: Reporter,
) -> Scored:
    """Scores answers for labelled images.

    Args:
        classes: Class names in the order of the probabilities.
        root: The folder that the images' paths are relative to.
        images: Each with a label that is one of the classes.
        answers: One for each image, in order.
        split: What the images are, for the metrics.
        report: Told of progress.

    Raises:
        DataError: If not one image could be read.
    """
    index = {name: number for number, name in enumerate(classes)}
    tally = Tally(classes)
    rows: list[ScoredImage] = []
    judged: list[tuple[float, float]] = []
    skipped: list[SkippedFile] = []
    with report.track(f"scoring {split}", len(images)) as advance:
        for image, answer in zip(images, answers, strict=True):
            if answer.probabilities is None:
                skipped.append(SkippedFile(image.path, answer.error, image.label))
            else:
                best = int(answer.probabilities.argmax())
                tally.update(answer.probabilities[None], np.array([index[image.label]]))
                probability = float(answer.probabilities[best])
                rows.append(ScoredImage(image.path, image.label, classes[best], probability))
                judged.append(answer.judged)
            advance(1)
    if not rows:
        reason, count = most_frequent_reason(skipped)
        raise DataError(
            f"at least one readable image to score in '{root}'",
            found=f"{len(images):,} files, none readable; {count:,} of them: {reason}",
            hint=remedy_for(reason) or f"swinclf check '{root}', which says of each what is wrong",
        )
    return Scored(tally.result(split), rows, Judged.of(judged), skipped)


def answers_in_whole_batches(
    outputs: Outputs, confidence: Confidence, device: str
) -> Iterator[Answer]:
    """The answers that N outputs give, in the batches that images are scored in on a device."""
    logits, features = outputs
    size = whole_batch(device)
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        seen = None if features is None else features[rows]
        yield from answers_from(Outputs(logits[rows], seen), confidence)


class _WholeBatches:
    """A predictor that fills short batches up: so no answer depends on how many images there are.

    Args:
        predictor: What answers.
        size: Pictures of a whole batch.
    """

    def __init__(self, predictor: Predictor, size: int) -> None:
        self._predictor, self._size = predictor, size
        self.card, self.lanes, self.device = predictor.card, predictor.lanes, predictor.device
        self.note = predictor.note

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """See `Predictor`."""
        missing = self._size - len(pixels)
        whole = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        logits, features = self._predictor.outputs(whole)
        return Outputs(logits[: len(pixels)], None if features is None else features[: len(pixels)])
