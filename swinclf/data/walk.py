"""Everything below a folder that may be an image, through links too, each folder once.

A link is somebody's intention: it is followed, to files and to folders. One that leads to a folder
that holds it, or to one whose images are read anyway, is not: no image counts twice, and no walk
goes round in a circle.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from swinclf.data.images import has_image_name
from swinclf.data.sniff import Sniffer, Use, extension_of, is_junk, is_no_image_name

LINK_UP = "a link to a folder that holds it"
LINK_AGAIN = "a link to a folder that is read already"
LINK_TO_NOTHING = "a link to nothing"
NOT_REGULAR = "not a regular file"


class _Ground:
    """What folders hold, and what holds them: no link leads there a second time."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = {os.path.realpath(folder) for folder in folders}
        self._above = {str(parent) for folder in self._folders for parent in Path(folder).parents}

    def __contains__(self, path: str) -> bool:
        """Return whether a path is one of the folders, in one, or holds one."""
        holders = (path, *map(str, Path(path).parents))
        return path in self._above or any(folder in self._folders for folder in holders)


class FolderWalk:
    """Walks folders that belong together, such as the class folders of a dataset.

    Args:
        root: The folder that holds all of them, resolved.
        folders: What is going to be walked, so that no link leads there a second time.

    Attributes:
        ignored: Files that are no images, by extension.
        unusual: Images that were recognized by their content, by extension.
        linked_out: Images that links outside `root` lead to.
        sniffer: Judges files by name and content.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.ignored: Counter[str] = Counter()
        self.unusual: Counter[str] = Counter()
        self.linked_out = 0
        self.sniffer = Sniffer()
        self._root = str(root)
        self._visited: set[tuple[int, int]] = set()
        self._own = _Ground(folder for folder in folders if not is_link(folder))
        self._all = _Ground(folders)

    def walk(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield (path, reason) of all that may be an image below one of `folders`.

        A folder's own files come first, in order, then the folders in it, in order, then what links
        lead to. Folders that cannot be entered and links that are not followed are yielded too.

        Args:
            folder: It, or a link that stands for it.

        Yields:
            A path that begins with `folder`, and why it cannot be used; empty for an image.
        """
        reason = self._why_not_follow(folder, self._own) if is_link(folder) else ""
        if reason or _identity(folder) in self._visited:
            yield folder, reason or LINK_AGAIN
        else:
            yield from self.below(folder, outside=not self._is_inside(folder))

    def below(self, folder: str, *, outside: bool = False) -> Iterator[tuple[str, str]]:
        """`walk` for a folder that is walked whatever leads to it.

        Args:
            folder: The folder.
            outside: Whether it lies outside the root.
        """
        identity = _identity(folder)
        if identity in self._visited:
            return
        if identity:
            self._visited.add(identity)
        files: list[tuple[str, str]] = []
        below: list[str] = []
        links: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_junk(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    elif links_to_folder(entry):
                        links.append(entry.path)
                    elif (reason := self._reason_against(entry, outside=outside)) is not None:
                        files.append((entry.path, reason))
        except OSError as error:
            yield folder, error.strerror or str(error)
        yield from sorted(files)
        for path in sorted(below):
            yield from self.below(path, outside=outside)
        for path in sorted(links):
            if reason := self._why_not_follow(path, self._all):
                yield path, reason
            else:
                yield from self.below(path, outside=not self._is_inside(path))

    def _reason_against(self, entry: os.DirEntry[str], *, outside: bool) -> str | None:
        """Return why an image cannot be used, empty where it can; None, and count it, for none."""
        kind = what_is(entry)
        if kind:
            is_lost = has_image_name(entry.name) or (
                kind == LINK_TO_NOTHING and not is_no_image_name(entry.name)
            )
            return kind if is_lost else None
        found = self.sniffer.judge(entry.path, entry.name)
        if found.use is Use.IGNORED:
            self.ignored[extension_of(entry.name)] += 1
            return None
        if found.use is Use.IMAGE:
            if found.by_content:
                self.unusual[extension_of(entry.name)] += 1
            self.linked_out += outside or (entry.is_symlink() and not self._is_inside(entry.path))
        return found.reason

    def _why_not_follow(self, link: str, ground: _Ground) -> str:
        """Return why a link to a folder is not followed; empty where it is."""
        target = os.path.realpath(link)
        if _is_within(os.path.realpath(os.path.dirname(link)), target):  # noqa: PTH120
            return LINK_UP
        is_read = target in ground or _identity(target) in self._visited
        return LINK_AGAIN if is_read else ""

    def _is_inside(self, path: str) -> bool:
        return _is_within(os.path.realpath(path), self._root)


def walk_of(folder: str) -> FolderWalk:
    """Return a walk of one folder, for `walk_images`."""
    real = os.path.realpath(folder)
    return FolderWalk(Path(real), [real])


def walk_images(folder: str, walk: FolderWalk | None = None) -> Iterator[str]:
    """Yield the paths of every image below a folder, in order, each beginning with `folder`.

    Of what is named like an image and is none, and of a folder that may not be entered, the reader
    says what it is. Hidden files are passed over, and so are links to what is read anyway.

    Args:
        folder: The folder, as it was given.
        walk: Counts what is passed over; None where nobody asks.
    """
    walk = walk or walk_of(folder)
    for path, reason in walk.below(folder):
        if reason not in (LINK_UP, LINK_AGAIN):
            yield path


def is_link(path: str) -> bool:
    """Return whether a path is a symbolic link."""
    return os.path.islink(path)  # noqa: PTH114 - a string in, and it never raises


def links_to_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether a link leads to a folder; one that leads in a circle leads to nothing."""
    # `entry.is_dir()` raises where a link leads in a circle.
    return entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112


def what_is(entry: os.DirEntry[str]) -> str:
    """Return why an entry cannot be opened as a file; empty where it can."""
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


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
