"""Scan of a dataset folder: its classes, images and splits. Decodes no image.

A dataset is a folder of class folders, or holds train/ and val/ (valid/, validation/, or another
name recognized by `split_names`) and perhaps test/, each a folder of class folders.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swinclf.data.cifar import open_cifar
from swinclf.data.class_names import (
    find_similar_names,
    list_some,
    match_unicode_forms,
    quote_name,
    quote_names,
)
from swinclf.data.dataset_layout import (
    DatasetLayout,
    find_layout,
    list_folder,
    overlap_error,
)
from swinclf.data.image_detector import is_junk
from swinclf.data.images import has_image_name
from swinclf.data.scanned_files import ImageFile as ImageFile
from swinclf.data.scanned_files import SkippedFile as SkippedFile
from swinclf.data.scanned_files import format_count, most_frequent_reason, remedy_for
from swinclf.data.split_names import CROSS_VALIDATION as CROSS_VALIDATION
from swinclf.data.split_names import TEST as TEST
from swinclf.data.split_names import TRAIN as TRAIN
from swinclf.data.split_names import VAL as VAL
from swinclf.data.split_names import (
    check_structure,
    folder_in_class,
    folders_in_classes,
    split_name,
    splits_in_classes,
)
from swinclf.data.walk import FolderWalk, relative_path, walk_images
from swinclf.errors import DataError
from swinclf.shell_quoting import quoted


@dataclass(frozen=True)
class FolderIndex:
    """The images of a dataset: its scan, then its readable images, each assigned to a split."""

    root: Path  # the dataset's folder, absolute
    # names of the class folders with training images, sorted: the order of the logits
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]  # sorted by path
    # entries that should be images and cannot be used: links that are not followed, pipes,
    # unreadable folders, images of unsupported formats
    skipped: tuple[SkippedFile, ...]
    has_val: bool  # whether the folders define a validation split
    # names of the class folders for training, with or without images, sorted
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # remarks on the scan, a sentence each
    warnings: tuple[str, ...] = ()  # possible losses, a sentence each

    def counts(self, split: str | None = None) -> Counter[str]:
        """Return the number of images of each class, in one split or in all."""
        return Counter(one.label for one in (self.images if split is None else self.of(split)))

    def rows(self, split: str) -> list[int]:
        """Return the indices in `images` of a split."""
        return [row for row, image in enumerate(self.images) if image.split == split]

    def of(self, split: str) -> list[ImageFile]:
        """Return the images of a split."""
        return [image for image in self.images if image.split == split]

    def paths(self, split: str) -> list[Path]:
        """Return the files of a split."""
        return [self.root / image.path for image in self.of(split)]

    def targets(self, split: str) -> list[int]:
        """Return the class indices of a split."""
        index = {name: number for number, name in enumerate(self.classes)}
        return [index[image.label] for image in self.of(split)]


def scan_folder(root: Path, *, val: Path | None = None) -> FolderIndex:
    """Scan a dataset folder.

    `val` is a folder of class folders that replaces its validation split. Paths of images in it are
    relative to `root` as well.

    Raises:
        DataError: If there is no such folder, it has no classes, its splits have different
            classes, or it is ambiguous which folder is which split.
    """
    root, val = _existing_folder(root), _existing_folder(val) if val is not None else None
    if (packed := _packed_index(root, val)) is not None:
        return packed
    layout = find_layout(root, val)
    if val is not None:
        _check_apart(layout, val)
    walk = FolderWalk(root, [folder.path for folder in layout.class_folders])
    images: list[ImageFile] = []
    skipped = [
        SkippedFile(relative_path(path, root), reason, Path(path).name)
        for path, reason in layout.skipped
    ]
    for folder in layout.class_folders:
        for path, reason in walk.walk(folder.path):
            if reason:
                skipped.append(SkippedFile(relative_path(path, root), reason, folder.label))
            else:
                images.append(ImageFile(relative_path(path, root), folder.label, folder.split))
    images.sort(key=lambda image: image.path)
    doubt = ""
    if not layout.splits or (val is not None and layout.splits.get(str(root)) == TRAIN):
        images, doubt = _by_structure(root, images, layout)
    images, renamed = _matched_by_form(images)
    index = FolderIndex(
        root=root,
        classes=tuple(sorted({image.label for image in images if image.split in ("", TRAIN)})),
        images=tuple(images),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
        has_val=VAL in layout.splits.values(),
        folders=tuple(sorted(layout.train_labels)),
        notes=(*layout.notes, *renamed, *walk.notes()),
        warnings=(*filter(None, [doubt]), *_unused_images(layout, root)),
    )
    if not index.classes:
        raise _no_classes(root, Path(next(iter(layout.splits), root)), index.skipped)
    _check_one_level_down(index)
    return index


def _unused_images(layout: DatasetLayout, root: Path) -> Iterator[str]:
    if layout.loose:
        yield f"{format_count(layout.loose, 'image')} in no class folder: not used"
    if unused := [relative_path(path, root) for path in layout.unused if any(walk_images(path))]:
        yield f"folders next to train that are not splits are not used: {list_some(unused)}"


def _packed_index(root: Path, val: Path | None) -> FolderIndex | None:
    """Return the images of CIFAR's own files in a folder; None if it holds none."""
    archive = open_cifar(root)
    if archive is None:
        return None
    if val is not None:
        raise DataError(
            "no --val with the files of CIFAR, of which a part of each class is held out",
            found=f"'{val}'",
            hint="--val-split 0.1",
        )
    images = [ImageFile(*one) for one in archive.paths()]
    tests = sum(image.split == TEST for image in images)
    note = f"{archive.title} as published, with {tests:,} test images"
    return FolderIndex(
        root=root,
        classes=tuple(sorted({image.label for image in images if image.split == TRAIN})),
        images=tuple(sorted(images, key=lambda image: image.path)),
        skipped=(),
        has_val=False,
        notes=(note,),
    )


def dataset_digest(root: Path) -> str:
    """Return a short hash that identifies a dataset folder without revealing its path."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def check_trainable(index: FolderIndex) -> None:
    """Check that there are at least two classes and that all splits have the same.

    Raises:
        DataError: Naming the classes at fault.
    """
    if len(index.classes) < 2:
        found = f"{len(index.classes)}: {list_some(index.classes) or 'none with a readable image'}"
        lost = sorted(set(index.folders) - set(index.classes))
        if index.classes and lost:
            found += f" (no readable image in {list_some(lost)})"
        reason, count = most_frequent_reason(index.skipped)
        if count:
            found += f"; {len(index.skipped):,} files skipped, {count:,} of them: {reason}"
        raise DataError(
            f"at least two classes in '{index.root}'",
            found=found,
            hint=remedy_for(reason)
            or (
                f"swinclf check {quoted(index.root)}, which lists all skipped files"
                if count
                else ""
            )
            or "put the images of each class into a folder of its own, e.g. cats/ and dogs/",
        )
    if index.has_val:
        _check_same_classes(index)


def _check_same_classes(index: FolderIndex) -> None:
    trained, held_out = index.counts(TRAIN), index.counts(VAL)
    added = sorted(set(held_out) - set(trained))
    lacking = sorted(set(trained) - set(held_out))
    if not added and not lacking:
        return
    found = []
    if lacking:
        found.append(f"the val folder lacks {list_some(lacking, held_out)}")
    if added:
        similar = find_similar_names(added[:1], trained)[added[0]]
        near = [*similar, *difflib.get_close_matches(added[0], list(trained), n=1)]
        found.append(
            f"the val folder adds {list_some(added, trained)}"
            + (f" (did you mean {quote_name(near[0], added)}?)" if near else "")
        )
    reason, count = most_frequent_reason(one for one in index.skipped if one.label in lacking)
    if count:
        found.append(f"{count:,} files of these were skipped: {reason}")
    raise DataError(
        f"the same classes in the train and the val folder of '{index.root}'",
        found="; ".join(found),
        hint=remedy_for(reason)
        or "correct the folder names, or hold out a part of the train folder: "
        f"swinclf train {quoted(_train_folder(index))}",
    )


def _train_folder(index: FolderIndex) -> Path:
    """Return the folder that holds the class folders for training."""
    image = next(image for image in index.images if image.split == TRAIN)
    top = image.path.partition("/")[0]
    spoken = split_name(top)
    is_layout = top != image.label and spoken is not None and spoken.split == TRAIN
    return index.root / top if is_layout else index.root


def _existing_folder(path: Path) -> Path:
    list_folder(path)
    return path.resolve()


def _by_structure(
    root: Path, images: list[ImageFile], layout: DatasetLayout
) -> tuple[list[ImageFile], str]:
    """Detect splits inside each class folder; return the images and a warning.

    Raises:
        DataError: If the "classes" are splits, or only some of them hold splits.
    """
    own = [one for one in images if one.split != VAL]  # the others are those of --val
    inner = folders_in_classes(own)
    splits = splits_in_classes(inner)
    if not splits:
        return images, "" if layout.splits else check_structure(root, inner)
    if lacking := sorted(name for name, folders in inner.items() if folders == {""}):
        raise DataError(
            f"the folders {list_some(sorted(splits))} in each class folder of '{root}'",
            found=f"none in {list_some(lacking)}",
            hint=f"move its images into '{root / lacking[0]}/train', or out of such folders in all",
        )
    if VAL in layout.splits.values():  # --val replaces such folders
        splits = {name: split for name, split in splits.items() if split != VAL}
    named = ", ".join(f"'{name}' as {split}" for name, split in sorted(splits.items()))
    layout.notes.append(f"folders read as splits, in each class: {named}")
    others = {folder: split for folder, split in layout.splits.items() if split != TRAIN}
    layout.splits = {**{str(root / name): split for name, split in splits.items()}, **others}
    used = [one for one in images if one.split == VAL] + [
        replace(one, split=splits[folder_in_class(one)])
        for one in own
        if folder_in_class(one) in splits
    ]
    loose = sum(not folder_in_class(one) for one in own)
    doubt = f"{format_count(loose, 'image')} of classes in none of their splits: not used"
    return sorted(used, key=lambda one: one.path), doubt if loose else ""


def _matched_by_form(images: list[ImageFile]) -> tuple[list[ImageFile], list[str]]:
    """Rename classes of other splits that differ from those of train only in Unicode form."""
    trained = {image.label for image in images if image.split in ("", TRAIN)}
    renamed: dict[tuple[str, str], str] = {}
    for split in sorted({image.split for image in images} - {"", TRAIN}):
        labels = {image.label for image in images if image.split == split}
        for label, name in match_unicode_forms(labels, trained).items():
            renamed[split, label] = name
    if not renamed:
        return images, []
    matched = [replace(one, label=renamed.get((one.split, one.label), one.label)) for one in images]
    notes = [
        f"{quote_names((label, name))} are one class, written in two Unicode forms: "
        f"the {split} folder's images count for that of the train folder"
        for (split, label), name in sorted(renamed.items())
    ]
    return matched, notes


def _check_apart(layout: DatasetLayout, val: Path) -> None:
    """Refuse a --val folder that holds training images, which would be trained on and scored."""
    held = {os.path.realpath(one.path) for one in layout.class_folders if one.split == VAL}
    trained = {os.path.realpath(one.path) for one in layout.class_folders if one.split != VAL}
    twice = sorted((held | _parents(held)) & trained) or sorted(held & _parents(trained))
    if twice:
        raise overlap_error(val, twice[0])


def _parents(folders: Iterable[str]) -> set[str]:
    return {str(parent) for folder in folders for parent in Path(folder).parents}


def _no_classes(root: Path, scanned: Path, skipped: Sequence[SkippedFile]) -> DataError:
    """Return the error for a folder without classes, with what it contains instead."""
    entries = [entry for entry in list_folder(scanned) if not is_junk(entry.name)]
    folders = sorted(entry.name for entry in entries if os.path.isdir(entry.path))  # noqa: PTH112
    files = sorted(entry.name for entry in entries if entry.name not in folders)
    images = sum(map(has_image_name, files))
    hint = "move the images of each class into a folder named like the class"
    reason, count = most_frequent_reason(skipped)
    if images:
        found = f"{format_count(images, 'image')} directly in it, not in class folders"
    elif skipped:
        found = f"{len(skipped):,} that cannot be used, e.g. {skipped[0].path}: {reason}"
        hint = remedy_for(reason) or f"repair {'it' if count == 1 else 'them'}, or {hint}"
    elif folders:
        found = f"no image in any folder of it ({list_some(folders)})"
    else:
        found = f"no folder in it, {'only ' + list_some(files) if files else 'it is empty'}"
    return DataError(
        f"class folders with images in '{root}', such as {root.name}/daisy/1.jpg",
        found=found,
        hint=f"{hint}; for an example: swinclf demo",
    )


def _check_one_level_down(index: FolderIndex) -> None:
    """Detect `data/` given for `data/flowers/`: one folder that itself holds the class folders."""
    if len(index.classes) != 1 or index.has_val:
        return
    prefix = f"{index.classes[0]}/"
    while True:
        if not all(image.path.startswith(prefix) for image in index.images):
            return  # the class folder is in a split's folder
        below = [image.path.removeprefix(prefix) for image in index.images]
        folders = sorted({path.partition("/")[0] for path in below if "/" in path})
        if len(folders) != 1 or any("/" not in path for path in below):
            break
        prefix += f"{folders[0]}/"
    directly = any("/" not in path for path in below)
    inner = index.root / prefix
    if len(folders) >= 2 and not directly:
        raise DataError(
            f"class folders in '{index.root}'",
            found=f"one folder, '{prefix[:-1]}', that holds {len(folders)} folders "
            f"({list_some(folders)})",
            hint=f"did you mean '{inner}'?",
        )
