"""runs/latest: a symbolic link to the newest finished run.

On Windows it is a small file with the run's name: links need a privilege there, and one to a folder
cannot be replaced. Knows nothing about the contents of a run.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from swinclf.files import TEMPORARY, replace_path

LATEST = "latest"
_IS_WINDOWS = os.name == "nt"


def mark_latest(run: Path) -> None:
    """Point `latest` at a run folder; if it cannot be written, runs are found by date."""
    link = run.parent / LATEST
    temporary = run.parent / f".{LATEST}.{os.getpid()}{TEMPORARY}"
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        try:
            _write_link(temporary, run.name)
            if _IS_WINDOWS and link.is_symlink():  # of an earlier version
                link.unlink()
            replace_path(temporary, link)
        finally:
            temporary.unlink(missing_ok=True)


def _write_link(link: Path, name: str) -> None:
    if not _IS_WINDOWS:
        with suppress(OSError):  # a file system without links
            link.symlink_to(name, target_is_directory=True)
            return
    link.write_text(name, encoding="utf-8")


def follow_latest(where: Path) -> Path:
    """Return a path with `latest`, if it is a file, replaced by the run that it names.

    The path is such as runs/latest or runs/latest/model.safetensors.
    """
    for link in (where, where.parent):
        if link.name == LATEST and link.is_file():
            with suppress(OSError, ValueError):
                run = link.with_name(link.read_text(encoding="utf-8").strip())
                if run.is_dir():
                    return run / where.relative_to(link)
    return where
