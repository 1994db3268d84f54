"""The readable images of a dataset for training, each assigned to a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from swinclf.data.class_names import list_some, quote_names, similar_names
from swinclf.data.folder import TRAIN, VAL, FolderIndex, ImageFile, SkippedFile, check_trainable
from swinclf.data.scanned_files import most_frequent_reason
from swinclf.data.split import SplitRule

SIMILAR = "differ only in case, outer spaces or Unicode form"
NAMED = 5  # classes that are listed by name


def describe_warnings(dataset: FolderIndex) -> Iterator[str]:
    """Yield possible losses and mistakes in a dataset with splits, a sentence each."""
    yield from dataset.warnings
    similar = similar_names(dataset.classes)
    for names in similar[:NAMED]:
        yield f"the classes {quote_names(names)} {SIMILAR}: they are separate classes"
    if len(similar) > NAMED:
        yield f"so do {len(similar) - NAMED:,} more groups of classes (swinclf check lists all)"
    trained, held_out = dataset.counts(TRAIN), dataset.counts(VAL)
    lone = [name for name in dataset.classes if not held_out[name]]
    if held_out and lone:
        yield (
            f"no image of {list_some(lone)} is held out: there are not two different ones "
            f"({sum(trained[name] for name in lone):,} to train on)"
        )
    elif trained and not held_out and max(trained.values()) == 1:
        yield "no class has two images: none is held out, so the model cannot be validated"


def assign_splits(
    index: FolderIndex,
    digests: Mapping[str, bytes],
    errors: Mapping[str, str],
    rule: SplitRule,
) -> FolderIndex:
    """Drop unreadable images and assign a split to each of the others.

    `digests` and `errors` have the content digest of every readable image, and the reason for every
    other, by path. Folders for validation or testing come before the rule.

    Raises:
        DataError: If the remaining images cannot be trained on.
    """
    readable = [image for image in index.images if image.path not in errors]
    broken = [
        SkippedFile(image.path, errors[image.path], image.label)
        for image in index.images
        if image.path in errors
    ]
    skipped = (*index.skipped, *broken)
    trained = {image.label for image in readable if image.split in ("", TRAIN)}
    cleaned = replace(
        index,
        images=tuple(readable),
        classes=tuple(name for name in index.classes if name in trained),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
    )
    check_trainable(cleaned)
    rule = replace(rule, val=0.0) if index.has_val else rule
    lost, empty = classes_without_images(cleaned)
    notes = [f"ignored folders without images: {list_some(empty)}"] if empty else []
    return replace(
        cleaned,
        images=_split(readable, digests, rule),
        notes=(*index.notes, *notes),
        warnings=(*describe_lost_classes(lost), *index.warnings),
    )


def classes_without_images(index: FolderIndex) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the class folders without a usable image.

    The scan's `skipped` includes all unreadable files.

    Returns:
        Folders with only unusable files, each with the most frequent reason, and the names of
        folders without files.
    """
    lost, empty = {}, []
    skipped = defaultdict(list)
    for one in index.skipped:
        skipped[one.label].append(one)
    for name in sorted(set(index.folders) - set(index.classes)):
        reason, _ = most_frequent_reason(skipped[name])
        if reason:
            lost[name] = f"{len(skipped[name]):,} skipped ({reason})"
        else:
            empty.append(name)
    return lost, tuple(empty)


def describe_lost_classes(lost: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each of the first lost classes, and one for the rest."""
    for name, reason in list(lost.items())[:NAMED]:
        yield f"class {name!r} has no readable image: {reason}"
    if len(lost) > NAMED:
        rest = list(lost)[NAMED:]
        yield f"{len(rest)} more classes have no readable image: {list_some(rest)}"


def _split(
    images: Sequence[ImageFile], digests: Mapping[str, bytes], rule: SplitRule
) -> tuple[ImageFile, ...]:
    """Split the images that may be trained on; others stay in the split of their folder."""
    may_train = [image for image in images if image.split in ("", TRAIN)]
    labels = [image.label for image in may_train]
    assigned = rule.assign(labels, [digests[image.path] for image in may_train])
    split = {image.path: name for image, name in zip(may_train, assigned, strict=True)}
    return tuple(replace(image, split=split.get(image.path, image.split)) for image in images)
