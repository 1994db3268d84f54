"""Splits by folder name: train/, Testing/, seg_train/, flowers-valid/, dev/.

Also checks of the folders inside class folders: whether the "classes" are splits, or hold splits.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from swinclf.data.class_names import list_some
from swinclf.data.scanned_files import ImageFile
from swinclf.errors import DataError
from swinclf.shell_quoting import quoted

TRAIN, VAL, TEST = "train", "val", "test"
CROSS_VALIDATION = "cross-validation"  # all images, each scored by a head fitted without it
PLAIN_NAMES = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
_WORDS = {
    **PLAIN_NAMES,
    **dict.fromkeys(("training", "trn", "trainval"), TRAIN),
    **dict.fromkeys(("validate", "validating", "dev", "devel", "development"), VAL),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "holdout"), VAL),
    **dict.fromkeys(("testing", "tests", "tst"), TEST),
}
# If another folder is the validation split, these are the test split.
_AMBIGUOUS_VAL = ("dev", "devel", "development", "eval", "evaluation", "evaluate", "holdout")
# fmt: off
_FILLERS = frozenset((
    "set", "sets", "data", "dataset", "datasets", "split", "splits", "folder", "dir", "files",
    "images", "image", "imgs", "img", "pictures", "pics", "photos", "photo", "samples",
    "jpg", "jpeg", "png", "x", "the", "of", "for",
))
_PARTS = frozenset((
    "fold", "split", "part", "partition", "subset", "set", "batch", "chunk", "shard", "cv", "phase",
))
# fmt: on
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")
_HELD_OUT = re.compile(r"(hold|held)[\W_]*out", re.IGNORECASE)


class SplitName(NamedTuple):
    """A parsed folder name."""

    split: str
    # the other words, such as ("flowers",) of flowers_train, without numbers and words such as data
    # or set
    stem: tuple[str, ...]
    word: str  # the word for the split


def split_name(name: str) -> SplitName | None:
    """Return the split that a folder's name denotes; None for none, or for several.

    >>> split_name("seg_train"), split_name("Test Data").split, split_name("XVal").split
    (SplitName(split='train', stem=('seg',), word='train'), 'test', 'val')
    >>> split_name("train_test"), split_name("constraint")
    (None, None)
    """
    words, stem = [], []
    for token in _tokens(name):
        if word := _split_word(token):
            words.append(word)
        elif token not in _FILLERS and not token.isdigit():
            stem.append(token)
    if len({_WORDS[word] for word in words}) != 1:
        return None
    return SplitName(_WORDS[words[0]], tuple(stem), words[0])


def is_generic_name(name: str) -> bool:
    """Return whether a folder's name is generic, such as images or data."""
    tokens = list(_tokens(name))
    return bool(tokens) and all(token in _FILLERS for token in tokens)


def is_part_name(name: str) -> bool:
    """Return whether a name denotes an unspecified part of a dataset: fold1, split_b, data2."""
    first, *rest = list(_tokens(name)) or [""]
    words = _PARTS | _FILLERS
    is_part = all(len(token) == 1 or token.isdigit() or token in words for token in rest)
    return len(first) > 1 and first in words and is_part


def recognize_splits(names: Iterable[str]) -> Mapping[str, str]:
    """Return the split of each folder, among siblings, that belongs to a set of splits.

    Such a set has a train folder, another split, and the same stem: seg_train and seg_test, but not
    train_station and test_tube. Two folders of one split are both returned, except for ambiguous
    names: next to val/, eval/ is the test split.
    """
    spoken = {name: found for name in names if (found := split_name(name))}
    groups = {
        stem: {name: found for name, found in spoken.items() if found.stem in (stem, ())}
        for stem in sorted({found.stem for found in spoken.values()})
    }
    together = [
        group for group in groups.values() if {one.split for one in group.values()} > {TRAIN}
    ]
    if not together:
        return {}
    plain = groups.get((), {})
    return _settle_val(plain if plain in together else max(together, key=len))


def stems_with_splits(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the stems that have both a train folder and another split."""
    splits: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in names:
        if found := split_name(name):
            splits[found.stem].add(found.split)
    return sorted(stem for stem, found in splits.items() if stem and found > {TRAIN})


def _settle_val(group: Mapping[str, SplitName]) -> dict[str, str]:
    splits = {name: one.split for name, one in group.items()}
    count = Counter(splits.values())
    unsure = sorted(
        (name for name, one in group.items() if one.word in _AMBIGUOUS_VAL),
        key=lambda name: _AMBIGUOUS_VAL.index(group[name].word),
    )
    if count[VAL] == 2 and not count[TEST] and unsure:
        splits[unsure[-1]] = TEST
    return splits


def _tokens(name: str) -> Iterable[str]:
    plain = _HELD_OUT.sub(" holdout ", unicodedata.normalize("NFKC", name))
    return (token.lower() for token in _TOKEN.findall(plain))


def _split_word(token: str) -> str:
    """Return the split word in a token: itself, or joined with a filler; empty for none."""
    if token in _WORDS:
        return token
    for word in _WORDS:
        if token.startswith(word) and token[len(word) :] in _FILLERS - {"x"}:
            return word
        if token.endswith(word) and token[: -len(word)] in ("x", "y"):
            return word
    return ""


ALIKE = 0.5  # Jaccard index from which two sets of folders count as nearly the same


def splits_in_classes(inner: Mapping[str, Set[str]]) -> Mapping[str, str]:
    """Return the split of each folder inside class folders, if all of them are splits.

    `inner` has the folders in each class folder, from `folders_in_classes`; images next to them do
    not count.
    """
    names = {name for folders in inner.values() for name in folders} - {""}
    found = {name: one.split for name in names if (one := split_name(name)) and not one.stem}
    is_layout = len(inner) > 1 and found.keys() == names
    return found if is_layout and set(found.values()) > {TRAIN} else {}


def folders_in_classes(images: Sequence[ImageFile]) -> dict[str, set[str]]:
    """Return the folders directly in each class folder, and "" if it holds images as well."""
    inner: dict[str, set[str]] = defaultdict(set)
    for image in images:
        inner[image.label].add(folder_in_class(image))
    return dict(inner)


def folder_in_class(image: ImageFile) -> str:
    """Return the folder directly in its class folder that holds an image; empty for none."""
    parts = image.path.split("/", 2)
    return parts[1] if len(parts) == 3 else ""


def check_structure(root: Path, inner: Mapping[str, Set[str]]) -> str:
    """Refuse classes that are splits or copies of the dataset; return a warning, or "".

    Raises:
        DataError: If a class folder holds the class folders next to it, or if all of them hold
            nearly the same folders and have the names of parts of a dataset.
    """
    _check_no_copy_inside(root, inner)
    union = set().union(*inner.values())
    if len(inner) < 2 or len(union) < 2 or "" in union:
        return ""
    if any(len(folders) < 2 or len(folders) < ALIKE * len(union) for folders in inner.values()):
        return ""
    names = sorted(inner)
    first, second = _train_first(names)[:2]
    command = f"swinclf train {quoted(root / first)} --val {quoted(root / second)}"
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


def _check_no_copy_inside(root: Path, inner: Mapping[str, Set[str]]) -> None:
    """Refuse a class folder that holds its siblings again: a copy of the dataset."""
    for name, held in inner.items():
        folders, siblings = held - {""}, inner.keys() - {name}
        common = len(folders & siblings)
        is_wrapping = is_generic_name(name) or name.casefold() == root.name.casefold()
        is_alike = common >= ALIKE * len(folders | siblings)
        if common > 1 and (siblings <= folders or (is_wrapping and is_alike)):
            raise DataError(
                f"class folders in '{root}'",
                found=f"'{name}', which holds the folders next to it again "
                f"({list_some(sorted(folders & siblings))})",
                hint=f"move '{root / name}' out of '{root}' if it is a copy, or use it alone: "
                f"swinclf train {quoted(root / name)}",
            )


def _train_first(names: Sequence[str]) -> list[str]:
    splits = {name: one.split if (one := split_name(name)) else "" for name in names}
    return sorted(names, key=lambda name: (splits[name] != TRAIN, name))
