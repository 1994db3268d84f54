"""Checks of the folders inside class folders: whether the "classes" are splits, or hold splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Protocol

from swinclf.data.dataset_layout import list_some
from swinclf.data.split_names import TRAIN, is_generic_name, is_part_name, split_name
from swinclf.errors import DataError

ALIKE = 0.5  # Jaccard index from which two sets of folders count as nearly the same


class LabelledPath(Protocol):
    """An image at `label/inner/.../file`."""

    @property
    def path(self) -> str:
        """Relative to the folder that holds the class folders."""

    @property
    def label(self) -> str:
        """The class folder."""


def splits_in_classes(inner: Mapping[str, Set[str]]) -> Mapping[str, str]:
    """Return the split of each folder inside class folders, if all of them are splits.

    `inner` has the folders in each class folder, from `folders_in_classes`.
    """
    names = {name for folders in inner.values() for name in folders}
    found = {name: one.split for name in names if (one := split_name(name)) and not one.stem}
    is_layout = len(inner) > 1 and all(inner.values()) and found.keys() == names
    return found if is_layout and set(found.values()) > {TRAIN} else {}


def folders_in_classes(images: Sequence[LabelledPath]) -> dict[str, set[str]]:
    """Return the folders directly in each class folder; empty if it holds files as well."""
    inner: dict[str, set[str]] = defaultdict(set)
    direct = set()
    for image in images:
        parts = image.path.split("/", 2)
        if len(parts) == 3:
            inner[image.label].add(parts[1])
        else:
            direct.add(image.label)
    return {
        label: set() if label in direct else inner[label]
        for label in {image.label for image in images}
    }


def check_structure(
    root: Path, images: Sequence[LabelledPath], inner: Mapping[str, Set[str]]
) -> str:
    """Refuse classes that are splits or copies of the dataset; return a warning, or "".

    Raises:
        DataError: If a class folder holds the class folders next to it, or if all of them hold
            nearly the same folders and have the names of parts of a dataset.
    """
    _check_no_copy_inside(root, images)
    union = set().union(*inner.values())
    if len(inner) < 2 or len(union) < 2:
        return ""
    if any(len(folders) < 2 or len(folders) < ALIKE * len(union) for folders in inner.values()):
        return ""
    names = sorted(inner)
    first, second = _train_first(names)[:2]
    command = f"swinclf train '{root / first}' --val '{root / second}'"
    if any(split_name(name) for name in names) or all(map(is_part_name, names)):
        raise DataError(
            f"folders in '{root}' whose names say which is train/ and which is val/ or test/",
            found=f"{list_some(names)}, which hold the same class folders "
            f"({list_some(sorted(union))})",
            hint=f"rename them, or name both: {command}",
        )
    return (
        f"the classes {list_some(names)} hold folders of the same names "
        f"({list_some(sorted(union))}): if the inner folders are the classes and the "
        f"outer ones splits: {command}"
    )


def _check_no_copy_inside(root: Path, images: Sequence[LabelledPath]) -> None:
    """Refuse a class folder that holds its siblings again: a copy of the dataset."""
    labels = {image.label for image in images}
    inner: dict[str, set[str]] = defaultdict(set)
    for image in images:
        parts = image.path.split("/", 2)
        if len(parts) == 3:
            inner[image.label].add(parts[1])
    for name, folders in inner.items():
        siblings = labels - {name}
        common = len(folders & siblings)
        is_wrapping = is_generic_name(name) or name.casefold() == root.name.casefold()
        is_alike = common >= ALIKE * len(folders | siblings)
        if common > 1 and (siblings <= folders or (is_wrapping and is_alike)):
            raise DataError(
                f"class folders in '{root}'",
                found=f"'{name}', which holds the folders next to it again "
                f"({list_some(sorted(folders & siblings))})",
                hint=f"move '{root / name}' out of '{root}' if it is a copy, or use it alone: "
                f"swinclf train '{root / name}'",
            )


def _train_first(names: Sequence[str]) -> list[str]:
    """Return the names, those of training splits first."""
    splits = {name: one.split if (one := split_name(name)) else "" for name in names}
    return sorted(names, key=lambda name: (splits[name] != TRAIN, name))
