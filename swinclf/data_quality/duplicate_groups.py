"""What belongs together: files of equal bytes, and whatever hangs together by pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence


def same_bytes(digests: Sequence[bytes]) -> list[list[int]]:
    """Rows of files with equal content, each group in order; unreadable files are in none."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows[digest].append(row)
    return [group for group in rows.values() if len(group) > 1]


def groups_of(links: Iterable[Sequence[int]]) -> list[list[int]]:
    """Rows that hang together by links of two or more, each group and the list in order."""
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
