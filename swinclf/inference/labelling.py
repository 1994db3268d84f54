"""Predictions for people who label: links to the images by label, and the images to label next."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from swinclf.errors import ConfigError
from swinclf.files import cannot_write, numbered_path
from swinclf.path_patterns import expand_home, is_pattern, reads_folder

_NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f]')  # on any system


class LabelFolders:
    """Links to images by predicted label; copies where links are not allowed.

    Raises:
        ConfigError: If the folder has files in it, or is in one of the inputs, read by a pattern
            of them or in the dataset.
    """

    def __init__(self, root: Path, inputs: Iterable[str], dataset: Path | None) -> None:
        self.linked = self.copied = 0
        self.root = root
        self._last_numbers: dict[Path, int] = {}
        self._folders: dict[str, Path] = {}  # by label
        found = ""
        for source in [*(Path(expand_home(one)) for one in inputs), *filter(None, [dataset])]:
            if source.is_dir() and root.resolve().is_relative_to(source.resolve()):
                found = f"'{root}' in '{source}', where the images are"
            elif is_pattern(str(source)) and reads_folder(str(source), root):
                found = f"'{root}', where '{source}' finds images"
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            found = f"'{root}', which is {'not empty' if root.is_dir() else 'a file'}"
        if found:
            raise ConfigError(
                "a new or empty folder outside the images, for --sort-into",
                found=found,
                hint="--sort-into with another folder",
            )

    def add(self, path: str, label: str) -> None:
        """Link an image into the folder of a label, under a name that is free there.

        Where the names of two labels' folders are equal, the second is numbered.

        Raises:
            RunError: If neither a link nor a copy can be written.
        """
        file = Path(path)
        target = self.root / folder_name(label)
        try:
            if label not in self._folders:
                target = self._free(target)
                target.mkdir(parents=True)
                self._folders[label] = target
            target = self._free(self._folders[label] / file.name)
            try:
                target.symlink_to(os.path.abspath(file))  # noqa: PTH100 - links stay as they are
                self.linked += 1
            except (OSError, NotImplementedError):
                shutil.copyfile(file, target)
                self.copied += 1
        except OSError as error:
            raise cannot_write(target, error) from error

    def _free(self, path: Path) -> Path:
        """Return a path that does not exist, with a number above those of earlier files."""
        number = self._last_numbers.get(path, 0) + 1
        while os.path.lexists(free := numbered_path(path, number)):
            number += 1
        self._last_numbers[path] = number
        return free


def folder_name(label: str) -> str:
    """Return a label as a folder name: a model file from elsewhere may have any text as a class.

    >>> folder_name("../red")
    '.._red'
    """
    name = _NOT_IN_NAMES.sub("_", label)
    return name if name.strip(". ") else "_"


CANDIDATES = 5  # times as many images of small margin as are selected


def select_diverse(margins: np.ndarray, features: np.ndarray | None, count: int) -> list[int]:
    """Return the indices of up to `count` images to label, the most valuable first.

    The first has the smallest margin. Each other one has the largest product of its doubt (one
    minus the margin) and its distance to the nearest that is selected already, so that
    near-duplicates do not fill the list.

    `margins` are the (N,) differences of the two highest probabilities, in [0, 1]; without
    `features`, (N, D), they alone decide.

    Source: margin sampling, Scheffer et al. 2001; the farthest point, Sener & Savarese 2018
    (core-set), sec. 4.2.
    """
    count = min(count, len(margins))
    if features is None or count < 2:
        return list(map(int, np.argsort(margins, kind="stable")[:count]))
    points = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    nearest = np.full(len(points), np.inf)
    selected = [int(np.argmin(margins))]
    while len(selected) < count:
        distances = np.linalg.norm(points - points[selected[-1]], axis=1)
        nearest = np.minimum(nearest, distances)
        value = (1.0 - margins) * nearest
        value[selected] = -1.0
        selected.append(int(np.argmax(value)))
    return selected
