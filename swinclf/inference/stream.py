"""Files in, answers out, in order: decoding runs ahead of the network, memory does not grow."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from swinclf.confidence.parameters import Confidence
from swinclf.data.loader import available_batches, decode_encoded, load_image, map_ahead
from swinclf.data.raster import to_rgb
from swinclf.data.transforms import eval_pixels
from swinclf.files import expand_home
from swinclf.inference.batching import BatchSize
from swinclf.inference.predictor import Outputs, Predictor, softmax
from swinclf.inference.sources import ENCODED, Source, explain_unreadable, image_of
from swinclf.parallel_batches import Lanes, threads_shared
from swinclf.preprocess import Preprocess

Given = TypeVar("Given", bound=Source)
Loaded = TypeVar("Loaded")
Answered = TypeVar("Answered")


@dataclass(frozen=True)
class Answer:
    """What became of one picture.

    Attributes:
        probabilities: (K,) float32; None where it could not be read.
        error: Why it could not be read; empty where it could.
        strangeness: Distance to the training images; None where the model cannot tell.
        logits: (K,) float32, as the network gave them.
        features: (D,) float32, where the model gives them.
    """

    probabilities: np.ndarray | None
    error: str
    strangeness: float | None = None
    logits: np.ndarray | None = None
    features: np.ndarray | None = None

    @property
    def judged(self) -> tuple[float, float]:
        """Highest probability and strangeness, nan where the model cannot tell."""
        best = math.nan if self.probabilities is None else float(self.probabilities.max())
        return best, math.nan if self.strangeness is None else self.strangeness


def answer_all(
    predictor: Predictor,
    sources: Iterable[Given],
    *,
    workers: int,
    batch_size: int | None = None,
    as_they_come: bool = False,
) -> Iterator[tuple[Given, Answer]]:
    """Answers for pictures, in their order.

    Args:
        predictor: What gives probabilities.
        sources: Files, pictures or (H, W, 3) uint8 arrays; taken as they are needed, so there may
            be any number.
        workers: Threads that decode.
        batch_size: Pictures that go through the network together; None for the predictor's choice,
            on a GPU what turns out to be quickest on the first of them.
        as_they_come: Answers what there is rather than wait for a full batch, for a source that may
            take its time. How many go together then depends on time, and so may the last digits.

    Yields:
        Each source with its answer; one that cannot be read has an error and disturbs no other.
    """
    card = predictor.card

    def load(source: Given) -> tuple[Given, _Loaded]:
        return source, _load(source, card.preprocess)

    def answer(batch: list[tuple[Given, _Loaded]]) -> list[tuple[Given, Answer]]:
        pixels = [loaded.pixels for _, loaded in batch if loaded.pixels is not None]
        start = perf_counter()
        rows: Iterator[Answer] = iter(())
        if pixels:
            rows = iter(answers_from(predictor.outputs(np.stack(pixels)), card.confidence))
        sizes.took(len(pixels), perf_counter() - start)
        return [
            (source, Answer(None, loaded.error) if loaded.pixels is None else next(rows))
            for source, loaded in batch
        ]

    lanes = predictor.lanes
    if batch_size is not None:
        lanes = replace(lanes, first=batch_size, most=batch_size)
    sizes = BatchSize(lanes)
    answers: Iterator[list[tuple[Given, Answer]]]
    if as_they_come:
        groups = available_batches(sources, sizes.size)
        loads = (
            list(map_ahead(load, one, workers=workers, ahead=len(one), late=_late))
            for one in groups
        )
        answers = map(answer, loads)
    else:
        loaded = map_ahead(load, sources, workers=workers, ahead=2 * lanes.most, late=_late)
        answers = _side_by_side(answer, sizes.batches(loaded), lanes)
    for batch in answers:
        yield from batch


def _side_by_side(
    answer: Callable[[Loaded], Answered], batches: Iterable[Loaded], lanes: Lanes
) -> Iterator[Answered]:
    """Answers batch by batch, in order; reading, network and the use of the answers overlap."""
    with threads_shared(lanes):
        yield from map_ahead(answer, batches, workers=lanes.count, ahead=lanes.count + 1)


def answers_from(outputs: Outputs, confidence: Confidence) -> list[Answer]:
    """What a model's outputs for N pictures say, with what is known of its confidence."""
    logits, features = outputs
    probabilities = softmax(logits, confidence.temperature)
    strange: list[float | None] = [None] * len(logits)
    if confidence.space is not None and features is not None:
        strange = confidence.space.strangeness(features).tolist()
    seen = [None] * len(logits) if features is None else features
    columns = zip(probabilities, strange, logits, seen, strict=True)
    return [Answer(row, "", *rest) for row, *rest in columns]


class _Loaded(NamedTuple):
    """What became of one source.

    Attributes:
        pixels: (H, W, 3) uint8, as the network wants them; None where it could not be read.
        error: Why it could not be read; empty where it could.
    """

    pixels: np.ndarray | None
    error: str


def _load(source: Any, preprocess: Preprocess) -> _Loaded:
    """Reads a source."""
    to_pixels = partial(eval_pixels, preprocess=preprocess)
    needed, ranges = preprocess.decode_px, preprocess.ranges
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        file = Path(expand_home(path))
        loaded = load_image(file, to_pixels, needed, ranges=ranges, digest=False)
        error = explain_unreadable(path, loaded.error) if loaded.error else ""
        return _Loaded(loaded.pixels, error)
    try:
        if isinstance(source, ENCODED):
            pixels = decode_encoded(bytes(source), to_pixels, needed, ranges)
        else:
            pixels = to_pixels(to_rgb(image_of(source), ranges))
        return _Loaded(pixels, "")
    except Exception as error:  # a picture in memory may be as broken as one in a file
        return _Loaded(None, str(error) or type(error).__name__)


def _late(item: Given, why: str) -> tuple[Given, _Loaded]:
    """A source that did not come."""
    return item, _Loaded(None, why)
