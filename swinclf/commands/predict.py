"""predict: labels for files, folders, globs, pictures and arrays; a stream in, a stream out."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from swinclf.confidence.selective import UNKNOWN, Judged, is_withheld, threshold_for
from swinclf.data.walk import new_walk, walk_images
from swinclf.device import default_workers
from swinclf.files import expand_home
from swinclf.inference.predictor import Predictor
from swinclf.inference.sources import Source
from swinclf.inference.stream import answer_all


@dataclass(frozen=True, repr=False)
class Prediction:
    """The answer for one input.

    Attributes:
        path: The input as it was given; empty for a picture in memory.
        label: The most likely class, or `unknown` where the model should rather not answer; empty
            where the input could not be read.
        probability: Its probability, in [0, 1].
        top: The most likely classes with their probabilities, best first.
        error: Why the input could not be read; empty where it could.
        strangeness: How far the picture lies from the training images, about 1 for one like them;
            None where the model cannot tell.
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    strangeness: float | None = None

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
    as_they_come: bool = False,
    reject: float | None = None,
) -> Iterator[Prediction]:
    """Answers for inputs, in their order, as they are done.

    Args:
        predictor: What answers (`inference.predictor.open_predictor`).
        inputs: Paths, PIL pictures or (H, W, 3) uint8 arrays; any number, taken as they are needed.
        top_k: Classes to give for each, best first.
        workers: Threads that decode; None for one a core.
        batch_size: Pictures that go through the network together; None for what turns out to be
            quickest on the first of them.
        as_they_come: Answers what there is rather than wait for a full batch.
        reject: Share of the answers that shall be right, in (0, 1): says `unknown` rather than
            guess where that, or the picture's strangeness, asks for it. None answers always.

    Raises:
        RunError: If the model cannot keep that precision, or does not know.

    Yields:
        One prediction for each input. An input that cannot be read has an error and no label.
    """
    count = default_workers() if workers is None else workers
    card = predictor.card
    if reject is not None:
        threshold_for(card.confidence, reject)  # before any image is looked at
    for source, answer in answer_all(
        predictor,
        inputs,
        workers=count,
        batch_size=batch_size,
        as_they_come=as_they_come,
    ):
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
        if answer.probabilities is None:
            yield Prediction(path, "", 0.0, (), answer.error)
        else:
            top = _top(answer.probabilities, card.classes, top_k)
            label, probability = top[0]
            judged = Judged.of([answer.judged])
            if reject is not None and is_withheld(card.confidence, reject, judged)[0]:
                label = UNKNOWN
            yield Prediction(path, label, probability, top, strangeness=answer.strangeness)


def expand_inputs(inputs: Iterable[str], ignored: Counter[str] | None = None) -> Iterator[str]:
    """Files as they are, folders as the images below them, patterns as what they match.

    Args:
        inputs: Paths, patterns with * ? [ ], in any mixture.
        ignored: Counts the files in folders that are no images, by extension; None for nobody.

    Yields:
        Paths of files, in order; of a pattern or folder that gives none, the input itself, so that
        it ends as an error and not in silence.
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
