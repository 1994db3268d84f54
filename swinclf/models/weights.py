"""--weights: starting from a file or from an earlier run instead of published weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from swinclf.card import FORMAT, ModelCard
from swinclf.errors import WeightsError
from swinclf.latest import follow_latest
from swinclf.models.tensorfile import read_metadata
from swinclf.runs import MODEL_SUFFIXES, RunFolder


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
        WeightsError: If there is none, or it is an exported or a broken safetensors file.
    """
    where = follow_latest(where)
    path = RunFolder(where).model if where.is_dir() else where
    if not path.is_file():
        raise _not_found(where, path)
    if path.suffix.lower() in set(MODEL_SUFFIXES) - {".safetensors"}:
        raise WeightsError(
            f"a weights file or a run at '{where}'",
            found="an exported file, which holds no network to go on with",
            hint="the run it was exported from",
        )
    if path.suffix.lower() != ".safetensors":
        return StartingWeights(path, None)
    metadata = read_metadata(path)
    is_ours = metadata.get("format") == FORMAT
    card = ModelCard.from_metadata(metadata, where=str(path)) if is_ours else None
    return StartingWeights(path, card)


def _not_found(where: Path, path: Path) -> WeightsError:
    found = "nothing of that name"
    if where.is_dir():
        found = f"a folder without {path.name}"
    elif where.exists():
        found = "no file"
    names = (
        [entry.name for entry in where.absolute().parent.iterdir() if entry.name != where.name]
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
