"""split.csv: the images that a run used, each with its label and its split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path, PurePath

from swinclf.data.folder import ImageFile
from swinclf.errors import RunError
from swinclf.files import read_csv, write_csv

COLUMNS = ("path", "label", "split")


def write_split(path: Path, images: Sequence[ImageFile]) -> None:
    """Writes the file; see `files.write_bytes`."""
    write_csv(path, COLUMNS, map(astuple, images))


def read_split(path: Path) -> tuple[ImageFile, ...]:
    """The images, in order.

    Raises:
        RunError: If it cannot be read, is no such table, or names a file outside the dataset: a
            run may come from anybody, and what it names is read and shown.
    """
    rows = read_csv(path, COLUMNS)
    outside = next((row["path"] for row in rows if not stays_inside(row["path"])), None)
    if outside is not None:
        raise RunError(
            f"paths inside the dataset in '{path}'",
            found=f"'{outside}'",
            hint="the run as swinclf wrote it, from someone you trust",
        )
    return tuple(ImageFile(row["path"], row["label"], row["split"]) for row in rows)


def stays_inside(path: str) -> bool:
    """Whether a path that is relative to a folder leads to something in it, by its words."""
    return not PurePath(path).is_absolute() and ".." not in PurePath(path).parts
