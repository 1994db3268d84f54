"""A lock that reserves a folder for one process; the system releases it if the process dies.

The lock file is in the folder's parent: Windows refuses to rename a folder with an open file in it.
It also refuses to let others read a locked file, so a second file names the owner. Both are removed
when the lock is released. On a file system without locks, other processes are not excluded.
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


class LockHeldError(Exception):
    """A lock that another process holds; the text names the process."""


class FolderLock:
    """A folder reserved for this process, until `release` or its end.

    The folder need not exist yet, but its parent must. It may be created, renamed or removed while
    the lock is held. Links are resolved.

    The attribute `path` is the lock file, which is in the folder itself if the parent is not
    writable. `is_certain` is whether others are excluded; False on a file system without locks.

    Raises:
        LockHeldError: If another process, or another training in this one, holds it.
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
        with suppress(OSError):  # only used in the error message of other processes
            _owner_file(self.path).write_text(f"{describe_process()}\n", encoding="utf-8")

    def release(self) -> None:
        """Release the folder and remove the lock's files."""
        for path in (_owner_file(self.path), self.path):
            with suppress(OSError):  # Windows removes an open file once it is closed
                path.unlink()
        if self._lock is not None:
            self._lock.release()


def remove_stale_locks(folder: Path) -> None:
    """Remove the lock files of dead processes from a folder."""
    for path in folder.glob(f".*{OWNER_SUFFIX}"):
        locked = path.with_name(path.name.removeprefix(".").removesuffix(OWNER_SUFFIX))
        with suppress(LockHeldError, OSError):
            FolderLock(locked).release()


def lock_owner(folder: Path) -> str:
    """Return which process has reserved a folder; empty if none has.

    Without lock files nothing is created, so that a folder may be listed without writing to it.
    """
    folder = folder.resolve()
    outside = folder.with_name(f".{folder.name}{LOCK_SUFFIX}")
    if outside.exists() or (folder / LOCK_SUFFIX).exists():
        try:
            FolderLock(folder).release()
        except LockHeldError as held:
            return str(held)
        except OSError:
            return ""
    return ""


def describe_process() -> str:
    """Return a description of this process for the lock messages of others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _acquire(path: Path) -> BaseFileLock | None:
    """Lock a file, created if missing; return None on a file system without locks."""
    from filelock import FileLock, Timeout  # slow to import, and `--help` needs no lock

    for _ in range(_TRIES):
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if path.exists():
                raise LockHeldError(_owner_of(path)) from error
            continue  # its owner has just removed it
        except NotImplementedError:
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        return lock
    raise LockHeldError("another process")


def _owner_file(path: Path) -> Path:
    return path.with_suffix(OWNER_SUFFIX) if path.suffix else path.with_name(OWNER_SUFFIX)


def _owner_of(path: Path) -> str:
    try:
        return _owner_file(path).read_text(encoding="utf-8", errors="replace")[:500].strip()
    except OSError:
        return "another process"
