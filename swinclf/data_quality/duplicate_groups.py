"""Groups of duplicates: files with equal bytes, and connected components of pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence


def group_identical(digests: Sequence[bytes]) -> list[list[int]]:
    """Return groups of rows with equal digests, each ascending; empty digests are left out."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows[digest].append(row)
    return [group for group in rows.values() if len(group) > 1]


def connected_components(links: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the connected components of links of two or more rows, all in ascending order."""
    parent: dict[int, int] = {}

    def root_of(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for first, *others in links:
        for other in others:
            parent[root_of(other)] = root_of(first)
    groups: dict[int, list[int]] = defaultdict(list)
    for row in sorted(parent):
        groups[root_of(row)].append(row)
    return sorted(groups.values())
