"""One process a folder: a lock that the system itself takes off a dead owner.

The lock is on a small file in the folder, which names the owner and is removed when it lets go.
Where the system or the disk has no such locks, nobody is kept out.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


class Held(Exception):
    """Another process holds the folder; the text names it."""


class FolderLock:
    """A folder held by this process, until `release` or its end.

    Args:
        folder: Must be there; may be renamed meanwhile, see `folder`.

    Attributes:
        folder: Where the folder lies now.
        is_certain: Whether others are kept out; False where there are no locks.

    Raises:
        Held: If another process, or another training in this one, holds it.
        OSError: If nothing can be written into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_certain = folder, False
        while True:
            path = folder / LOCK_NAME
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock()
                if self._is_still(path):
                    break
            except BaseException:
                os.close(self._handle)
                raise
            os.close(self._handle)  # its owner removed it while we took it: once more
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"{whoami()}\n".encode())

    def release(self) -> None:
        """Lets the folder go."""
        with suppress(OSError):  # the folder itself may be gone
            if self._is_still(self.folder / LOCK_NAME):
                (self.folder / LOCK_NAME).unlink()
        with suppress(OSError):
            os.close(self._handle)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_certain = True
        except BlockingIOError as error:
            owner = os.pread(self._handle, 500, 0).decode("utf-8", "replace").strip()
            raise Held(owner or "another process") from error
        except OSError:  # a disk without locks
            return

    def _is_still(self, path: Path) -> bool:
        """Whether the file that is locked is the one that lies there."""
        try:
            return os.path.samestat(os.fstat(self._handle), path.stat())
        except FileNotFoundError:
            return False


def whoami() -> str:
    """This process, as another is told of it."""
    return f"process {os.getpid()} on {socket.gethostname()}"
