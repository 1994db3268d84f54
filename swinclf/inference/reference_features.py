"""neighbours.safetensors: the features of a sample of the training images, stored in the run.

A later evaluation uses them to show the nearest training images next to a mistake. Nothing else
needs the file: without it, a report has no neighbours.
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
from swinclf.inference.fit_confidence import LabelledOutputs
from swinclf.inference.neighbour_search import unit_rows
from swinclf.models.tensorfile import CHECKSUM, read_metadata, read_tensors, write_tensors
from swinclf.run_folder import RunFolder

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
