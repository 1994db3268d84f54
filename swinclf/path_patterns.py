"""Paths as they are typed: with ~, and with patterns of * ? [ ], which not every shell expands."""

from __future__ import annotations

import glob
import os
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

from swinclf.files import natural_key


def expand_home(path: str) -> str:
    """Return a path with `~` expanded, unless there is a file or folder of that name.

    The shell expands it in unquoted words only.
    """
    if not path.startswith("~") or os.path.lexists(path.replace("\\", "/").split("/")[0]):
        return path
    return os.path.expanduser(path)  # noqa: PTH111 - paths stay the strings they were given as


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern, and not the name of a file that is there."""
    return glob.has_magic(path) and not os.path.lexists(path)


def expand_pattern(pattern: str) -> list[str]:
    """Return the paths that a pattern matches, numbers in numerical order; `**` is any folders."""
    return sorted(glob.iglob(pattern, recursive=True), key=natural_key)  # noqa: PTH207


def reads_folder(pattern: str, folder: Path) -> bool:
    """Return whether a pattern matches a folder, one that it is in, or what may be in it.

    >>> reads_folder("photos/*", Path("photos/sorted"))
    True
    >>> reads_folder("photos/*.jpg", Path("photos/sorted"))
    False
    """
    parts = takewhile(lambda part: part != "**", Path(pattern).resolve().parts)
    return all(fnmatch(own, part) for own, part in zip(folder.resolve().parts, parts, strict=False))
