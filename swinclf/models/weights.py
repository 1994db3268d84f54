"""--weights: starting from a file or from an earlier run instead of published weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from swinclf.card import FORMAT, ModelCard
from swinclf.errors import WeightsError
from swinclf.models.build import Architecture, build_from_file, published_classifiers
from swinclf.models.tensorfile import read_metadata, read_shapes
from swinclf.runs import RunFolder


@dataclass(frozen=True)
class StartingWeights:
    """A file to start from.

    Attributes:
        path: The weights file.
        card: The model card, where the file is a run's.
    """

    path: Path
    card: ModelCard | None


def find_weights(where: Path) -> StartingWeights:
    """The file that --weights means; asks no network.

    Args:
        where: A weights file, a run folder, or a file in one.

    Raises:
        WeightsError: If there is none, or it is of a kind that is not read.
    """
    path = RunFolder(where).model if where.is_dir() else where
    if not path.is_file():
        raise _not_found(where, path)
    if path.suffix.lower() != ".safetensors":
        raise WeightsError(
            f"weights in a .safetensors file at '{path}'",
            found=f"a file of another kind ({path.suffix or 'no ending'})",
            hint="convert it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'x.safetensors')",
        )
    metadata = read_metadata(path)
    is_ours = metadata.get("format") == FORMAT
    card = ModelCard.from_metadata(metadata, where=str(path)) if is_ours else None
    return StartingWeights(path, card)


def build_from_weights(architecture: Architecture, weights: StartingWeights) -> nn.Module:
    """A network on these weights, under a fresh head.

    Raises:
        ModelError, WeightsError: If there is no such network or the weights are not its own.
    """
    if weights.card is not None:
        in_file = len(weights.card.classes)
    else:
        shapes = read_shapes(weights.path)
        heads = [
            shapes[f"{name}.weight"]
            for name in published_classifiers(architecture.name)
            if f"{name}.weight" in shapes
        ]
        in_file = heads[0][0] if heads else 0
    return build_from_file(architecture, weights.path, num_classes=in_file)


def _not_found(where: Path, path: Path) -> WeightsError:
    found = "nothing of that name"
    if where.is_dir():
        found = f"a folder without {path.name}"
    elif where.exists():
        found = "no file"
    names = (
        [entry.name for entry in where.absolute().parent.iterdir()]
        if where.absolute().parent.is_dir()
        else []
    )
    near = difflib.get_close_matches(where.name, names, n=1)
    hint = (
        f"did you mean '{where.parent / near[0]}'?"
        if near
        else "the path of a weights file or of a run folder"
    )
    return WeightsError(f"weights at '{where}'", found=found, hint=hint)
