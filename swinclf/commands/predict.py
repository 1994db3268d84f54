"""predict: classify a stream of files, images in memory and arrays."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from swinclf.confidence.selective import threshold_for
from swinclf.data.thumbnails import thumbnails
from swinclf.data.walk import walk_images
from swinclf.device import default_workers
from swinclf.files import natural_key
from swinclf.inference.labelling import CANDIDATES, select_diverse
from swinclf.inference.prediction import Prediction
from swinclf.inference.predictor import Predictor
from swinclf.inference.shared_stream import ModelFile, stream_shared
from swinclf.inference.sources import Source
from swinclf.inference.stream import stream_outputs, to_prediction
from swinclf.path_patterns import expand_home, expand_pattern, is_pattern
from swinclf.reporter import SILENT, Reporter, format_percent
from swinclf.reporting.prediction_page import PageRow, write_prediction_page


def predict(
    predictor: Predictor,
    inputs: Iterable[Source],
    *,
    top_k: int = 5,
    workers: int | None = None,
    low_latency: bool = False,
    reject: float | None = None,
    model: ModelFile | None = None,
) -> Generator[Prediction, None, None]:
    """Yield predictions for inputs, in their order.

    An input that cannot be read has an error and no label. `inputs` may be an iterator of any
    length, read lazily. `workers` is the number of threads that decode; None for one a core. Others
    are as of `stream_outputs`, `to_prediction` and, with which other processes take part,
    `stream_shared`.

    Raises:
        RunError: If the model has no threshold for that precision.
    """
    count = default_workers() if workers is None else workers
    card = predictor.card
    if reject is not None:
        threshold_for(card.confidence, reject)  # raises before any image is read
    outputs = (
        stream_outputs(predictor, inputs, workers=count, low_latency=True)
        if low_latency
        else stream_shared(predictor, model, inputs, workers=count)
    )
    for source, output in outputs:
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
        yield to_prediction(path, output, card, top_k=top_k, reject=reject)


def select_queue(
    predictor: Predictor,
    predictions: Iterable[Prediction],
    count: int,
    top_k: int,
    *,
    workers: int | None = None,
) -> list[Prediction]:
    """Return the predictions of the images most worth labelling next, the most valuable first.

    Each prediction is of a file, with two classes or more in `top`, of which `top_k` are returned.
    The predictor's features make the selection diverse. Unreadable files follow.
    """
    unreadable: list[Prediction] = []

    def readable() -> Iterator[Prediction]:
        for one in predictions:
            if one.error:
                unreadable.append(one)
            else:
                yield one

    candidates = heapq.nsmallest(CANDIDATES * count, readable(), key=lambda one: one.margin)
    outputs = stream_outputs(
        predictor,
        [one.path for one in candidates],
        workers=default_workers() if workers is None else workers,
    )
    rows = [output.features for _, output in outputs]
    found = [row for row in rows if row is not None]
    features = np.stack(found) if found and len(found) == len(candidates) else None
    margins = np.array([one.margin for one in candidates])
    chosen = [candidates[index] for index in select_diverse(margins, features, count)]
    return [replace(one, top=one.top[:top_k]) for one in chosen] + unreadable


def write_gallery(
    path: Path,
    predictions: Sequence[Prediction],
    predictor: Predictor,
    *,
    is_queue: bool = False,
    workers: int | None = None,
    report: Reporter = SILENT,
) -> None:
    """Write an HTML page with the thumbnails of predictions of files; overwrites one at `path`.

    `is_queue` is whether they are in order of importance, as by `select_queue`.
    """

    def draw(files: Sequence[str]) -> Iterator[bytes | None]:
        count = default_workers() if workers is None else workers
        ranges = predictor.card.preprocess.ranges
        with report.track("thumbnails", len(files)) as advance:
            for picture in thumbnails(Path(), files, workers=count, ranges=ranges):
                advance(1)
                yield picture

    rows = []
    for one in predictions:
        classes = one.top if one.is_unknown else one.top[1:]
        others = ", ".join(f"{label} {format_percent(share)}" for label, share in classes[:2])
        if not one.error:
            rows.append(PageRow(one.path, one.label, one.probability, others, one.is_unknown))
    write_prediction_page(
        path,
        rows,
        [(one.path, one.error) for one in predictions if one.error],
        model=predictor.card.model,
        thumbnails=draw,
        is_ordered=is_queue,
    )


def expand_inputs(inputs: Iterable[str], ignored: Counter[str] | None = None) -> Iterator[str]:
    """Expand folders to the images in them and patterns with * ? [ ] to what they match.

    Yields paths of files in the order of the inputs, those of a folder or pattern with numbers in
    numerical order; a folder or pattern without any itself, so that it is reported as an error.
    `ignored` counts the files in folders that are not images, by extension.
    """
    for given in map(expand_home, inputs):
        if os.path.isdir(given):  # noqa: PTH112 - paths stay the strings they were given as
            yield from _or_itself(_files_of(given, ignored), given)
        elif is_pattern(given):
            yield from _or_itself(_files_matching(given, ignored), given)
        else:
            yield given


def _files_matching(pattern: str, ignored: Counter[str] | None) -> Iterator[str]:
    """Yield what a pattern matches, each file once: it may match a folder and the files in it."""
    matches = expand_pattern(pattern)
    folders = {one.rstrip(os.sep) for one in matches if os.path.isdir(one)}  # noqa: PTH112
    for match in matches:
        above = os.path.dirname(match.rstrip(os.sep))  # noqa: PTH120 - paths stay strings
        while above and above not in folders and above != os.path.dirname(above):  # noqa: PTH120
            above = os.path.dirname(above)  # noqa: PTH120
        if above not in folders:
            yield from _files_of(match, ignored)


def _files_of(path: str, ignored: Counter[str] | None) -> Iterator[str]:
    is_folder = os.path.isdir(path)  # noqa: PTH112
    return walk_images(path, order=natural_key, ignored=ignored) if is_folder else iter([path])


def _or_itself(paths: Iterator[str], given: str) -> Iterator[str]:
    first = next(paths, None)
    if first is None:
        yield given
    else:
        yield first
        yield from paths
