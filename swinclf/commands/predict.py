"""predict: classify a stream of files, images in memory and arrays."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from swinclf.confidence.selective import UNKNOWN, SelectiveScores, is_rejected, threshold_for
from swinclf.data.walk import new_walk, walk_images
from swinclf.device import default_workers
from swinclf.files import expand_home
from swinclf.inference.predictor import Predictor
from swinclf.inference.sources import Source
from swinclf.inference.stream import stream_outputs


@dataclass(frozen=True, repr=False)
class Prediction:
    """The prediction for one input.

    Attributes:
        path: The input as it was given; empty for an image in memory.
        label: The most likely class, or `unknown` if the prediction is rejected; empty if the
            input could not be read.
        probability: Of the most likely class, in [0, 1].
        top: The most likely classes with their probabilities, best first.
        error: Why the input could not be read; empty if it could.
        ood_score: Out-of-distribution score, about 1 for an image like the training images; None
            from a model without a feature space.
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    ood_score: float | None = None

    def __repr__(self) -> str:
        """Return one line: the label and its probability, or the error; then the path.

        >>> Prediction("a.jpg", "rose", 0.931, (("rose", 0.931), ("daisy", 0.069)))
        Prediction(label='rose', probability=0.931, path='a.jpg')
        >>> Prediction("b.jpg", "", 0.0, (), error="no such file")
        Prediction(error='no such file', path='b.jpg')
        """
        answer = f"label={self.label!r}, probability={self.probability:.3f}"
        path = f", path={self.path!r}" if self.path else ""
        return f"Prediction({f'error={self.error!r}' if self.error else answer}{path})"


def predict(
    predictor: Predictor,
    inputs: Iterable[Source],
    *,
    top_k: int = 5,
    workers: int | None = None,
    batch_size: int | None = None,
    low_latency: bool = False,
    reject: float | None = None,
) -> Iterator[Prediction]:
    """Yield predictions for inputs, in their order.

    Args:
        predictor: The model (`inference.predictor.open_predictor`).
        inputs: Paths, encoded images, PIL images or (H, W, 3) uint8 arrays; an iterator of any
            length, read lazily.
        top_k: Classes of each prediction.
        workers: Threads that decode; None for one a core.
        batch_size: Images in a batch; None for the predictor's default.
        low_latency: Compute the images that are available instead of waiting for a full batch.
        reject: Target share of correct predictions, in (0, 1): predictions that are too uncertain
            for it, or out of distribution, become `unknown`. None rejects nothing.

    Raises:
        RunError: If the model has no threshold for that precision.

    Yields:
        One prediction for each input. An input that cannot be read has an error and no label.
    """
    count = default_workers() if workers is None else workers
    card = predictor.card
    if reject is not None:
        threshold_for(card.confidence, reject)  # raises before any image is read
    for source, output in stream_outputs(
        predictor,
        inputs,
        workers=count,
        batch_size=batch_size,
        low_latency=low_latency,
    ):
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
        if output.probabilities is None:
            yield Prediction(path, "", 0.0, (), output.error)
        else:
            top = _top(output.probabilities, card.classes, top_k)
            label, probability = top[0]
            scores = SelectiveScores.from_rows([output.selective_scores])
            if reject is not None and is_rejected(card.confidence, reject, scores)[0]:
                label = UNKNOWN
            yield Prediction(path, label, probability, top, ood_score=output.ood_score)


def expand_inputs(inputs: Iterable[str], ignored: Counter[str] | None = None) -> Iterator[str]:
    """Expand folders to the images in them and patterns to what they match.

    Args:
        inputs: Paths and patterns with * ? [ ].
        ignored: Counts the files in folders that are not images, by extension; None does not.

    Yields:
        Paths of files, in order; a pattern or folder without any itself, so that it is reported
        as an error.
    """
    for given in map(expand_home, inputs):
        if os.path.isdir(given):  # noqa: PTH112 - paths stay the strings they were given as
            yield from _or_itself(_images_in(given, ignored), given)
        elif glob.has_magic(given) and not os.path.lexists(given):
            matches = sorted(glob.iglob(given, recursive=True))  # noqa: PTH207
            files = (one for match in matches for one in _files_of(match, ignored))
            yield from _or_itself(files, given)
        else:
            yield given


def _files_of(path: str, ignored: Counter[str] | None) -> Iterator[str]:
    is_folder = os.path.isdir(path)  # noqa: PTH112
    return _images_in(path, ignored) if is_folder else iter([path])


def _images_in(folder: str, ignored: Counter[str] | None) -> Iterator[str]:
    walk = new_walk(folder)
    yield from walk_images(folder, walk)
    if ignored is not None:
        ignored.update(walk.ignored)


def _or_itself(paths: Iterator[str], given: str) -> Iterator[str]:
    first = next(paths, None)
    if first is None:
        yield given
    else:
        yield first
        yield from paths


def _top(
    probabilities: np.ndarray, classes: tuple[str, ...], count: int
) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[: max(1, count)]
    return tuple((classes[index], float(probabilities[index])) for index in order)
