"""Nearest training images of the images that a report shows, by their features.

neighbours.safetensors of a run has the features of a sample of the training images, for a later
evaluation. Nothing else needs the file: without it, a report has no neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import torch

from swinclf.device import fixed_batch_size
from swinclf.errors import DataError, WeightsError
from swinclf.inference.fit_confidence import ConfidenceFit, LabelledOutputs
from swinclf.inference.predictor import Predictor
from swinclf.inference.stream import stream_outputs
from swinclf.models.tensorfile import CHECKSUM, read_metadata, read_tensors, write_tensors
from swinclf.reporting.report_data import Neighbour
from swinclf.run_folder import RunFolder

NEAREST = 3  # training images that a report shows next to a mistake


def find_nearest(
    queries: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    images: Sequence[tuple[str, str]],
    own_paths: Sequence[str | None],
) -> list[list[Neighbour]]:
    """Return the nearest training images of each query, by cosine similarity of the features.

    (Q, D) queries and (N, D) features of N >= 1 images, (path, label) each -> up to `NEAREST`
    neighbours of each query, nearest first, with their own path as `file`. A query that is a
    training image itself, by its path in `own_paths`, is not its own neighbour.
    """
    similarities = unit_rows(queries) @ unit_rows(features).T  # (Q, N)
    found = []
    for row, own in zip(similarities, own_paths, strict=True):
        best = np.argsort(-row, kind="stable")[: NEAREST + 1].tolist()
        near = [(images[index], float(row[index])) for index in best if images[index][0] != own]
        found.append(
            [Neighbour(path, label, cosine, path) for (path, label), cosine in near[:NEAREST]]
        )
    return found


def unit_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the rows (N, D) scaled to length 1; rows of zeros are left as they are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    single: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
    return single


FEATURES, IMAGES, MODEL = "features", "images", "model"  # the names in the file


@dataclass(frozen=True)
class ReferenceFeatures:
    """The features of a sample of the training images."""

    features: npt.NDArray[np.float32]  # (N, D), N at least 1, rows of length 1
    images: Sequence[tuple[str, str]]  # path and label of each row


def save_reference_features(run: RunFolder, outputs: LabelledOutputs | None) -> None:
    """Write the features next to the run's model, in half precision: a few MB at most.

    Nothing is written if the outputs have no features.
    """
    if outputs is None or outputs.features is None:
        return
    features = unit_rows(outputs.features).astype(np.float16)
    images = [(image.path, image.label) for image in outputs.images]
    facts = {IMAGES: json.dumps(images), MODEL: read_metadata(run.model)[CHECKSUM]}
    write_tensors(run.neighbours, {FEATURES: torch.from_numpy(features)}, facts)


def load_reference_features(path: Path, model: Path) -> ReferenceFeatures:
    """Read the features of the training images that a model.safetensors computed.

    Raises:
        WeightsError: If the file cannot be read, is damaged, or of another model.
    """
    tensors, facts = read_tensors(path, signed=True)
    try:
        features, wanted = tensors[FEATURES], facts[MODEL]
        images = [(str(image), str(label)) for image, label in json.loads(facts[IMAGES])]
        if not images or features.dtype != torch.float16 or features.shape[:-1] != (len(images),):
            raise ValueError(f"{tuple(features.shape)} features of {len(images)} images")
        if not all(_stays_inside(image) for image, _ in images):
            raise ValueError("a file outside the dataset")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _wrong_file(path, model, f"{type(error).__name__}: {error}"[:200]) from error
    if wanted != read_metadata(model).get(CHECKSUM):
        raise _wrong_file(path, model, "those of another model")
    return ReferenceFeatures(features.float().numpy(), images)


def _stays_inside(path: str) -> bool:
    """Return whether a relative path stays inside its folder: a run may come from anybody."""
    return not PurePath(path).is_absolute() and ".." not in PurePath(path).parts


def _wrong_file(path: Path, model: Path, found: str) -> WeightsError:
    return WeightsError(
        f"the training images of '{model}' in '{path}'",
        found=found,
        hint="take both files from one run",
    )


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
    # With cross-validation the held-out images are training images, too.
    return dict(zip(wanted, find_nearest(queries, training.features, images, wanted), strict=True))


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

    Images that cannot be read get none; the features of the others are held in memory together.
    `root` and `training_root` are the absolute folders of `paths` and of the training images; if
    the latter is None, the neighbours have no `file`.
    """
    features = dict(_features(predictor, paths, root, workers))
    if not features or len(next(iter(features.values()))) != reference.features.shape[1]:
        return {}
    own_paths = [
        (root / path).relative_to(training_root).as_posix()
        if training_root is not None and (root / path).is_relative_to(training_root)
        else None
        for path in features
    ]
    queries = np.stack(list(features.values()))
    found = find_nearest(queries, reference.features, reference.images, own_paths)
    return {
        path: [replace(one, file=_file(one.path, root, training_root)) for one in near]
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
