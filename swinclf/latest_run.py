"""runs/latest: what stands for the newest finished run, a link wherever there are links.

On Windows links are a privilege; there it is a small file that holds the run's name. Knows nothing
of what is in a run.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from swinclf.files import TEMPORARY, replace_path

LATEST = "latest"
_LEFT_BEHIND_S = 60.0  # no process takes a minute for a link


def mark_latest(run: Path) -> None:
    """Point `latest` at a run folder; where it cannot be written, runs are found by date."""
    link = run.parent / LATEST
    temporary = run.parent / f".{LATEST}.{os.getpid()}{TEMPORARY}"
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(run.name, target_is_directory=True)
        except (OSError, NotImplementedError, AttributeError):
            temporary.write_text(run.name, encoding="utf-8")
        replace_path(temporary, link)


def follow_latest(where: Path) -> Path:
    """Return a path, with its part `latest`, where that is a file, replaced by the run it names.

    Args:
        where: A path that somebody gave, such as runs/latest or runs/latest/model.safetensors.
    """
    for link in (where, where.parent):
        if link.name == LATEST and link.is_file():
            with suppress(OSError, ValueError):
                run = link.with_name(link.read_text(encoding="utf-8").strip())
                if run.is_dir():
                    return run / where.relative_to(link)
    return where


def sweep_latest(out: Path) -> None:
    """Remove the links that killed processes were making."""
    for link in out.glob(f".{LATEST}.*{TEMPORARY}"):
        with suppress(OSError):
            if time.time() - link.lstat().st_mtime > _LEFT_BEHIND_S:
                link.unlink()
