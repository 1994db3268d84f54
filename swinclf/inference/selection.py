"""Select the images to score a model on: its held-out images, or all of another folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from swinclf.card import ModelCard
from swinclf.data.cifar import is_image_file
from swinclf.data.class_names import (
    find_similar_names,
    match_unicode_forms,
    quote_name,
    quote_names,
)
from swinclf.data.folder import (
    TEST,
    TRAIN,
    VAL,
    FolderIndex,
    ImageFile,
    SkippedFile,
    dataset_digest,
    scan_folder,
)
from swinclf.data.loader import digest_files
from swinclf.data.relocate import recorded_folders, sampled
from swinclf.data.split import SplitRule, read_split
from swinclf.errors import DataError, RunError
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import RunFolder
from swinclf.shell_quoting import quoted

ALL = "all"
MAX_UNKNOWN_WARNINGS = 5  # classes that get a warning of their own


class Selection(NamedTuple):
    """The images to score."""

    folder: FolderIndex  # its scan, with these images alone
    split: str  # val, test, train or all: of the training, or of another folder
    is_training_dataset: bool  # whether the model was trained on the folder, perhaps moved


def find_training_dataset(model: Path, run: RunFolder | None) -> Path:
    """Return the folder that a model was trained on.

    Raises:
        RunError: If it is not recorded, or the model is not in a run folder.
    """
    if run is None:
        raise RunError(
            f"the folder to score '{model}' on",
            found="no DATA given, and the file is not in a run folder that records it",
            hint=f"swinclf eval DATA --run {quoted(model)}",
        )
    folders = recorded_folders(run)
    if not folders:
        raise RunError(
            f"the folder that a run was trained on, in '{run.config}'",
            found="none",
            hint=f"swinclf eval DATA --run {quoted(model)}",
        )
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def find_training_root(
    model: Path, run: RunFolder | None, root: Path, card: ModelCard
) -> Path | None:
    """Return the folder, absolute, that the paths of a model's training images are relative to.

    It is `root`, the folder that is scored, if that is the training's dataset, perhaps moved. It
    may no longer exist; None if it is not recorded.
    """
    if _is_dataset_of(run, root, card):
        return root.resolve()
    with suppress(RunError):
        return find_training_dataset(model, run).resolve()
    return None


def select_images(
    root: Path, split: str | None, run: RunFolder | None, card: ModelCard, report: Reporter
) -> Selection:
    """Return the images to score and the name of their split.

    `split` is val, test, train or all; None for the held-out images if the model was trained on
    this folder, else all, with a note.

    Raises:
        DataError: If there are none.
    """
    if run is not None and _is_dataset_of(run, root, card) and not _are_renamed(run, root):
        images = read_split(run.split)
        index = FolderIndex(root.resolve(), (), images, (), has_val=True)
        return _only(index, split or _default_split(images, card), is_training_dataset=True)
    index = scan_folder(root)
    if card.split.get("dataset") == dataset_digest(root):
        index = _split_by_rule(index, card)
        split = split or _default_split(index.images, card)
        return _only(index, split, is_training_dataset=True)
    if split is None:
        report.note(f"'{root}' is not where this model was trained: all of its images are scored")
    return _only(index, split or ALL, is_training_dataset=False)


def _default_split(images: Sequence[ImageFile], card: ModelCard) -> str:
    """Return the split that a training scores: test if it held one out, else val."""
    held_out = TEST if card.split.get("test_split") else VAL
    return held_out if any(image.split == held_out for image in images) else TRAIN


def _is_dataset_of(run: RunFolder | None, root: Path, card: ModelCard) -> bool:
    """Return whether a model was trained on a folder: the same path, or the same images elsewhere.

    Two datasets may number their files alike (001.jpg), so most of a sample must have the same
    content too; not all of it, as an image may have been edited. Older cards record no content.
    """
    if card.split.get("dataset") == dataset_digest(root):
        return True
    if run is None:
        return False
    paths = [image.path for image in sampled(read_split(run.split))]
    if not all(is_image_file(root / path) for path in paths):
        return False
    recorded = card.split.get("content")
    if recorded is None:
        return True
    digests = digest_files(root, paths)
    found = [digests.get(path, b"").hex()[:8] for path in paths]
    same: int = sum(now == then for now, then in zip(found, recorded, strict=False))
    return 2 * same > len(paths)


def _are_renamed(run: RunFolder, root: Path) -> bool:
    """Return whether most of a run's images are no longer at their paths."""
    found = [is_image_file(root / image.path) for image in sampled(read_split(run.split))]
    return sum(found) < len(found) / 2


def _split_by_rule(index: FolderIndex, card: ModelCard) -> FolderIndex:
    """Repeat the training's split, which depends on the images and the seed alone."""
    rule = SplitRule.from_dict(card.split)
    rule = replace(rule, val=0.0) if index.has_val else rule
    held_out = [image for image in index.images if image.split in (VAL, TEST)]  # by their folders
    others = [image for image in index.images if image.split not in (VAL, TEST)]
    digests = digest_files(index.root, (image.path for image in others))
    readable = [image for image in others if image.path in digests]  # the rest was not used
    labels = [image.label for image in readable]
    assigned = rule.assign(labels, [digests[image.path] for image in readable])
    split = [replace(image, split=name) for image, name in zip(readable, assigned, strict=True)]
    return replace(index, images=(*split, *held_out))


def _only(index: FolderIndex, split: str, *, is_training_dataset: bool) -> Selection:
    images = tuple(image for image in index.images if split in (ALL, image.split))
    if not images:
        there = sorted({image.split for image in index.images if image.split})
        raise DataError(
            f"images of the split '{split}' in '{index.root}'",
            found=f"images of {', '.join(there)}" if there else "no split in its folders",
            hint=f"--split {VAL if VAL in there else there[0] if there else ALL}",
        )
    return Selection(replace(index, images=images), split, is_training_dataset)


def match_labels(
    index: FolderIndex, card: ModelCard, report: Reporter = SILENT
) -> tuple[list[ImageFile], list[SkippedFile]]:
    """Return the images of the model's classes, matched by name, and the others as skipped.

    A name that differs from a class in its Unicode form alone is that class, with a note.

    Raises:
        DataError: If no folder has the name of a class.
    """
    labels = {image.label for image in index.images}
    renamed = match_unicode_forms(labels, card.classes)
    for label, name in sorted(renamed.items()):
        report.note(
            f"{quote_names((label, name))} are one class, written in two Unicode forms: "
            "the folder's images count for the model's class"
        )
    images = [replace(image, label=renamed.get(image.label, image.label)) for image in index.images]
    classes = set(card.classes)
    known = [image for image in images if image.label in classes]
    unknown = [image for image in images if image.label not in classes]
    counts = Counter(image.label for image in unknown)
    similar = find_similar_names(counts, card.classes)
    quoted_names = {name: quote_name(name, similar[name]) for name in counts}
    if not known:
        names = sorted(counts)
        near = next((similar[name][0] for name in names if similar[name]), "")
        raise DataError(
            f"folders named like the model's classes ({', '.join(map(repr, card.classes[:5]))})",
            found=f"{', '.join(quoted_names[name] for name in names[:5])} in '{index.root}'"
            + (f" (did you mean {near!r}?)" if near else ""),
            hint="name the folders like the classes, or: swinclf predict",
        )
    for name, count in sorted(counts.items())[:MAX_UNKNOWN_WARNINGS]:
        report.warn(
            f"class {quoted_names[name]} is not one of the model's: {count:,} images are not scored"
        )
    reasons = {
        name: f"its class {quoted_names[name]} is not one of the model's"
        + (f" ({quote_name(similar[name][0], [name])} is)" if similar[name] else "")
        for name in counts
    }
    return known, [SkippedFile(image.path, reasons[image.label], image.label) for image in unknown]
