"""Names of classes that people take for one: equal but for case, outer spaces or Unicode form.

A name may be written in several Unicode forms that look the same: "ü" as one character (NFC, as
most systems write it) or as a "u" with two dots (NFD, as some file systems and archives have it).
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of names that differ in case, outer spaces or Unicode form alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_loose_key(name)].append(name)
    return [tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1]


def quoted(name: str, others: Iterable[str] = ()) -> str:
    """Return a name in quotes, with its Unicode form where another name differs in that alone.

    >>> quoted("Bu\u0308ffel", ["B\u00fcffel"]).endswith("(NFD)"), quoted("rose", ["Rose"])
    (True, "'rose'")
    """
    same = [other for other in others if other != name and _nfc(other) == _nfc(name)]
    return f"{name!r} ({_form(name)})" if same else repr(name)


def quoted_together(names: Collection[str]) -> str:
    """Return names in quotes, each with its Unicode form where it differs in that alone."""
    return ", ".join(quoted(name, names) for name in names)


def renamed_to_match(labels: Iterable[str], classes: Collection[str]) -> Mapping[str, str]:
    """Return the class that each label is, where they differ in Unicode form alone.

    Only what is unique is matched: no label becomes a class that another label is already.

    Args:
        labels: Names of folders.
        classes: Names of the known classes.
    """
    labels = set(labels)
    unknown, free = labels - set(classes), set(classes) - labels
    by_key: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for names, side in ((unknown, 0), (free, 1)):
        for name in names:
            by_key[_nfc(name)][side].append(name)
    taken = {_nfc(label) for label in labels & set(classes)}
    return {
        found[0][0]: found[1][0]
        for key, found in by_key.items()
        if len(found[0]) == len(found[1]) == 1 and key not in taken
    }


def nearly(name: str, others: Iterable[str]) -> str:
    """Return the other name that differs in case, outer spaces or form alone; empty for none."""
    return next((other for other in others if _loose_key(other) == _loose_key(name)), "")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _loose_key(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())


def _form(name: str) -> str:
    return next(
        (form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "mixed form"
    )
