"""Recursive walk over the possible images of a folder, through links, each folder once.

Links to files and folders are followed, except to a folder that contains the link, or to one that
is read anyway: no folder is read twice, and the walk terminates. A linked file is a file of the
folder that holds the link.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swinclf.data.image_detector import ImageDetector, is_junk, is_no_image_name
from swinclf.data.images import has_image_name
from swinclf.data.scanned_files import format_count

LINK_UP = "a link to a folder that holds it"
LINK_AGAIN = "a link to a folder that is read already"
LINK_TO_NOTHING = "a link to nothing"
NOT_REGULAR = "not a regular file"


class _FolderSet:
    """Folders with their contents and parents, to which no link may lead again."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = {os.path.realpath(folder) for folder in folders}
        self._above = {str(parent) for folder in self._folders for parent in Path(folder).parents}

    def __contains__(self, path: str) -> bool:
        """Return whether a path is one of the folders, inside one, or a parent of one."""
        holders = (path, *map(str, Path(path).parents))
        return path in self._above or any(folder in self._folders for folder in holders)


class FolderWalk:
    """Walk over related folders, such as the class folders of a dataset.

    Args:
        root: The folder that holds all of them, resolved.
        folders: The folders to be walked, which links do not lead to again.
        order: Sort key of the paths in a folder.
    """

    def __init__(
        self, root: Path, folders: Sequence[str], *, order: Callable[[str], Any] = str
    ) -> None:
        self._order = order
        self.linked_out = 0  # images outside the root that links lead to
        self.detector = ImageDetector()
        self._root = str(root)
        self._visited: set[tuple[int, int]] = set()
        self._own = _FolderSet(folder for folder in folders if not Path(folder).is_symlink())
        self._all = _FolderSet(folders)

    def walk(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield (path, reason) of every possible image below a folder; no reason for an image.

        A folder's own files come first, sorted, then its subfolders, sorted, then the targets of
        links. Unreadable folders and links that are not followed are yielded too. Every path starts
        with `folder`.
        """
        reason = self._why_not_follow(folder, self._own) if Path(folder).is_symlink() else ""
        if reason or _identity(folder) in self._visited:
            yield folder, reason or LINK_AGAIN
        else:
            yield from self.below(folder, outside=not self._is_inside(folder))

    def below(self, folder: str, *, outside: bool = False) -> Iterator[tuple[str, str]]:
        """Walk a folder, inside or outside the root, without checking links to it; as `walk`."""
        waiting = [(folder, outside, False)]  # the next one last; a stack, as folders may be deep
        while waiting:
            path, outside, is_link = waiting.pop()
            if is_link:
                if reason := self._why_not_follow(path, self._all):
                    yield path, reason
                    continue
                outside = not self._is_inside(path)
            identity = _identity(path)
            if identity in self._visited:
                continue
            if identity:
                self._visited.add(identity)
            folders, links = yield from self._files_in(path, outside=outside)
            waiting += [(one, outside, True) for one in sorted(links, key=self._order)[::-1]]
            waiting += [(one, outside, False) for one in sorted(folders, key=self._order)[::-1]]

    def _files_in(
        self, folder: str, *, outside: bool
    ) -> Generator[tuple[str, str], None, tuple[list[str], list[str]]]:
        """Yield the files of a folder; return its subfolders, and its links to folders."""
        files: list[tuple[str, str]] = []
        folders: list[str] = []
        links: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_junk(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112 - never raises
                        links.append(entry.path)
                    elif (reason := self._reason_against(entry, outside=outside)) is not None:
                        files.append((entry.path, reason))
        except OSError as error:
            yield folder, error.strerror or str(error)
        yield from sorted(files, key=lambda one: self._order(one[0]))
        return folders, links

    def notes(self) -> Iterator[str]:
        """Yield remarks on the images found so far, a sentence each."""
        if self.linked_out:
            yield f"{format_count(self.linked_out, 'image')} by links to outside the dataset"
        yield from self.detector.notes()

    def _reason_against(self, entry: os.DirEntry[str], *, outside: bool) -> str | None:
        """Return why an image cannot be used, empty if it can; None, and count it, for no image."""
        kind = why_not_a_file(entry)
        if kind:
            is_lost = has_image_name(entry.name) or (
                kind == LINK_TO_NOTHING and not is_no_image_name(entry.name)
            )
            return kind if is_lost else None
        reason = self.detector.classify(entry.path, entry.name)
        if reason == "":
            self.linked_out += outside or (entry.is_symlink() and not self._is_inside(entry.path))
        return reason

    def _why_not_follow(self, link: str, ground: _FolderSet) -> str:
        """Return why a link to a folder is not followed; empty if it is."""
        target = os.path.realpath(link)
        if is_within(os.path.realpath(os.path.dirname(link)), target):  # noqa: PTH120
            return LINK_UP
        is_read = target in ground or _identity(target) in self._visited
        return LINK_AGAIN if is_read else ""

    def _is_inside(self, path: str) -> bool:
        return is_within(os.path.realpath(path), self._root)


def walk_images(
    folder: str,
    *,
    order: Callable[[str], Any] = str,
    ignored: Counter[str] | None = None,
) -> Iterator[str]:
    """Yield the paths of all images below a folder, sorted, each starting with `folder`.

    Unreadable files and folders are yielded as well, to be reported when they are read. Hidden
    files and links to folders that are read anyway are ignored. `order` is as of `FolderWalk`;
    `ignored` gets the number of files that are no images, by extension.
    """
    real = os.path.realpath(folder)
    walk = FolderWalk(Path(real), [real], order=order)
    for path, reason in walk.below(folder):
        if reason not in (LINK_UP, LINK_AGAIN):
            yield path
    if ignored is not None:
        ignored.update(walk.detector.ignored)


def why_not_a_file(entry: os.DirEntry[str]) -> str:
    """Return why an entry cannot be opened as a file; empty if it can."""
    if entry.is_file(follow_symlinks=False):
        return ""
    if not entry.is_symlink():
        return NOT_REGULAR
    if os.path.isfile(entry.path):  # noqa: PTH113 - never raises
        return ""
    return NOT_REGULAR if os.path.exists(entry.path) else LINK_TO_NOTHING  # noqa: PTH110


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)  # noqa: PTH116 - a string in
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def relative_path(path: str, root: Path) -> str:
    """Return a path relative to a folder, with "/" between folders; whole on another drive."""
    with suppress(ValueError):  # on Windows, of the other drive
        path = os.path.relpath(path, root)
    return path.replace(os.sep, "/")


def is_within(path: str, folder: str) -> bool:
    """Return whether a resolved path is a folder or inside it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
