"""Content digests of many files; hard links to one file are read once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from swinclf.data.cifar import read_packed
from swinclf.data.images import UnreadableImage, content_digest, read_bytes


def digest_files(root: Path, paths: Iterable[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the content digests of files, and why files cannot be read, both by path.

    Nothing is decoded: a file with a digest need not be an image.

    Args:
        root: Folder that the paths are relative to.
        paths: The files.
    """
    digests: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    shared: dict[tuple[int, int, int, int], bytes] = {}
    for path in paths:
        file = root / path
        try:
            status = file.stat()
            key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            digest = shared.get(key) or content_digest(read_bytes(file))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            if (packed := read_packed(file)) is not None:
                digests[path] = content_digest(packed)
                continue
            errors[path] = getattr(error, "strerror", None) or str(error)
        except UnreadableImage as error:
            errors[path] = str(error)
        else:
            digests[path] = digest
            if status.st_nlink > 1:
                shared[key] = digest
    return digests, errors
