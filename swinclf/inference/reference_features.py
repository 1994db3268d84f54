"""neighbours.safetensors: what a network sees in a sample of its training images, kept in the run.

So that a later evaluation can show beside a mistake what the network took it for. Nothing else
needs the file: without it, a report goes without these pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import torch

from swinclf.errors import WeightsError
from swinclf.inference.fit_confidence import Seen
from swinclf.inference.nearest import unit_rows
from swinclf.models.tensorfile import CHECKSUM, read_metadata, read_tensors, write_tensors
from swinclf.run_folder import RunFolder

FEATURES, IMAGES, MODEL = "features", "images", "model"  # the names in the file


@dataclass(frozen=True)
class TrainingSample:
    """Training images as a network sees them.

    Attributes:
        features: (N, D), N at least 1, each row of length 1.
        images: Path and label of each row.
    """

    features: npt.NDArray[np.float32]
    images: Sequence[tuple[str, str]]


def save_training_sample(run: RunFolder, seen: Seen | None) -> None:
    """Writes the sample beside the model, which is there; in half precision, a few MB at most.

    Args:
        run: The run's folder.
        seen: What the network made of the sample; nothing is written without features.

    Raises:
        RunError: If the file cannot be written.
    """
    if seen is None or seen.features is None:
        return
    features = unit_rows(seen.features).astype(np.float16)
    images = [(image.path, image.label) for image in seen.images]
    facts = {IMAGES: json.dumps(images), MODEL: read_metadata(run.model)[CHECKSUM]}
    write_tensors(run.neighbours, {FEATURES: torch.from_numpy(features)}, facts)


def read_training_sample(path: Path, model: Path) -> TrainingSample:
    """The sample of a model's training images.

    Args:
        path: The file.
        model: The model.safetensors that it has to be of: in features of another one, nothing is
            alike.

    Raises:
        WeightsError: If it cannot be read, is damaged, or of another model.
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
        raise _none_of_it(path, model, f"{type(error).__name__}: {error}"[:200]) from error
    if wanted != read_metadata(model).get(CHECKSUM):
        raise _none_of_it(path, model, "those of another model")
    return TrainingSample(features.float().numpy(), images)


def _stays_inside(path: str) -> bool:
    """Whether a path that is relative to a folder leads to something in it.

    A run may come from anybody, and what it names is read and shown.
    """
    return not PurePath(path).is_absolute() and ".." not in PurePath(path).parts


def _none_of_it(path: Path, model: Path, found: str) -> WeightsError:
    return WeightsError(
        f"the training images of '{model}' in '{path}'",
        found=found,
        hint="take both files from one run",
    )
