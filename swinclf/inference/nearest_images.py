"""Which training images a network takes for most alike to an image that it was judged on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from swinclf.device import whole_batch
from swinclf.errors import DataError
from swinclf.inference.fit_confidence import Measured
from swinclf.inference.nearest import NEAREST, nearest
from swinclf.inference.predictor import Predictor
from swinclf.inference.reference_features import TrainingSample
from swinclf.inference.stream import answer_all
from swinclf.reporting.report_data import Neighbour


def most_alike(measured: Measured, paths: Sequence[str]) -> Mapping[str, Sequence[Neighbour]]:
    """The nearest of the training images that were looked at, by what the network sees in them.

    Args:
        measured: Holds the features of held-out and of training images.
        paths: Images to find neighbours of; those that are not among the held-out ones get none.
    """
    judged, known = measured.judged, measured.known
    if judged is None or known is None or judged.features is None or known.features is None:
        return {}
    row_of = {image.path: row for row, image in enumerate(judged.images)}
    asked = [path for path in paths if path in row_of]
    queries = judged.features[[row_of[path] for path in asked]]
    images = [(image.path, image.label) for image in known.images]
    return dict(zip(asked, nearest(queries, known.features, images), strict=True))


def most_alike_in(
    sample: TrainingSample,
    predictor: Predictor,
    paths: Sequence[str],
    *,
    root: Path,
    home: Path | None,
    workers: int,
) -> Mapping[str, Sequence[Neighbour]]:
    """The nearest of the training images that a run has kept; the images are looked at for it.

    Args:
        sample: What the run has kept.
        predictor: Its model.
        paths: Images to find neighbours of, few enough to keep their features at once; those that
            cannot be read get none.
        root: The folder, absolute, that `paths` are relative to.
        home: The folder, absolute, of the training images; None if nobody knows, and then they
            come without pictures.
        workers: Threads that decode.
    """
    seen = dict(_features(predictor, paths, root, workers))
    if not seen or len(next(iter(seen.values()))) != sample.features.shape[1]:
        return {}
    # One more than is shown: a training image is nearest to itself, which tells nothing.
    found = nearest(np.stack(list(seen.values())), sample.features, sample.images, NEAREST + 1)
    return {
        path: [
            replace(one, file=_file(one.path, root, home))
            for one in near
            if home is None or home / one.path != root / path
        ][:NEAREST]
        for path, near in zip(seen, found, strict=True)
    }


def _features(
    predictor: Predictor, paths: Sequence[str], root: Path, workers: int
) -> Iterator[tuple[str, np.ndarray]]:
    """What the network sees in images, as far as they can be read; ends early if the disk is gone.

    In the batches that they were scored in: no more memory is needed than for that.
    """
    files = [root / path for path in paths]
    size = whole_batch(predictor.device)
    with suppress(DataError):
        answers = answer_all(predictor, files, workers=workers, batch_size=size)
        for path, (_, answer) in zip(paths, answers, strict=True):
            if answer.features is not None:
                yield path, answer.features


def _file(path: str, root: Path, home: Path | None) -> str | None:
    """Where a report finds the picture of a training image."""
    if home is None:
        return None
    return path if home == root else str(home / path)
