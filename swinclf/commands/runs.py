"""runs: list the runs in a folder, finished or not, and remove one.

Reads the small files of a run only; no network and no image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from swinclf.errors import RunError
from swinclf.files import (
    cannot_write,
    folder_bytes,
    natural_key,
    read_csv,
    read_json,
    replace_path,
)
from swinclf.latest_run import LATEST, follow_latest, mark_latest
from swinclf.lock import FolderLock, LockHeldError, lock_owner
from swinclf.path_patterns import expand_home
from swinclf.run_folder import DRAFT, RunFolder

MAX_DEPTH = 3  # folders of folders of runs


class RunState(StrEnum):
    """How far a training came."""

    FINISHED = "finished"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    DAMAGED = "damaged"


class RunSort(StrEnum):
    """Order of a list of runs: newest, most accurate, longest or largest first, else by name."""

    DATE = "date"
    NAME = "name"
    DATA = "data"
    MODEL = "model"
    ACCURACY = "accuracy"
    TIME = "time"
    SIZE = "size"


@dataclass(frozen=True)
class RunSummary:
    """One run in a list. Values that it does not have are None or empty."""

    name: str  # its path below the folder that was listed
    path: Path
    state: RunState  # how far the training came
    reason: str = ""  # why it is damaged, or which process trains it
    data: str = ""  # the dataset's folder
    model: str = ""  # the network's name
    accuracy: float | None = None  # of the split that was scored, in [0, 1]
    accuracy_ci95: tuple[float, float] | None = None  # its 95 % interval
    majority_accuracy: float | None = None  # of always answering the largest class
    probe_accuracy: float | None = None  # of a linear probe, on the validation images
    split: str = ""  # that split
    images: int | None = None  # number of its images
    changed: float = 0.0  # when the run finished, or was last written to; seconds since 1970
    seconds: float | None = None  # time of all epochs
    size_bytes: int = 0  # of all its files

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        changed = None
        with suppress(ValueError, OverflowError, OSError):  # before the year 1 or after 9999
            changed = datetime.fromtimestamp(self.changed, UTC).isoformat(timespec="seconds")
        texts = ("reason", "data", "model", "split")
        return {
            **asdict(self),
            **{name: getattr(self, name) or None for name in texts},
            "path": str(self.path),
            "changed": changed,
        }


def list_runs(out: Path = Path("runs"), *, sort: RunSort = RunSort.DATE) -> list[RunSummary]:
    """Return every run in a folder and the folders in it, except `latest` and hidden folders.

    Runs without the value that they are sorted by come last.

    Raises:
        RunError: If there is no such folder.
    """
    if not out.is_dir():
        raise RunError(
            f"a folder of runs at '{out}'",
            found="a file" if out.exists() else f"no such folder here ({Path.cwd()})",
            hint="swinclf train DATA, or swinclf runs FOLDER",
        )
    found = [_summarize(folder, out) for folder in _run_folders(out, MAX_DEPTH)]
    found.sort(key=lambda run: natural_key(run.name))
    if sort in (RunSort.DATA, RunSort.MODEL):
        return sorted(found, key=lambda run: natural_key(Path(getattr(run, sort) or "\uffff").name))
    column = {
        RunSort.DATE: "changed",
        RunSort.ACCURACY: "accuracy",
        RunSort.TIME: "seconds",
        RunSort.SIZE: "size_bytes",
    }.get(sort)
    if column is not None:
        found.sort(key=lambda run: -(getattr(run, column) or 0.0))
    return found


def remove_run(folder: Path) -> None:
    """Delete a run, as checked by `removable_run`; point `latest` at the newest of those left.

    Raises:
        RunError: If it is not a run, is being trained, or cannot be deleted.
    """
    run = removable_run(folder)
    out = run.path.parent
    was_latest = follow_latest(out / LATEST).resolve() == run.path.resolve()
    try:
        lock = FolderLock(run.path)
    except LockHeldError as held:
        raise _busy(run.path, str(held)) from held
    except OSError as error:
        raise cannot_write(run.path, error) from error
    try:
        # Under a hidden name a half-deleted run is no run, and the next training removes its rest.
        hidden = run.path.with_name(DRAFT.format(run.path.name))
        shutil.rmtree(hidden, ignore_errors=True)
        replace_path(run.path, hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise cannot_write(run.path, error) from error
    finally:
        lock.release()
    if was_latest:
        (out / LATEST).unlink(missing_ok=True)
        left = [one for one in list_runs(out) if one.state is RunState.FINISHED]
        if direct := [one.path for one in left if one.path.parent == out]:
            mark_latest(direct[0])


def removable_run(folder: Path) -> RunFolder:
    """Return a folder that may be deleted as a run.

    Raises:
        RunError: If it is missing, a link, not a run, or being trained.
    """
    run = RunFolder(Path(expand_home(str(folder))))
    found = ""
    if run.path.is_symlink() or run.path.name == LATEST:
        found = f"a link to '{follow_latest(run.path).resolve().name}'"
    elif not run.path.is_dir():
        found = "a file" if run.path.exists() else "no such folder"
    elif not run.is_run:
        found = "a folder without config.json and split.csv"
    if found:
        raise RunError(
            f"a run to remove at '{folder}'", found=found, hint="swinclf runs lists their names"
        )
    if owner := lock_owner(run.path):
        raise _busy(run.path, owner)
    return run


def _busy(folder: Path, owner: str) -> RunError:
    return RunError(
        f"no process to be training '{folder}'",
        found=f"{owner} is training it",
        hint="wait for it, or stop it with Ctrl-C",
    )


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the runs in a folder; a subfolder without any is yielded itself."""
    if (folder / "config.json").is_file():
        yield folder
        return
    with os.scandir(folder) as entries:
        inside = [one for one in entries if one.name != LATEST and not one.name.startswith(".")]
    for entry in inside:
        if not entry.is_dir():
            continue
        path, below = folder / entry.name, []
        if depth > 1 and not entry.is_symlink():
            with suppress(OSError):
                below = list(_run_folders(path, depth - 1))
        if any((one / "config.json").is_file() for one in below):
            yield from below
        else:
            yield path


def _summarize(folder: Path, out: Path) -> RunSummary:
    run = RunFolder(folder)
    name = folder.relative_to(out).as_posix() if folder != out else folder.resolve().name
    common: dict[str, Any] = {"name": name, "path": folder, "size_bytes": folder_bytes(folder)}
    try:
        marker = run.metrics if run.is_finished else run.checkpoint
        marker = marker if marker.is_file() else folder
        common["changed"] = marker.stat().st_mtime
        config = read_json(run.config)
        common |= {"data": str(config["data"]), "model": str(config["model"])}
        if run.history.is_file():
            common["seconds"] = sum(float(row["seconds"]) for row in read_csv(run.history))
        if run.is_finished:
            return RunSummary(**common, **_scores(run))
        if owner := lock_owner(folder):
            return RunSummary(**common, state=RunState.RUNNING, reason=owner)
        if not (run.checkpoint.is_file() or run.previous_checkpoint.is_file()):
            raise ValueError("no metrics.json and no checkpoint")
        return RunSummary(**common, state=RunState.INTERRUPTED)
    except RunError as error:
        reason = error.found if run.config.is_file() else "no config.json"
    except KeyError as error:
        reason = f"no {error} in its files"
    except (OSError, ValueError, TypeError) as error:
        reason = str(error)
    return RunSummary(**common, state=RunState.DAMAGED, reason=reason)


def _scores(run: RunFolder) -> dict[str, Any]:
    metrics = read_json(run.metrics)
    low, high = metrics["accuracy_ci95"]
    if not run.model.is_file():
        raise ValueError("no model.safetensors")
    others = {name: metrics.get(name) for name in ("majority_accuracy", "probe_accuracy")}
    return {
        "state": RunState.FINISHED,
        "accuracy": float(metrics["accuracy"]),
        "accuracy_ci95": (float(low), float(high)),
        # older runs have none
        **{name: value if value is None else float(value) for name, value in others.items()},
        "split": str(metrics["split"]),
        "images": int(metrics["images"]),
    }
