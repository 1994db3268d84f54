"""Inference on a stream of images: decoding runs ahead of the network, memory is bounded."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from swinclf.card import ModelCard
from swinclf.confidence.selective import UNKNOWN, Confidence, SelectiveScores, is_rejected
from swinclf.data.loader import (
    LoadedImage,
    available_batches,
    batched,
    decode_encoded,
    load_for_prediction,
    map_ahead,
    not_loaded,
)
from swinclf.data.raster import to_rgb
from swinclf.data.transforms import eval_pixels
from swinclf.device import fixed_batch_size
from swinclf.inference.prediction import Prediction
from swinclf.inference.predictor import Outputs, Predictor, softmax
from swinclf.inference.sources import ENCODED, Source, explain_unreadable, to_pil
from swinclf.parallel_batches import divide_threads
from swinclf.path_patterns import expand_home
from swinclf.preprocess import Preprocess

InputT = TypeVar("InputT", bound=Source)
NOT_FINITE = "the network's outputs are not finite numbers: use another precision, such as fp32"


@dataclass(frozen=True)
class ImageOutput:
    """The outputs for one image, or why there are none."""

    # (K,) float32, calibrated; None if the image could not be read, or the network overflowed
    probabilities: np.ndarray | None
    error: str  # why there are none; empty if there are
    # distance to the training images; None from a model without a feature space
    ood_score: float | None = None
    logits: np.ndarray | None = None  # (K,) float32, before calibration
    features: np.ndarray | None = None  # (D,) float32; None from a model that does not give them

    @property
    def selective_scores(self) -> tuple[float, float]:
        """Highest probability and out-of-distribution score; nan for what is None."""
        best = math.nan if self.probabilities is None else float(self.probabilities.max())
        return best, math.nan if self.ood_score is None else self.ood_score


def stream_outputs(
    predictor: Predictor,
    sources: Iterable[InputT],
    *,
    workers: int,
    batch_size: int | None = None,
    low_latency: bool = False,
    is_padded: bool = False,
) -> Iterator[tuple[InputT, ImageOutput]]:
    """Yield the outputs for images, in their order.

    Args:
        predictor: The model.
        sources: Paths, encoded images, PIL images or (H, W, 3) uint8 arrays; an iterator of any
            length, read lazily.
        workers: Threads that decode.
        batch_size: Images in a batch; None for the predictor's default.
        low_latency: Compute the images that are available instead of waiting for a full batch, for
            a slow source. The batch sizes, and with them the last digits, then depend on timing.
        is_padded: Pad short batches to the device's own size, so that no output depends on the
            number of images.

    Yields:
        Each source with its outputs; one that cannot be read has an error and affects no other.
    """
    parallel = predictor.parallel
    size, pad_to = batch_size or parallel.size, 0
    if is_padded:
        size = pad_to = 1 if predictor.takes_any_size else fixed_batch_size(predictor.device)
    read = partial(_load, preprocess=predictor.card.preprocess, resize=not predictor.takes_any_size)
    items = _read_what_may_change(sources, read)

    def load(item: tuple[InputT, LoadedImage | None]) -> tuple[InputT, LoadedImage]:
        return item[0], item[1] or read(item[0])

    def refuse(item: tuple[InputT, LoadedImage | None], why: str) -> tuple[InputT, LoadedImage]:
        return not_loaded(item[0], why)

    def compute(batch: list[tuple[InputT, LoadedImage]]) -> list[tuple[InputT, ImageOutput]]:
        pixels = [loaded.pixels for _, loaded in batch if loaded.pixels is not None]
        rows = iter(compute_by_size(predictor, pixels, pad_to=pad_to))
        return [
            (source, ImageOutput(None, loaded.error) if loaded.pixels is None else next(rows))
            for source, loaded in batch
        ]

    if low_latency:
        for group in available_batches(items, size):
            loaded = map_ahead(load, group, workers=workers, ahead=len(group), late=refuse)
            yield from compute(list(loaded))
        return
    loaded = map_ahead(load, items, workers=workers, ahead=2 * size, late=refuse)
    with divide_threads(parallel):  # decoding, network and the caller overlap
        batches, lanes = batched(loaded, size), parallel.count
        for outputs in map_ahead(compute, batches, workers=lanes, ahead=lanes + 1):
            yield from outputs


def _read_what_may_change(
    sources: Iterable[InputT], read: Callable[[InputT], LoadedImage]
) -> Iterator[tuple[InputT, LoadedImage | None]]:
    """Yield sources, with the pixels of those that the caller may change or close after it."""
    for source in sources:
        is_read_later = isinstance(source, (str, os.PathLike, bytes))
        yield source, None if is_read_later else read(source)


def compute_by_size(
    predictor: Predictor, pixels: Sequence[np.ndarray], *, pad_to: int = 0
) -> list[ImageOutput]:
    """Return the outputs for decoded images, of which those of one size are computed together.

    Less than `pad_to` images are repeated up to that number, so that the rounding of no output
    depends on it.
    """
    groups = defaultdict(list)
    for row, one in enumerate(pixels):
        groups[one.shape].append(row)
    rows: dict[int, ImageOutput] = {}
    for group in groups.values():
        padded = group + group[-1:] * (pad_to - len(group))
        outputs = predictor.outputs(np.stack([pixels[row] for row in padded]))
        own = outputs.rows(slice(0, len(group)))
        rows |= zip(group, to_image_outputs(own, predictor.card.confidence), strict=True)
    return [rows[row] for row in range(len(pixels))]


def to_image_outputs(outputs: Outputs, confidence: Confidence) -> list[ImageOutput]:
    """Return calibrated outputs for each of N images, an error where they are not finite."""
    logits, features, scores = outputs
    ood_scores: list[float | None] = [None] * len(logits)
    with np.errstate(invalid="ignore", over="ignore"):
        probabilities = softmax(logits, confidence.temperature)
        if confidence.space is not None and scores is not None:
            ood_scores = scores.tolist()
        elif confidence.space is not None and features is not None:
            ood_scores = confidence.space.ood_scores(features).tolist()
    is_finite = np.isfinite(logits).all(axis=1)
    feature_rows = [None] * len(logits) if features is None else features
    columns = zip(is_finite, probabilities, ood_scores, logits, feature_rows, strict=True)
    return [
        ImageOutput(row, "", *rest) if is_good else ImageOutput(None, NOT_FINITE)
        for is_good, row, *rest in columns
    ]


def most_probable(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` > 0 most probable of K classes, all of them if K is less.

    The most probable is first, and the lower index of equal ones. Only those are sorted that may be
    among them: sorting ten thousand classes takes longer.
    """
    descending = -probabilities
    candidates = np.arange(len(descending))
    if count < len(descending):
        last = np.partition(descending, count - 1)[count - 1]
        candidates = np.flatnonzero(~(descending > last))  # all, if it is nan
    order = np.argsort(descending[candidates], kind="stable")
    return candidates[order[:count]]


def to_prediction(
    path: str, output: ImageOutput, card: ModelCard, *, top_k: int, reject: float | None
) -> Prediction:
    """Return the prediction for the outputs of one image, with its `top_k` classes.

    `path` is the image as it was given, `reject` the target share of correct predictions, in
    (0, 1); None rejects nothing.

    Raises:
        RunError: If the model has no threshold for that precision.
    """
    if output.probabilities is None:
        return Prediction(path, "", 0.0, (), output.error)
    order = most_probable(output.probabilities, max(1, top_k))
    top = tuple((card.classes[index], float(output.probabilities[index])) for index in order)
    label, probability = top[0]
    scores = SelectiveScores.from_rows([output.selective_scores])
    is_unknown = reject is not None and bool(is_rejected(card.confidence, reject, scores)[0])
    return Prediction(
        *(path, UNKNOWN if is_unknown else label, probability, top),
        ood_score=output.ood_score,
        is_unknown=is_unknown,
    )


def _load(source: Any, preprocess: Preprocess, *, resize: bool) -> LoadedImage:
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        loaded = load_for_prediction(
            Path(expand_home(path)), preprocess, resize=resize, digest=False
        )
        if loaded.error:
            loaded = replace(loaded, error=explain_unreadable(path, loaded.error))
        return loaded
    try:
        if isinstance(source, ENCODED):
            pixels = decode_encoded(bytes(source), preprocess, resize=resize)
        else:
            picture = to_rgb(to_pil(source), preprocess.ranges)
            pixels = eval_pixels(picture, preprocess) if resize else np.asarray(picture)
        return LoadedImage(pixels, b"", "")
    except Exception as error:  # an image in memory may be as broken as one in a file
        return LoadedImage(None, b"", str(error) or type(error).__name__)
