"""Inference on a stream of images: decoding runs ahead of the network, memory is bounded."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from swinclf.confidence.parameters import Confidence
from swinclf.data.loader import available_batches, decode_encoded, load_image, map_ahead
from swinclf.data.raster import to_rgb
from swinclf.data.transforms import eval_pixels
from swinclf.files import expand_home
from swinclf.inference.batching import BatchSize
from swinclf.inference.predictor import Outputs, Predictor, softmax
from swinclf.inference.sources import ENCODED, Source, explain_unreadable, to_pil
from swinclf.parallel_batches import ParallelBatches, divide_threads
from swinclf.preprocess import Preprocess

InputT = TypeVar("InputT", bound=Source)
BatchT = TypeVar("BatchT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True)
class ImageOutput:
    """The outputs for one image, or why it could not be read.

    Attributes:
        probabilities: (K,) float32, calibrated; None if the image could not be read.
        error: Why it could not be read; empty if it could.
        ood_score: Distance to the training images; None from a model without a feature space.
        logits: (K,) float32, before calibration.
        features: (D,) float32; None from a model that does not give them.
    """

    probabilities: np.ndarray | None
    error: str
    ood_score: float | None = None
    logits: np.ndarray | None = None
    features: np.ndarray | None = None

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
) -> Iterator[tuple[InputT, ImageOutput]]:
    """Yield the outputs for images, in their order.

    Args:
        predictor: The model.
        sources: Paths, encoded images, PIL images or (H, W, 3) uint8 arrays; an iterator of any
            length, read lazily.
        workers: Threads that decode.
        batch_size: Images in a batch; None for the predictor's default, which on a GPU is tuned on
            the first batches.
        low_latency: Compute the images that are available instead of waiting for a full batch, for
            a slow source. The batch sizes, and with them the last digits, then depend on timing.

    Yields:
        Each source with its outputs; one that cannot be read has an error and affects no other.
    """
    card = predictor.card
    to_pixels: Callable[[Image.Image], np.ndarray] = np.asarray
    if not predictor.takes_any_size:
        to_pixels = partial(eval_pixels, preprocess=card.preprocess)

    def load(source: InputT) -> tuple[InputT, _Loaded]:
        return source, _load(source, to_pixels, card.preprocess)

    def compute(batch: list[tuple[InputT, _Loaded]]) -> list[tuple[InputT, ImageOutput]]:
        pixels = [loaded.pixels for _, loaded in batch if loaded.pixels is not None]
        start = perf_counter()
        rows = iter(_compute_by_size(predictor, pixels))
        sizes.record(len(pixels), perf_counter() - start)
        return [
            (source, ImageOutput(None, loaded.error) if loaded.pixels is None else next(rows))
            for source, loaded in batch
        ]

    parallel = predictor.parallel
    if batch_size is not None:
        parallel = replace(parallel, first_size=batch_size, max_size=batch_size)
    sizes = BatchSize(parallel)
    outputs: Iterator[list[tuple[InputT, ImageOutput]]]
    if low_latency:
        groups = available_batches(sources, sizes.size)
        loads = (
            list(map_ahead(load, one, workers=workers, ahead=len(one), late=_timed_out))
            for one in groups
        )
        outputs = map(compute, loads)
    else:
        ahead = 2 * parallel.max_size
        loaded = map_ahead(load, sources, workers=workers, ahead=ahead, late=_timed_out)
        outputs = _compute_in_parallel(compute, sizes.batches(loaded), parallel)
    for batch in outputs:
        yield from batch


def _compute_in_parallel(
    compute: Callable[[BatchT], OutputT], batches: Iterable[BatchT], parallel: ParallelBatches
) -> Iterator[OutputT]:
    """Yield the outputs of batches, in order; decoding, network and the caller overlap."""
    with divide_threads(parallel):
        yield from map_ahead(compute, batches, workers=parallel.count, ahead=parallel.count + 1)


def _compute_by_size(predictor: Predictor, pixels: Sequence[np.ndarray]) -> list[ImageOutput]:
    """Return the outputs for images, of which those of one size are computed together."""
    groups = defaultdict(list)
    for row, one in enumerate(pixels):
        groups[one.shape].append(row)
    rows: dict[int, ImageOutput] = {}
    for group in groups.values():
        outputs = predictor.outputs(np.stack([pixels[row] for row in group]))
        rows |= zip(group, to_image_outputs(outputs, predictor.card.confidence), strict=True)
    return [rows[row] for row in range(len(pixels))]


def to_image_outputs(outputs: Outputs, confidence: Confidence) -> list[ImageOutput]:
    """Return calibrated outputs for each of N images."""
    logits, features, scores = outputs
    probabilities = softmax(logits, confidence.temperature)
    ood_scores: list[float | None] = [None] * len(logits)
    if confidence.space is not None and scores is not None:
        ood_scores = scores.tolist()
    elif confidence.space is not None and features is not None:
        ood_scores = confidence.space.ood_scores(features).tolist()
    feature_rows = [None] * len(logits) if features is None else features
    columns = zip(probabilities, ood_scores, logits, feature_rows, strict=True)
    return [ImageOutput(row, "", *rest) for row, *rest in columns]


class _Loaded(NamedTuple):
    """A decoded source.

    Attributes:
        pixels: (H, W, 3) uint8, as the predictor takes it; None if it could not be read.
        error: Why it could not be read; empty if it could.
    """

    pixels: np.ndarray | None
    error: str


def _load(
    source: Any, to_pixels: Callable[[Image.Image], np.ndarray], preprocess: Preprocess
) -> _Loaded:
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
            pixels = to_pixels(to_rgb(to_pil(source), ranges))
        return _Loaded(pixels, "")
    except Exception as error:  # an image in memory may be as broken as one in a file
        return _Loaded(None, str(error) or type(error).__name__)


def _timed_out(item: InputT, why: str) -> tuple[InputT, _Loaded]:
    return item, _Loaded(None, why)
