"""What is in many files: a digest of each, where every file on the disk is read once.

A dataset may hold the same file under many names (hard links): what the names share is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from swinclf.data.images import UnreadableImage, content_digest, read_bytes


def digest_files(root: Path, paths: Iterable[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Digests of files' contents.

    Args:
        root: What the paths are relative to.
        paths: The files.

    Returns:
        The digest of each file that can be read, by path, and why one cannot, by path. Nothing is
        decoded: a file with a digest may still be no picture.
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
            errors[path] = getattr(error, "strerror", None) or str(error)
        except UnreadableImage as error:
            errors[path] = str(error)
        else:
            digests[path] = digest
            if status.st_nlink > 1:
                shared[key] = digest
    return digests, errors
