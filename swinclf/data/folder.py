"""What is on disk: the classes, the images and the splits of a dataset folder. Opens no image.

A dataset is a folder of class folders, or holds train/ beside val/ (valid/, validation/) and
perhaps test/, each a folder of class folders.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swinclf.data.images import has_image_name
from swinclf.errors import DataError

TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a dataset.

    Attributes:
        path: Relative to the dataset's root, with "/" between folders.
        label: The name of its class folder.
        split: train, val or test; empty where the folders do not say.
    """

    path: str
    label: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class FolderIndex:
    """A dataset as it lies on disk.

    Attributes:
        root: The dataset's folder, absolute.
        classes: Names of the class folders, sorted.
        images: In order of path.
        skipped: Entries that look like images and are none: links out of the folder, pipes,
            folders.
        has_val: Whether the folders themselves say what is held out.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    skipped: tuple[Skipped, ...]
    has_val: bool

    def counts(self, split: str | None = None) -> Counter[str]:
        """Images of each class, in one split or in all."""
        return Counter(
            image.label for image in self.images if split is None or image.split == split
        )


def scan_folder(root: Path, *, val: Path | None = None) -> FolderIndex:
    """Lists a dataset.

    Args:
        root: The dataset's folder.
        val: A folder of class folders that is held out instead of what `root` says. Paths of its
            images are relative to `root` all the same.

    Raises:
        DataError: If there is no such folder, it holds no class, or its splits do not have the
            same classes.
    """
    root = _existing_folder(root)
    splits = _split_folders(root)
    if val is not None:
        splits = {folder: split for folder, split in splits.items() if split != VAL} or {root: ""}
        splits = {folder: split or TRAIN for folder, split in splits.items()}
        splits[_existing_folder(val)] = VAL
    images: list[ImageFile] = []
    skipped: list[Skipped] = []
    for folder, split in (splits or {root: ""}).items():
        for entry in _scan_class_folders(folder, base=root, without=set(splits) - {folder}):
            if isinstance(entry, Skipped):
                skipped.append(entry)
            else:
                images.append(replace(entry, split=split))
    images.sort(key=lambda image: image.path)
    index = FolderIndex(
        root=root,
        classes=tuple(sorted({image.label for image in images if image.split in ("", TRAIN)})),
        images=tuple(images),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
        has_val=VAL in splits.values(),
    )
    if not index.classes:
        raise _no_classes(root, next(iter(splits), root))
    _check_one_level_down(index)
    return index


def walk_images(folder: str) -> Iterator[str]:
    """Paths of every image below a folder, in order, each beginning with `folder` as it was given.

    Hidden files and links to folders are passed over; of whatever else is named like an image, the
    reader says what it is.
    """
    names: list[str] = []
    below: list[str] = []
    for entry in os.scandir(folder):
        if _is_junk(entry.name):
            continue
        if entry.is_dir():
            below.extend([] if entry.is_symlink() else [entry.name])
        elif has_image_name(entry.name):
            names.append(entry.name)
    for name in sorted(names):
        yield os.path.join(folder, name)  # noqa: PTH118 - the string as it was given
    for name in sorted(below):
        yield from walk_images(os.path.join(folder, name))  # noqa: PTH118


def dataset_digest(root: Path) -> str:
    """A few characters by which a folder is known again, without telling its path."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def check_trainable(index: FolderIndex, *, held_out: bool) -> None:
    """Refuses what cannot be trained on: fewer than two classes, lone images, splits that differ.

    Args:
        index: The dataset, unreadable images already gone.
        held_out: Whether some images of each class are to be held out from training.

    Raises:
        DataError: Naming the classes at fault.
    """
    if len(index.classes) < 2:
        raise DataError(
            f"at least two classes in '{index.root}'",
            found=f"{len(index.classes)}: {_some(index.classes) or 'none with a readable image'}",
            hint="put the images of each class into a folder of its own, e.g. cats/ and dogs/",
        )
    if index.has_val:
        _check_same_classes(index)
    elif held_out:
        lone = [name for name, count in index.counts().items() if count == 1]
        if lone:
            raise DataError(
                f"two images or more of every class in '{index.root}', to train on and to check",
                found=f"one readable image of {_some(lone)}",
                hint="add images, take the folder out, or train without a check: --val-split 0",
            )


def _check_same_classes(index: FolderIndex) -> None:
    trained, held_out = index.counts(TRAIN), index.counts(VAL)
    added = sorted(set(held_out) - set(trained))
    lacking = sorted(set(trained) - set(held_out))
    if not added and not lacking:
        return
    found = []
    if lacking:
        found.append(f"the val folder lacks {_some(lacking)}")
    if added:
        near = difflib.get_close_matches(added[0], list(trained), n=1)
        found.append(
            f"the val folder adds {_some(added)}"
            + (f" (did you mean {near[0]!r}?)" if near else "")
        )
    raise DataError(
        f"the same classes in the train and the val folder of '{index.root}'",
        found="; ".join(found),
        hint="mend the folder names, or hold out a part of the train folder: "
        f"swinclf train '{index.root / TRAIN}'",
    )


def _existing_folder(path: Path) -> Path:
    if path.is_dir():
        return path.resolve()
    kind = "a file" if path.exists() else "nothing of that name"
    parent = path.absolute().parent
    near = []
    if parent.is_dir():
        folders = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
        near = difflib.get_close_matches(path.name, folders, n=1)
    did_you_mean = (
        f"did you mean '{path.parent / near[0]}'?"
        if near
        else "the path of your dataset, or: swinclf demo"
    )
    raise DataError(f"a folder of class folders at '{path}'", found=kind, hint=did_you_mean)


def _split_folders(root: Path) -> dict[Path, str]:
    """The folders train/, val/, test/ of `root` and their splits; empty without such a layout."""
    found = {
        folder: SPLIT_FOLDERS.get(folder.name.lower(), "") for folder in _visible_folders(root)
    }
    splits = {folder: split for folder, split in found.items() if split}
    doubled = [split for split, count in Counter(splits.values()).items() if count > 1]
    if doubled:
        names = sorted(folder.name for folder, split in splits.items() if split in doubled)
        raise DataError(
            f"one folder for each split in '{root}'",
            found=f"{len(names)} for {doubled[0]}: {', '.join(names)}",
            hint="keep one of them, or name it: --val DIR",
        )
    has_train = TRAIN in splits.values()
    only_train = set(found.values()) == {TRAIN} and any(map(_holds_folders, found))
    return splits if has_train and (len(splits) > 1 or only_train) else {}


def _visible_folders(folder: Path) -> list[Path]:
    entries = (
        Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)
    )
    return sorted(
        path for path in entries if not path.name.startswith(".") and path.name not in JUNK_FOLDERS
    )


def _holds_folders(folder: Path) -> bool:
    return bool(_visible_folders(folder))


def _scan_class_folders(
    folder: Path, *, base: Path, without: set[Path]
) -> Iterator[ImageFile | Skipped]:
    """Every image below the class folders of `folder`; `without` are folders of other splits."""
    for entry in os.scandir(folder):
        if _is_junk(entry.name) or Path(entry.path) in without:
            continue
        if entry.is_dir(follow_symlinks=False):
            try:
                for path, reason in _walk(entry.path, folder):
                    relative = os.path.relpath(path, base).replace(os.sep, "/")
                    yield Skipped(relative, reason) if reason else ImageFile(relative, entry.name)
            except OSError as error:
                yield Skipped(
                    os.path.relpath(error.filename or entry.path, base),
                    error.strerror or str(error),
                )
        elif entry.is_symlink() and entry.is_dir():
            yield Skipped(os.path.relpath(entry.path, base), "a link to a folder is not followed")


def _walk(folder: str, root: Path) -> Iterator[tuple[str, str]]:
    """(path, reason) of all below a folder that is named like an image; no reason: a good one."""
    below: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_junk(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.is_symlink() and entry.is_dir():
                yield entry.path, "a link to a folder is not followed"
            elif has_image_name(entry.name):
                yield entry.path, _reason_against(entry, root)
    for path in sorted(below):
        yield from _walk(path, root)


def _reason_against(entry: os.DirEntry[str], root: Path) -> str:
    if entry.is_file(follow_symlinks=False):
        return ""
    if not entry.is_symlink():
        return "not a regular file"
    target = Path(os.path.realpath(entry.path))
    if not target.is_file():
        return "a link to nothing"
    return "" if target.is_relative_to(root) else "a link that leads out of the dataset"


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in JUNK_FOLDERS


def _no_classes(root: Path, scanned: Path) -> DataError:
    """Says what does lie in a folder that holds no class, and what to do about it."""
    entries = [entry for entry in os.scandir(scanned) if not _is_junk(entry.name)]
    images = sum(has_image_name(entry.name) and entry.is_file() for entry in entries)
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    files = sorted(entry.name for entry in entries if not entry.is_dir())
    if images:
        found = f"{images} images directly in it, in no class folder"
    elif folders:
        found = f"no image in any folder of it ({_some(folders)})"
    else:
        found = f"no folder in it, {'only ' + _some(files) if files else 'it is empty'}"
    return DataError(
        f"class folders with images in '{root}', such as {root.name}/daisy/1.jpg",
        found=found,
        hint="move the images of each class into a folder named like the class; "
        "to see how it goes: swinclf demo",
    )


def _check_one_level_down(index: FolderIndex) -> None:
    """Notices `data/` given for `data/flowers/`: one folder that itself holds the class folders."""
    if len(index.classes) != 1 or index.has_val:
        return
    inner = index.root / index.classes[0]
    folders = _visible_folders(inner) if inner.is_dir() else []
    directly = any(image.path.count("/") == 1 for image in index.images)
    if len(folders) >= 2 and not directly:
        raise DataError(
            f"class folders in '{index.root}'",
            found=f"one folder, '{inner.name}', that holds {len(folders)} folders "
            f"({_some(folder.name for folder in folders)})",
            hint=f"did you mean '{inner}'?",
        )


def _some(names: Iterable[str]) -> str:
    """A few names, quoted, and how many more there are."""
    listed = list(names)
    shown = ", ".join(repr(name) for name in listed[:5])
    return shown + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
