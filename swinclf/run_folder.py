"""The run folder: its file names, how it is created and how it is found."""

from __future__ import annotations

import difflib
import itertools
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from swinclf.errors import ConfigError, RunError
from swinclf.export_formats import find_export
from swinclf.files import (
    cannot_write,
    read_json,
    remove_temporary_files,
    replace_path,
    sync_folder,
)
from swinclf.latest_run import LATEST, follow_latest
from swinclf.lock import FolderLock, LockHeldError, describe_process, remove_stale_locks
from swinclf.path_patterns import expand_home
from swinclf.shell_quoting import quoted

DRAFT = ".{}.draft"


class _RunFile:
    """A file or folder of a run, by its name; as an attribute of the run, its path."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunFolder, owner: type[RunFolder]) -> Path:
        """Return the path."""
        return run.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """One training's folder, with the paths of its files."""

    path: Path

    config = _RunFile("config.json")  # every setting and its source
    class_indices = _RunFile("class_indices.json")  # index -> class name
    split = _RunFile("split.csv")  # every image used, its label and its split
    unlabelled = _RunFile("unlabelled.csv")  # every unlabelled image used for distillation
    skipped = _RunFile("skipped.csv")  # every image not used, with the reason
    history = _RunFile("history.csv")  # a row an epoch
    baseline = _RunFile("baseline.json")  # the scores of a linear probe on the starting weights
    model = _RunFile("model.safetensors")  # the best weights with the model card
    checkpoint = _RunFile("last.ckpt")  # the checkpoint that an interrupted training resumes from
    # the checkpoint before, in case that one is damaged
    previous_checkpoint = _RunFile("previous.ckpt")
    # the scores; written last, so that its presence marks a finished run
    metrics = _RunFile("metrics.json")
    samples = _RunFile("samples")  # small copies of a few validation images, for comparing exports
    # features of a sample of the training images, for the neighbours in a report
    neighbours = _RunFile("neighbours.safetensors")

    @property
    def is_run(self) -> bool:
        """Whether the folder is a training's, finished or not."""
        return self.config.is_file() and self.split.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return self.metrics.is_file()

    @property
    def probe_accuracy(self) -> float | None:
        """Validation accuracy of the linear probe on the starting weights; None without one.

        Raises:
            RunError: If the file of its scores cannot be read.
        """
        if not self.baseline.is_file():
            return None
        accuracy: float | None = read_json(self.baseline)["val_accuracy"]
        return accuracy


class RunClaim:
    """A run folder that is locked for this process.

    A new one is a draft in a hidden folder until it has everything a resume needs, so that every
    visible run can be resumed.

    `lock` is that on the run's name. `folder` is the run's, or its draft, whose final path is
    `final`; None for an existing run. The attribute `run` has the files of the folder, at their
    current path.
    """

    def __init__(self, lock: FolderLock, folder: Path, final: Path | None = None) -> None:
        self._lock, self._final = lock, final
        self.run = RunFolder(folder)

    @property
    def name(self) -> str:
        """The final name of the folder."""
        return (self._final or self.run.path).name

    def publish(self) -> None:
        """Rename a draft to its final path.

        Raises:
            ConfigError: If there is a run of this name now.
            RunError: If the folder cannot be renamed.
        """
        if self._final is None:
            return
        if self._final.exists():
            raise _name_taken(self._final)
        try:
            sync_folder(self.run.path)
            replace_path(self.run.path, self._final)
            sync_folder(self._final.parent)
        except OSError as error:
            raise _cannot_write(self._final.parent, error.strerror or str(error)) from error
        self.run, self._final = RunFolder(self._final), None

    def release(self) -> None:
        """Release the lock; remove the folder if it is a draft."""
        if self._final is not None:
            shutil.rmtree(self.run.path, ignore_errors=True)
        self._lock.release()


def check_new_run(out: Path, *, name: str | None, dataset: Path) -> None:
    """Check that a run may be created, without writing anything; see `claim_new_run`.

    Raises:
        ConfigError: If `out` is in the dataset, or there is a run of this name.
    """
    refuse_inside(dataset, out, "--out")
    if name is not None and (out / name).exists():
        raise _name_taken(out / name)


@contextmanager
def claim_new_run(out: Path, *, name: str | None, dataset: Path) -> Iterator[RunClaim]:
    """Create a draft of a run, which is removed unless published inside the `with` block.

    The folder of the runs, `out`, is created if missing. `name` is None for the dataset's name and
    the next free number.

    Raises:
        ConfigError: If `out` is in the dataset, or there is a run of this name.
        RunError: If the folder cannot be created, or another process is creating it.
    """
    check_new_run(out, name=name, dataset=dataset)
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        _sweep_drafts(out)
        claim = _draft(out / name) if name is not None else _first_free(out, _stem_of(dataset))
    except FileExistsError as error:
        raise _cannot_write(out, "it is a file") from error
    except OSError as error:
        raise _cannot_write(out, error.strerror or str(error)) from error
    try:
        yield claim
    finally:
        claim.release()
        if is_new:
            with suppress(OSError):  # it holds the published run
                out.rmdir()


@contextmanager
def claim_run(run: RunFolder) -> Iterator[RunClaim]:
    """Lock an existing run to resume it, and remove temporary files of a killed process.

    Raises:
        RunError: If another process holds the lock.
    """
    try:
        claim = RunClaim(FolderLock(run.path), run.path)
    except LockHeldError as held:
        raise _held(run.path, str(held)) from held
    except OSError as error:
        raise cannot_write(run.checkpoint, error) from error
    try:
        remove_temporary_files(run.path)
        yield claim
    finally:
        claim.release()


def _first_free(out: Path, stem: str) -> RunClaim:
    for number in itertools.count(1):
        final = out / f"{stem}-{number}"
        if not final.exists():
            with suppress(ConfigError, RunError):  # another process took it
                return _draft(final, tries=1)
    raise AssertionError("there is no last number")


def _draft(final: Path, *, tries: int = 10) -> RunClaim:
    """Lock a name and create an empty hidden folder for the run, whose final path is given.

    There are several tries, as another process may be checking whether the name is free.

    Raises:
        ConfigError: If there is a run of this name.
        RunError: If another process is creating one.
    """
    for left in reversed(range(tries)):
        try:
            lock = FolderLock(final)
            break
        except LockHeldError as error:
            if not left:
                raise _held(final, str(error)) from error
            time.sleep(0.05)
    folder = final.with_name(DRAFT.format(final.name))
    claim = RunClaim(lock, folder, final)
    try:
        if final.exists():
            raise _name_taken(final)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
    except BaseException:
        claim.release()
        raise
    return claim


def _sweep_drafts(out: Path) -> None:
    """Remove drafts and locks of killed processes."""
    prefix, suffix = DRAFT.split("{}")
    for folder in out.glob(DRAFT.format("*")):
        final = out / folder.name.removeprefix(prefix).removesuffix(suffix)
        with suppress(LockHeldError, OSError):
            lock = FolderLock(final)
            if lock.is_certain:
                RunClaim(lock, folder, final).release()
            else:
                lock.release()
    remove_stale_locks(out)


def _name_taken(final: Path) -> ConfigError:
    busy = ""
    with suppress(OSError):
        try:
            FolderLock(final).release()
        except LockHeldError as held:
            busy = f", and {held} is training it (this is {describe_process()})"
    resume = f", or to resume it: swinclf train --resume {quoted(final)}"
    return ConfigError(
        f"a --name that is free in '{final.parent}'",
        found=f"'{final.name}' already exists{busy}",
        hint=f"another --name{'' if RunFolder(final).is_finished else resume}",
    )


def _held(path: Path, owner: str) -> RunError:
    return RunError(
        f"no other process to be training '{path}' (this is {describe_process()})",
        found=f"{owner} is training it",
        hint="wait for it, stop it with Ctrl-C, or train under another --name",
    )


def find_run(where: Path | None) -> RunFolder:
    """Return the run folder at a path.

    `where` is a run folder or a file in one; None for the newest finished run in `runs`.

    Raises:
        RunError: If there is none.
    """
    if where is None:
        return RunFolder(_newest_finished())
    where = follow_latest(Path(expand_home(str(where))))
    folder = where if where.is_dir() else where.parent
    run = RunFolder(folder)
    if not where.exists() or not run.config.is_file():
        raise _no_run(where)
    return run


def find_model(where: Path | None) -> Path:
    """Return the model file at a path: a run's model.safetensors, or the file itself.

    `where` is a run folder, a weights file or an exported file; None for the newest finished run in
    `runs`.

    Raises:
        RunError: If there is none.
    """
    if where is None:
        return RunFolder(_newest_finished()).model
    where = follow_latest(Path(expand_home(str(where))))
    if where.exists() and (exported := find_export(where)):
        return exported[1]
    if where.is_file():
        if where.suffix.lower() != ".safetensors":
            raise RunError(
                f"a run folder, a model.safetensors or an exported file at '{where}'",
                found=f"a file of another type ({where.suffix or 'no extension'})",
                hint="--run RUN, the folder that `swinclf train` printed at its end",
            )
        return where
    if where.is_dir() and RunFolder(where).model.is_file():
        return RunFolder(where).model
    raise _no_run(where)


def find_enclosing_run(model: Path) -> RunFolder | None:
    """Return the run folder that a model file is in; None if it is not in one."""
    for folder in (model.resolve().parent, model.resolve().parent.parent):  # of an exported folder
        run = RunFolder(folder)
        if run.is_run:
            return run
    return None


def find_data_folder(model: Path) -> Path | None:
    """Return the dataset that a model's run was trained on; None if it is not recorded."""
    run = find_enclosing_run(model)
    if run is None:
        return None
    with suppress(RunError):
        data = read_json(run.config).get("data")
        return Path(data) if isinstance(data, str) else None
    return None


def refuse_inside(dataset: Path | None, path: Path | None, option: str) -> None:
    """Raise a ConfigError if the file or folder of an output option is inside a dataset."""
    if not (path and dataset and path.resolve().is_relative_to(dataset.resolve())):
        return
    root, output = dataset.resolve(), path.resolve()
    raise ConfigError(
        f"{option} outside the dataset '{dataset}' (nothing is ever written into a dataset)",
        found=f"'{path}', which is '{output}'",
        hint=f"{option} {quoted(root.parent / ('output' if output == root else output.name))}",
    )


def make_folder(path: Path) -> Path:
    """Create a folder if it is missing, and return it.

    Raises:
        RunError: If it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from error
    return path


def next_free_folder(parent: Path, stem: str) -> Path:
    """Create and return the first of `stem-1`, `stem-2`, ... in `parent` that does not exist.

    Raises:
        RunError: If none can be created.
    """
    number = 1
    while True:
        candidate = parent / f"{stem}-{number}"
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _cannot_write(parent, error.strerror or str(error)) from error
        else:
            return candidate


def _stem_of(dataset: Path) -> str:
    """Return a dataset's name as a portable folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", dataset.resolve().name).strip("-.")[:40] or "run"


def _newest_finished() -> Path:
    out = Path("runs")
    latest = follow_latest(out / LATEST)
    if RunFolder(latest).is_finished:
        return latest.resolve()
    finished = [run for run in _runs(out) if run.is_finished]
    if not finished:
        raise RunError(
            f"a finished run under '{out}'",
            found="none" if out.is_dir() else f"no folder '{out}' here ({Path.cwd()})",
            hint="swinclf train DATA, or --run RUN",
        )
    return max(finished, key=lambda run: run.metrics.stat().st_mtime).path


def _runs(out: Path) -> list[RunFolder]:
    if not out.is_dir():
        return []
    return [
        RunFolder(path)
        for path in sorted(out.iterdir())
        if path.is_dir() and path.name != LATEST and not path.name.startswith(".")
    ]


def _no_run(where: Path) -> RunError:
    found = "no such file or folder"
    if where.exists():
        inside = sorted(entry.name for entry in where.iterdir())[:5] if where.is_dir() else []
        found = (
            f"a folder without a model ({', '.join(inside) or 'empty'})"
            if where.is_dir()
            else "a file"
        )
        if (where / "config.json").is_file():
            found = "an unfinished run"
    others = [run.path.name for run in _runs(where.parent) if run.path.name != where.name]
    near = difflib.get_close_matches(where.name, others, n=1)
    by_name = Path("runs") / where
    if len(where.parts) == 1 and RunFolder(by_name).is_finished:
        hint = f"did you mean '{by_name}'?"
    elif near:
        hint = f"did you mean '{where.parent / near[0]}'?"
    else:
        hint = "swinclf runs lists them" if Path("runs").is_dir() else "swinclf train DATA"
    if found == "an unfinished run":
        hint = f"swinclf train --resume {quoted(where)}"
    return RunError(f"a run at '{where}'", found=found, hint=hint)


def _cannot_write(out: Path, why: str) -> RunError:
    return RunError(
        f"to create a folder in '{out}'", found=why, hint="another folder, by --out or --output"
    )
