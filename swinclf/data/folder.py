"""What is on disk: the classes, the images and the splits of a dataset folder. Opens no image.

A dataset is a folder of class folders, or holds train/ beside val/ (valid/, validation/) and
perhaps test/, each a folder of class folders.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swinclf.data.images import has_image_name
from swinclf.errors import DataError

TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
LINK_TO_FOLDER = "a link to a folder is not followed"
LINK_OUT = "a link that leads out of the dataset"
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
    splits = _splits(root, val)
    folders = {folder for folder, _ in splits}
    images: list[ImageFile] = []
    skipped = [] if root in folders else _linked_folders(root)
    for folder, split in splits:
        for entry in _scan_class_folders(folder, base=root, without=folders - {folder}):
            if isinstance(entry, Skipped):
                skipped.append(entry)
            else:
                images.append(replace(entry, split=split))
    images.sort(key=lambda image: image.path)
    if val is not None:
        _check_apart(images, val)
    index = FolderIndex(
        root=root,
        classes=tuple(sorted({image.label for image in images if image.split in ("", TRAIN)})),
        images=tuple(images),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
        has_val=VAL in (split for _, split in splits),
    )
    if not index.classes:
        raise _no_classes(root, splits[0][0], index.skipped)
    _check_one_level_down(index)
    return index


def walk_images(folder: str) -> Iterator[str]:
    """Paths of every image below a folder, in order, each beginning with `folder` as it was given.

    Hidden files and links to folders are passed over; of whatever else is named like an image, and
    of a folder that may not be entered, the reader says what it is.
    """
    names: list[str] = []
    below: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_junk(entry.name) or _links_to_folder(entry):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                elif has_image_name(entry.name):
                    names.append(entry.name)
    except OSError:
        yield folder
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
        counts = index.counts("") + index.counts(TRAIN)
        lone = [name for name, count in counts.items() if count == 1]
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
        f"swinclf train '{_train_folder(index)}'",
    )


def _train_folder(index: FolderIndex) -> Path:
    """The folder that holds the class folders to train on."""
    image = next(image for image in index.images if image.split == TRAIN)
    top = image.path.partition("/")[0]
    is_layout = top != image.label and SPLIT_FOLDERS.get(top.lower()) == TRAIN
    return index.root / top if is_layout else index.root


def _existing_folder(path: Path) -> Path:
    _list_folder(path)
    return path.resolve()


def _list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder that has to be there.

    Raises:
        DataError: If it is none, or may not be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        kinds = {errno.ENOENT: "nothing of that name", errno.ENOTDIR: "a file"}
        raise DataError(
            f"a folder of class folders at '{folder}'",
            found=kinds.get(error.errno or 0) or error.strerror or str(error),
            hint=_near_folder(folder) or "the path of your dataset, or: swinclf demo",
        ) from error


def _near_folder(path: Path) -> str:
    """The folder that was meant by a misspelt path, as a question; empty where none is near."""
    try:
        with os.scandir(path.absolute().parent) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, {*names} - {path.name}, n=1)
    return f"did you mean '{path.parent / near[0]}'?" if near else ""


def _splits(root: Path, val: Path | None) -> list[tuple[Path, str]]:
    """The folders that hold class folders, each with its split: `root` itself, or some in it."""
    splits = list(_split_folders(root, any_val=val is None).items())
    if val is None:
        return splits or [(root, "")]
    trained = [(folder, split) for folder, split in splits if split != VAL]
    return [*(trained or [(root, TRAIN)]), (_existing_folder(val), VAL)]


def _split_folders(root: Path, *, any_val: bool) -> dict[Path, str]:
    """The folders train/, val/, test/ of `root` and their splits; empty without such a layout.

    Args:
        root: The dataset's folder.
        any_val: Whether what is held out is to be found here, and not named by hand.

    Raises:
        DataError: If there are two for one split.
    """
    found = {
        folder: SPLIT_FOLDERS.get(folder.name.lower(), "") for folder in _visible_folders(root)
    }
    splits = {folder: split for folder, split in found.items() if split}
    has_train = TRAIN in splits.values()
    only_train = set(found.values()) == {TRAIN} and any(map(_visible_folders, found))
    if not (has_train and (len(splits) > 1 or only_train)):
        return {}
    doubled = [split for split, count in Counter(splits.values()).items() if count > 1]
    if not any_val:
        doubled = [split for split in doubled if split != VAL]
    if doubled:
        names = sorted(folder.name for folder, split in splits.items() if split in doubled)
        raise DataError(
            f"one folder for each split in '{root}'",
            found=f"{len(names)} for {doubled[0]}: {', '.join(names)}",
            hint="keep one of them" + (", or name it: --val DIR" if VAL in doubled else ""),
        )
    return splits


def _check_apart(images: Iterable[ImageFile], val: Path) -> None:
    """Refuses a --val folder that holds images to train on: they would be trained on and scored."""
    twice = [path for path, count in Counter(one.path for one in images).items() if count > 1]
    if twice:
        raise DataError(
            f"--val to name a folder apart from the images to train on, not '{val}'",
            found=f"{len(twice)} images in both, e.g. '{twice[0]}'",
            hint="leave --val out: a part of each class is then held out",
        )


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(
        Path(entry.path)
        for entry in _list_folder(folder)
        if entry.is_dir(follow_symlinks=False) and not _is_junk(entry.name)
    )


def _linked_folders(folder: Path) -> list[Skipped]:
    """The links to folders in a folder: perhaps one of them was meant to be a split."""
    return [
        Skipped(entry.name, LINK_TO_FOLDER)
        for entry in _list_folder(folder)
        if not _is_junk(entry.name) and _links_to_folder(entry)
    ]


def _scan_class_folders(
    folder: Path, *, base: Path, without: set[Path]
) -> Iterator[ImageFile | Skipped]:
    """Every image below the class folders of `folder`; `without` are folders of other splits."""
    within = base if folder.is_relative_to(base) else folder
    for entry in _list_folder(folder):
        if _is_junk(entry.name) or Path(entry.path) in without:
            continue
        if entry.is_dir(follow_symlinks=False):
            for path, reason in _walk(entry.path, within):
                relative = _relative(path, base)
                yield Skipped(relative, reason) if reason else ImageFile(relative, entry.name)
        elif _links_to_folder(entry):
            yield Skipped(_relative(entry.path, base), LINK_TO_FOLDER)


def _relative(path: str, base: Path) -> str:
    """A path relative to the dataset's root, with "/" between folders."""
    try:
        relative = os.path.relpath(path, base)
    except ValueError:  # on Windows --val may be on another drive: then the whole path
        relative = path
    return relative.replace(os.sep, "/")


def _walk(folder: str, root: Path) -> Iterator[tuple[str, str]]:
    """(path, reason) of all below a folder that is named like an image; no reason: a good one."""
    below: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_junk(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif _links_to_folder(entry):
                    yield entry.path, LINK_TO_FOLDER
                elif has_image_name(entry.name):
                    yield entry.path, _reason_against(entry, root)
    except OSError as error:
        yield folder, error.strerror or str(error)
    for path in sorted(below):
        yield from _walk(path, root)


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    # `entry.is_dir()` raises where a link leads in a circle.
    return entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112


def _reason_against(entry: os.DirEntry[str], root: Path) -> str:
    if entry.is_file(follow_symlinks=False):
        return ""
    if not entry.is_symlink():
        return "not a regular file"
    target = os.path.realpath(entry.path)
    if not os.path.isfile(target):  # noqa: PTH113 - never raises
        return "a link to nothing"
    return "" if Path(target).is_relative_to(root) else LINK_OUT


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in JUNK_FOLDERS


def _no_classes(root: Path, scanned: Path, skipped: Sequence[Skipped]) -> DataError:
    """Says what does lie in a folder that holds no class, and what to do about it."""
    entries = [entry for entry in _list_folder(scanned) if not _is_junk(entry.name)]
    folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    files = sorted(entry.name for entry in entries if entry.name not in folders)
    images = sum(map(has_image_name, files))
    hint = "move the images of each class into a folder named like the class"
    if images:
        found = f"{images} images directly in it, in no class folder"
    elif skipped:
        first = skipped[0]
        found = f"{len(skipped):,} that cannot be used, e.g. {first.path}: {first.reason}"
        if first.reason in (LINK_TO_FOLDER, LINK_OUT):
            hint = f"cp -rL '{root}' COPY makes files of what links lead to"
    elif folders:
        found = f"no image in any folder of it ({_some(folders)})"
    else:
        found = f"no folder in it, {'only ' + _some(files) if files else 'it is empty'}"
    return DataError(
        f"class folders with images in '{root}', such as {root.name}/daisy/1.jpg",
        found=found,
        hint=f"{hint}; to see how it goes: swinclf demo",
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
