"""One process a folder: a lock that the system itself takes off a dead owner.

The lock file is in the folder's parent: Windows refuses to rename a folder with an open file in it.
It also refuses to let others read a locked file, so that a second file names the owner. Both are
removed when the lock is released. Where the disk has no locks, nobody is kept out.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_SUFFIX, OWNER_SUFFIX = ".lock", ".owner"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_TRIES = 3


class Held(Exception):
    """Another process holds the folder; the text names it."""


class FolderLock:
    """A folder reserved for this process, until `release` or its end.

    Args:
        folder: The folder; need not exist yet, but its parent must. It may be made, renamed or
            removed while the lock is held. Of a link, the folder that it leads to is locked.

    Attributes:
        path: The lock file. It is in the folder itself where the parent is not writable.
        is_certain: Whether others are kept out; False where there are no locks.

    Raises:
        Held: If another process, or another training in this one, holds it.
        OSError: If the lock file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        self.path = folder.with_name(f".{folder.name}{LOCK_SUFFIX}")
        try:
            self._lock = _acquire(self.path)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or not folder.is_dir():
                raise
            self.path = folder / LOCK_SUFFIX
            self._lock = _acquire(self.path)
        self.is_certain = self._lock is not None
        with suppress(OSError):  # it only serves the others' error message
            _owner_file(self.path).write_text(f"{whoami()}\n", encoding="utf-8")

    def release(self) -> None:
        """Release the folder and remove the lock's files."""
        for path in (_owner_file(self.path), self.path):
            with suppress(OSError):  # Windows removes an open file only after it has been closed
                path.unlink()
        if self._lock is not None:
            self._lock.release()


def sweep_locks(folder: Path) -> None:
    """Remove the lock files of dead processes from a folder."""
    for path in folder.glob(f".*{OWNER_SUFFIX}"):
        locked = path.with_name(path.name.removeprefix(".").removesuffix(OWNER_SUFFIX))
        with suppress(Held, OSError):
            FolderLock(locked).release()


def whoami() -> str:
    """Return the description of this process that others read when they find the lock taken."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _acquire(path: Path) -> BaseFileLock | None:
    """Return the lock on a file, which is made if need be; None where the disk has no locks."""
    from filelock import FileLock, Timeout  # takes long to load, and `--help` needs no lock

    for _ in range(_TRIES):
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if path.exists():
                raise Held(_owner_of(path)) from error
            continue  # its owner has just removed it
        except NotImplementedError:
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        return lock
    raise Held("another process")


def _owner_file(path: Path) -> Path:
    """Return the file that names the owner of a lock file."""
    return path.with_suffix(OWNER_SUFFIX) if path.suffix else path.with_name(OWNER_SUFFIX)


def _owner_of(path: Path) -> str:
    """Return who holds a lock file, in words."""
    try:
        return _owner_file(path).read_text(encoding="utf-8", errors="replace")[:500].strip()
    except OSError:
        return "another process"
