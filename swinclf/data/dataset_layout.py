"""Layout of a dataset: which folders are classes, and which are splits. Opens no file.

Splits are recognized by name (`split_names`), in the dataset's folder or one level below. If
folders hold the same class folders and their names do not tell which split is which, the scan
stops, as nobody wants a classifier of splits. If the names have nothing to do with parts of a
dataset, the folders are more likely classes (species with male/ and female/ in each): a note.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swinclf.data.class_names import list_some
from swinclf.data.image_detector import is_junk, is_no_image_name
from swinclf.data.images import has_image_name
from swinclf.data.split_names import (
    PLAIN_NAMES,
    TEST,
    TRAIN,
    VAL,
    is_generic_name,
    recognize_splits,
    split_name,
    stems_with_splits,
)
from swinclf.data.walk import LINK_AGAIN, LINK_TO_NOTHING, LINK_UP, is_within, relative_path
from swinclf.errors import DataError
from swinclf.shell_quoting import quoted

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ANNOTATION_FOLDERS = frozenset({"labels", "label", "annotations", "annotation"})


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder whose images are of one class."""

    path: str
    label: str
    split: str  # train, val or test; empty if the folders define no split


@dataclass
class DatasetLayout:
    """The class folders and splits of a dataset."""

    # sorted, those behind links last
    class_folders: list[ClassFolder] = field(default_factory=list)
    # split by the folder that holds its class folders; empty without splits
    splits: dict[str, str] = field(default_factory=dict)
    # the folders named like splits: these, or their parents
    split_folders: set[str] = field(default_factory=set)
    # links that are not followed: path and reason
    skipped: list[tuple[str, str]] = field(default_factory=list)
    # folders next to the splits that are not splits
    unused: list[str] = field(default_factory=list)
    loose: int = 0  # number of images outside class folders
    notes: list[str] = field(default_factory=list)  # how unusual folders were interpreted

    @property
    def train_labels(self) -> set[str]:
        """Names of the class folders for training, including links that are not followed."""
        trained = [one for one in self.class_folders if one.split in ("", TRAIN)]
        folders = {str(Path(one.path).parent) for one in trained}
        linked = {Path(path) for path, reason in self.skipped if reason != LINK_UP}
        meant = {link.name for link in linked if str(link.parent) in folders}
        return meant | {one.label for one in trained}


def find_layout(root: Path, val: Path | None) -> DatasetLayout:
    """Return the class folders of a dataset, each with its split.

    `val` is a folder of class folders to use as validation split instead. Both paths are resolved.

    Raises:
        DataError: If a split has two folders, or it is ambiguous which folder is which split.
    """
    layout = DatasetLayout()
    splits = _find_splits(root, layout, val)
    layout.notes += _note_of(splits, root)
    if val is not None:
        splits = {folder: split for folder, split in splits.items() if split != VAL}
        splits = splits or {str(root): TRAIN}
        if splits.get(str(val)) == TRAIN:
            raise overlap_error(val, str(val))
        splits[str(val)] = VAL
    layout.splits = dict(splits)
    layout.skipped += [] if str(root) in splits or not splits else _folders(str(root))[1]
    for folder, split in (splits or {str(root): ""}).items():
        paths, refused = _folders(folder)
        layout.skipped += refused
        layout.loose += _count_images(folder)
        layout.class_folders += [
            ClassFolder(path, Path(path).name, split)
            for path in paths
            if path not in layout.split_folders and os.path.realpath(path) != str(val)
        ]
    layout.class_folders.sort(key=lambda one: (os.path.realpath(one.path) != one.path, one.path))
    return layout


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder.

    Raises:
        DataError: If it does not exist or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _no_folder(folder, error) from error


def _find_splits(root: Path, layout: DatasetLayout, val: Path | None) -> dict[str, str]:
    """Return the folders that hold the class folders of each split; empty without splits.

    Notes and unused folders are added to `layout`; `val` is the user's validation folder, if any.
    """
    names = {
        Path(path).name: path
        for path in _folders(str(root))[0]
        if val is None or os.path.realpath(path) != str(val)
    }
    splits = _named_splits(root, names)
    if not splits:
        wrapped = _wrapped(root, names)
        return _find_splits(wrapped, layout, val) if wrapped else {}
    doubled = [split for split, count in Counter(splits.values()).items() if count > 1]
    if val is not None:
        doubled = [split for split in doubled if split != VAL]
    if doubled:
        raise _two_of_a_split(root, splits, doubled)
    inner = {_unwrapped(names[name]): split for name, split in splits.items() if name}
    layout.split_folders = {names[name] for name in splits if name}
    if "" in splits:
        return {str(root): TRAIN, **inner}
    layout.unused += [names[name] for name in sorted(names) if name not in splits]
    layout.loose += _count_images(str(root))
    return inner


def _note_of(splits: Mapping[str, str], root: Path) -> list[str]:
    """Return a note on how folders were interpreted, if their names are not the usual ones."""
    relative = {relative_path(path, root): splits[path] for path in splits}
    if all(PLAIN_NAMES.get(path.lower()) for path in relative):
        return []
    inside = [path for path in relative if path != "."]
    if "." in relative:
        return [
            f"folders read as splits: {list_some(inside)}, which hold the same class folders as "
            "those next to them"
        ]
    inside.sort(key=lambda path: (TRAIN, VAL, TEST).index(relative[path]))
    named = ", ".join(f"'{path}' as {relative[path]}" for path in inside)
    return [f"folders read as splits: {named}"]


def _named_splits(root: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Return the split of each folder that is one, by name; the name "" for `root` itself.

    `names` has the paths of the folders in `root` by name.

    Raises:
        DataError: If the names denote splits, but it is ambiguous which is which.
    """
    spoken = {name: found for name in names if (found := split_name(name))}
    is_all = len(spoken) == len(names)
    if is_all and len(names) > 1 and not any(one.split == TRAIN for one in spoken.values()):
        raise _no_train(root, sorted(names))
    stems = stems_with_splits(names)
    if len(stems) > 1:
        raise _several_stems(root, stems, sorted(spoken))
    splits = dict(recognize_splits(names))
    if splits:
        is_plain = all(PLAIN_NAMES.get(name.lower()) for name in splits)
        trains = [name for name, split in splits.items() if split == TRAIN]
        # Names such as development may be classes: a split must hold class folders.
        if is_plain or is_all or any(_folders(names[name])[0] for name in trains):
            return splits
        return {}
    has_no_stem = not any(one.stem for one in spoken.values())
    if is_all and has_no_stem and any(_folders(path)[0] for path in names.values()):
        return dict.fromkeys(names, TRAIN)
    return _split_next_to_classes(names)


def _split_next_to_classes(names: Mapping[str, str]) -> dict[str, str]:
    """Return a test or val folder that holds the same classes as its siblings, and "" as train."""
    found = {}
    classes = {name for name in names if split_name(name) is None}
    for name in sorted(set(names) - classes):
        one = split_name(name)
        inner = {Path(path).name for path in _folders(names[name])[0]}
        common = len(inner & classes)
        if one and one.split != TRAIN and not one.stem and common > 1 and 2 * common >= len(inner):
            found[name] = one.split
    return {"": TRAIN, **found} if found else {}


def _wrapped(root: Path, names: Mapping[str, str]) -> Path | None:
    """Return the single wrapper folder of a dataset, such as images/, if it holds the splits."""
    inner = [name for name in names if name.lower() not in _ANNOTATION_FOLDERS]
    if len(inner) != 1 or not (
        is_generic_name(inner[0]) or inner[0].casefold() == root.name.casefold()
    ):
        return None
    folder = names[inner[0]]
    below = {Path(path).name: path for path in _folders(folder)[0]}
    return Path(folder) if _named_splits(Path(folder), below) else None


def _unwrapped(folder: str) -> str:
    """Return the folder with a split's class folders: seg_train/seg_train, train/images."""
    while True:
        name = Path(folder).name
        folders = _folders(folder)[0]
        below = [one for one in folders if Path(one).name.lower() not in _ANNOTATION_FOLDERS]
        if len(below) != 1 or not _folders(below[0])[0] or _count_images(folder):
            return folder
        inner = Path(below[0]).name
        split, inner_split = split_name(name), split_name(inner)
        is_same = split is not None and inner_split is not None and split.split == inner_split.split
        if not (is_same or is_generic_name(inner) or inner.casefold() == name.casefold()):
            return folder
        folder = below[0]


def _folders(folder: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the subfolders of a folder, linked ones included, and the links that are not used."""
    found, refused, real = [], [], {}
    entries = list_folder(Path(folder))
    for entry in entries:
        if is_junk(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            found.append(entry.path)
            real[entry.path] = split_name(entry.name)
    here = os.path.realpath(folder)
    for entry in entries:
        if is_junk(entry.name) or not entry.is_symlink():
            continue
        target = os.path.realpath(entry.path)
        if os.path.isdir(target):  # noqa: PTH112 - a string in, and it never raises
            split = split_name(entry.name)
            if is_within(here, target):
                refused.append((entry.path, LINK_UP))
            elif split and target in real and real[target] == split:
                refused.append((entry.path, LINK_AGAIN))
            else:
                found.append(entry.path)
        elif not os.path.exists(target) and not is_no_image_name(entry.name):  # noqa: PTH110
            refused.append((entry.path, LINK_TO_NOTHING))
    return sorted(found), refused


def _count_images(folder: str) -> int:
    entries = list_folder(Path(folder))
    return sum(
        has_image_name(one.name) and not is_junk(one.name) and not os.path.isdir(one.path)  # noqa: PTH112
        for one in entries
    )


def _no_folder(path: Path, error: OSError) -> DataError:
    """Return the error for a path that is no folder: a URL, an archive, a file, or misspelt."""
    if match := re.match(r"([a-z0-9]{2,}:)/+(.*)", str(path)):  # a Path has one slash only
        return DataError(
            "a folder of class folders on this machine",
            found=f"a web address, '{match[1]}//{match[2]}'",
            hint="download the dataset, unpack it, and name its folder",
        )
    kinds = {errno.ENOENT: "nothing of that name", errno.ENOTDIR: "a file"}
    found = kinds.get(error.errno or 0) or error.strerror or str(error)
    hint = _near_folder(path) or "the path of your dataset, or: swinclf demo"
    if error.errno == errno.ENOTDIR and path.suffix.lower() in ARCHIVES:
        found = f"an archive ({path.suffix.lower()})"
        hint = "unpack it, and name the folder that holds the class folders"
    return DataError(f"a folder of class folders at '{path}'", found=found, hint=hint)


def _near_folder(path: Path) -> str:
    """Return the existing folder closest to a misspelt path, as a question; empty for none."""
    try:
        with os.scandir(path.absolute().parent) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, {*names} - {path.name}, n=1)
    return f"did you mean '{path.parent / near[0]}'?" if near else ""


def overlap_error(val: Path, folder: str) -> DataError:
    """Return the error for a --val folder that holds training images, such as those in `folder`."""
    return DataError(
        f"--val to name a folder apart from the images to train on, not '{val}'",
        found=f"the same images in both, e.g. those in '{folder}'",
        hint="leave --val out: a part of each class is then held out",
    )


def _two_of_a_split(root: Path, splits: Mapping[str, str], doubled: list[str]) -> DataError:
    names = sorted(name for name, split in splits.items() if split in doubled)
    return DataError(
        f"one folder for each split in '{root}'",
        found=f"{len(names)} for {doubled[0]}: {', '.join(names)}",
        hint="keep one of them" + (", or name it: --val DIR" if VAL in doubled else ""),
    )


def _no_train(root: Path, names: list[str]) -> DataError:
    return DataError(
        f"a folder of images to train on in '{root}', such as train/",
        found=f"only folders for other splits: {list_some(names)}",
        hint=f"rename the one to train on, or: swinclf train {quoted(root / names[0])} "
        f"--val {quoted(root / names[1])}",
    )


def _several_stems(root: Path, stems: list[tuple[str, ...]], names: list[str]) -> DataError:
    return DataError(
        f"one folder for each split in '{root}', with the class folders in it: train/{stems[0][0]}",
        found=f"names of a split and of something else: {list_some(names)}",
        hint="if that is the class, move the images into train/CLASS and test/CLASS; if each is a "
        "dataset: swinclf train DIR --val DIR",
    )
