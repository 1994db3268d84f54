"""The nearest training images of the images that a report shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from swinclf.device import fixed_batch_size
from swinclf.errors import DataError
from swinclf.inference.fit_confidence import ConfidenceFit
from swinclf.inference.neighbour_search import NEAREST, find_nearest
from swinclf.inference.predictor import Predictor
from swinclf.inference.reference_features import ReferenceFeatures
from swinclf.inference.stream import stream_outputs
from swinclf.reporting.report_data import Neighbour


def find_held_out_neighbours(
    fit: ConfidenceFit, paths: Sequence[str]
) -> Mapping[str, Sequence[Neighbour]]:
    """Return the nearest training images of held-out images, by features already computed.

    Images that are not among the held-out ones get none.
    """
    held_out, training = fit.held_out, fit.training
    if held_out is None or training is None:
        return {}
    if held_out.features is None or training.features is None:
        return {}
    row_of = {image.path: row for row, image in enumerate(held_out.images)}
    wanted = [path for path in paths if path in row_of]
    queries = held_out.features[[row_of[path] for path in wanted]]
    images = [(image.path, image.label) for image in training.images]
    # One more than is shown: with cross-validation an image is its own nearest neighbour.
    found = find_nearest(queries, training.features, images, NEAREST + 1)
    return {
        path: [one for one in near if one.path != path][:NEAREST]
        for path, near in zip(wanted, found, strict=True)
    }


def find_reference_neighbours(
    reference: ReferenceFeatures,
    predictor: Predictor,
    paths: Sequence[str],
    *,
    root: Path,
    training_root: Path | None,
    workers: int,
) -> Mapping[str, Sequence[Neighbour]]:
    """Return the nearest training images of any images, which the network computes.

    Args:
        reference: The features stored in the run.
        predictor: The run's model.
        paths: Images to find neighbours of; their features are held in memory together. Those that
            cannot be read get none.
        root: The folder, absolute, that `paths` are relative to.
        training_root: The folder, absolute, of the training images; None if it is not known, and
            the neighbours then have no `file`.
        workers: Threads that decode.
    """
    features = dict(_features(predictor, paths, root, workers))
    if not features or len(next(iter(features.values()))) != reference.features.shape[1]:
        return {}
    # One more than is shown: a training image is its own nearest neighbour and is dropped.
    queries = np.stack(list(features.values()))
    found = find_nearest(queries, reference.features, reference.images, NEAREST + 1)
    return {
        path: [
            replace(one, file=_file(one.path, root, training_root))
            for one in near
            if training_root is None or training_root / one.path != root / path
        ][:NEAREST]
        for path, near in zip(features, found, strict=True)
    }


def _features(
    predictor: Predictor, paths: Sequence[str], root: Path, workers: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the features of readable images; end early if the disk is gone.

    The batches are as large as for scoring, so that no more memory is needed.
    """
    files = [root / path for path in paths]
    size = fixed_batch_size(predictor.device)
    with suppress(DataError):
        outputs = stream_outputs(predictor, files, workers=workers, batch_size=size)
        for path, (_, output) in zip(paths, outputs, strict=True):
            if output.features is not None:
                yield path, output.features


def _file(path: str, root: Path, training_root: Path | None) -> str | None:
    """Return where a report finds a training image: relative to `root` or absolute."""
    if training_root is None:
        return None
    return path if training_root == root else str(training_root / path)
