"""Similar class names: those that differ only in case, outer spaces or Unicode normal form.

"ü" may be one character (NFC, as most systems write it) or "u" and a combining mark (NFD, as some
file systems and archives have it), and is displayed in the same way.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

LISTED = 5  # names in a message


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of names that differ only in case, outer spaces or Unicode form."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_loose_key(name)].append(name)
    return [tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1]


def quote_name(name: str, others: Iterable[str] = ()) -> str:
    """Return a name in quotes, with its Unicode form if another name differs only in that.

    >>> quote_name("Bu\u0308ffel", ["B\u00fcffel"]).endswith("(NFD)"), quote_name("rose", ["Rose"])
    (True, "'rose'")
    """
    same = [other for other in others if other != name and _nfc(other) == _nfc(name)]
    return f"{name!r} ({_form(name)})" if same else repr(name)


def quote_names(names: Collection[str]) -> str:
    """Return names in quotes, each with its Unicode form where it differs only in that."""
    return ", ".join(quote_name(name, names) for name in names)


def list_some(names: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return a few names, quoted as by `quote_name`, and the number of the others."""
    listed, others = list(names), list(others)
    shown = ", ".join(quote_name(name, others) for name in listed[:LISTED])
    return shown + (f" and {len(listed) - LISTED} more" if len(listed) > LISTED else "")


def match_unicode_forms(labels: Iterable[str], classes: Collection[str]) -> Mapping[str, str]:
    """Map names of folders to the classes from which they differ only in Unicode form.

    Only unique matches are returned: no label becomes a class that another label already has.
    """
    labels, classes = set(labels), set(classes)
    forms: dict[str, set[str]] = defaultdict(set)
    for name in labels | classes:
        forms[_nfc(name)].add(name)
    pairs = [names for names in forms.values() if len(names) == 2]
    return {label: name for pair in pairs for label in pair - classes for name in pair - labels}


def find_similar_names(names: Iterable[str], others: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Map each name to those of `others` that differ only in case, outer spaces or form.

    >>> find_similar_names(["Rose", "tulip"], ["rose", "ROSE"])
    {'Rose': ['rose', 'ROSE'], 'tulip': []}
    """
    by_key: dict[str, list[str]] = defaultdict(list)
    for other in others:
        by_key[_loose_key(other)].append(other)
    return {name: by_key.get(_loose_key(name), []) for name in names}


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _loose_key(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())


def _form(name: str) -> str:
    return next(
        (form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "mixed form"
    )
