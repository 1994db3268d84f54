"""Files in, answers out, in order: decoding runs ahead of the network, memory does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
from PIL import Image

from swinclf.confidence import Confidence
from swinclf.data.images import to_rgb
from swinclf.data.loader import (
    LoadedImage,
    groups_at_hand,
    load_for_prediction,
    map_ahead,
    not_loaded,
)
from swinclf.data.transforms import eval_pixels
from swinclf.inference.batching import BatchSize
from swinclf.inference.predictor import Outputs, Predictor, softmax
from swinclf.lanes import Lanes, threads_shared

Source = TypeVar("Source", bound="str | Path | Image.Image | np.ndarray")
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


def answer_all(
    predictor: Predictor,
    sources: Iterable[Source],
    *,
    workers: int,
    batch_size: int | None = None,
    as_they_come: bool = False,
) -> Iterator[tuple[Source, Answer]]:
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

    def load(source: Source) -> tuple[Source, LoadedImage]:
        return source, _load(source, predictor)

    def answer(batch: list[tuple[Source, LoadedImage]]) -> list[tuple[Source, Answer]]:
        readable = [loaded.pixels for _, loaded in batch if loaded.pixels is not None]
        start = perf_counter()
        rows: Iterator[Answer] = iter(())
        if readable:
            outputs = predictor.outputs(np.stack(readable))
            rows = iter(answers_from(outputs, predictor.card.confidence))
        sizes.took(len(readable), perf_counter() - start)
        return [
            (source, Answer(None, loaded.error) if loaded.pixels is None else next(rows))
            for source, loaded in batch
        ]

    lanes = predictor.lanes
    if batch_size is not None:
        lanes = replace(lanes, first=batch_size, most=batch_size)
    sizes = BatchSize(lanes)
    answers: Iterator[list[tuple[Source, Answer]]]
    if as_they_come:
        groups = groups_at_hand(sources, sizes.size)
        loads = (
            list(map_ahead(load, one, workers=workers, ahead=len(one), late=not_loaded))
            for one in groups
        )
        answers = map(answer, loads)
    else:
        loaded = map_ahead(load, sources, workers=workers, ahead=2 * lanes.most, late=not_loaded)
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


def _load(source: str | Path | Image.Image | np.ndarray, predictor: Predictor) -> LoadedImage:
    preprocess = predictor.card.preprocess
    if isinstance(source, str | Path):
        return load_for_prediction(Path(source), preprocess, digest=False)
    try:
        picture = source if isinstance(source, Image.Image) else _from_array(source)
        return LoadedImage(eval_pixels(to_rgb(picture), preprocess), b"", "")
    except Exception as error:  # a picture in memory may be as broken as one in a file
        return LoadedImage(None, b"", str(error) or type(error).__name__)


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"an array is (height, width, 3) uint8, not {pixels.shape} {pixels.dtype}")
    return Image.fromarray(pixels)
