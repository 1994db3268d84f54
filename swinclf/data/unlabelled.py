"""Unlabelled images: found below a folder, recorded by path and content digest, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swinclf.data.dataset_layout import list_folder
from swinclf.data.walk import relative_path, walk_images
from swinclf.errors import DataError, RunError
from swinclf.files import read_csv, write_csv

COLUMNS = ("path", "digest")


@dataclass(frozen=True)
class UnlabelledImages:
    """Unlabelled images of a folder."""

    root: Path  # the folder, absolute
    paths: tuple[str, ...]  # relative to it, with "/" between folders, sorted
    digests: tuple[bytes, ...]

    @property
    def files(self) -> list[Path]:
        """The path of each image."""
        return [self.root / path for path in self.paths]


def scan_unlabelled(root: Path) -> list[str]:
    """Return the paths of all images below a folder, relative to it and sorted.

    Raises:
        DataError: If there is no such folder, or no image in it.
    """
    list_folder(root)
    paths = sorted(relative_path(path, root) for path in walk_images(str(root)))
    if not paths:
        raise DataError(
            f"images in '{root}', or in folders of it", found="none", hint="--unlabelled DIR"
        )
    return paths


def write_unlabelled(path: Path, images: UnlabelledImages) -> None:
    """Write one row per image; see `files.write_bytes`."""
    digests = (digest.hex() for digest in images.digests)
    write_csv(path, COLUMNS, zip(images.paths, digests, strict=True))


def read_unlabelled(path: Path, root: Path) -> UnlabelledImages:
    """Return the images recorded by `write_unlabelled`, whose folder is now `root`.

    Raises:
        RunError: If the file cannot be read, or is not such a table.
    """
    rows = read_csv(path, COLUMNS)
    try:
        digests = tuple(bytes.fromhex(row["digest"]) for row in rows)
    except ValueError as error:
        hint = "restore it, or train again"
        raise RunError(f"content digests in '{path}'", found=str(error), hint=hint) from error
    return UnlabelledImages(root, tuple(row["path"] for row in rows), digests)
