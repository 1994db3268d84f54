"""Recognition of splits by folder name: train/, Testing/, seg_train/, flowers-valid/, dev/."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

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
    groups: dict[tuple[str, ...], dict[str, SplitName]] = defaultdict(dict)
    for stem in {found.stem for found in spoken.values()}:
        for name, found in spoken.items():
            if found.stem in (stem, ()):
                groups[stem][name] = found
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
