"""The run folder: what its files are called, how one is made, and how one is found again."""

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
from swinclf.files import cannot_write, expand_home, read_json, replace_path, sweep, sync_folder
from swinclf.latest_run import LATEST, follow_latest, sweep_latest
from swinclf.lock import FolderLock, Held, sweep_locks, whoami

DRAFT = ".{}.draft"
MODEL_SUFFIXES = (".safetensors", ".onnx")


@dataclass(frozen=True)
class RunFolder:
    """One training's folder.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Every setting, and where it came from."""
        return self.path / "config.json"

    @property
    def class_indices(self) -> Path:
        """Index -> class name."""
        return self.path / "class_indices.json"

    @property
    def split(self) -> Path:
        """Every image used, its label and its split."""
        return self.path / "split.csv"

    @property
    def unlabelled(self) -> Path:
        """Every image without a label that a teacher's answers are learned on."""
        return self.path / "unlabelled.csv"

    @property
    def skipped(self) -> Path:
        """Every image not used, and why."""
        return self.path / "skipped.csv"

    @property
    def history(self) -> Path:
        """A row an epoch."""
        return self.path / "history.csv"

    @property
    def baseline(self) -> Path:
        """What a linear head does on the network as it was before the training."""
        return self.path / "baseline.json"

    @property
    def model(self) -> Path:
        """The best weights with all that prediction needs."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training goes on from."""
        return self.path / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before that one, for when it is damaged."""
        return self.path / "previous.ckpt"

    @property
    def metrics(self) -> Path:
        """The scores; written last, so its presence says that the run is finished."""
        return self.path / "metrics.json"

    @property
    def samples(self) -> Path:
        """A few small copies of validation images, which exports are compared on."""
        return self.path / "samples"

    @property
    def neighbours(self) -> Path:
        """What the network sees in a sample of the training images, for a report's neighbours."""
        return self.path / "neighbours.safetensors"

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end."""
        return self.metrics.is_file()


class Claim:
    """A run's folder, which this process alone writes into.

    A new one is a draft, in a hidden folder, until it holds all that a resume needs: so there is no
    moment at which a run can be seen and cannot be resumed.

    Args:
        lock: On the run's name.
        folder: The run's folder, or its draft.
        final: Where a draft will lie; None for a run that is there.

    Attributes:
        run: The folder's files, wherever they lie now.
    """

    def __init__(self, lock: FolderLock, folder: Path, final: Path | None = None) -> None:
        self._lock, self._final = lock, final
        self.run = RunFolder(folder)

    @property
    def is_draft(self) -> bool:
        """Whether nobody can see it yet."""
        return self._final is not None

    @property
    def name(self) -> str:
        """What the folder is, or will be called."""
        return (self._final or self.run.path).name

    def publish(self) -> None:
        """Makes a draft the run that it was written to be.

        Raises:
            ConfigError: If there is one of this name now.
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
        """Lets the folder go; a draft goes for good."""
        if self._final is not None:
            shutil.rmtree(self.run.path, ignore_errors=True)
        self._lock.release()


@contextmanager
def claim_new_run(out: Path, *, name: str | None, dataset: Path) -> Iterator[Claim]:
    """Makes a draft of a run, which is removed if it is not published inside the `with` block.

    Args:
        out: The folder that runs go into; made if it is not there.
        name: The run's folder; None for the dataset's name and the next free number.
        dataset: The dataset's folder, which must not contain `out`.

    Raises:
        ConfigError: If the run would lie in the dataset, or there is one of this name.
        RunError: If the folder cannot be made, or another process is making it.
    """
    if out.resolve().is_relative_to(dataset.resolve()):
        raise ConfigError(
            f"--out outside the dataset '{dataset}' (nothing is ever written into a dataset)",
            found=f"'{out}', which is '{out.resolve()}'",
            hint=f"--out '{dataset.resolve().parent / 'runs'}'",
        )
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
        was_draft = claim.is_draft
        claim.release()
        if is_new and was_draft:
            with suppress(OSError):
                out.rmdir()


@contextmanager
def claim_run(run: RunFolder) -> Iterator[Claim]:
    """Takes a run that is there, to go on with it, and removes what a killed process left in it.

    Raises:
        RunError: If another process holds it.
    """
    try:
        claim = Claim(FolderLock(run.path), run.path)
    except Held as held:
        raise _held(run.path, str(held)) from held
    except OSError as error:
        raise cannot_write(run.checkpoint, error) from error
    try:
        sweep(run.path)
        yield claim
    finally:
        claim.release()


def _first_free(out: Path, stem: str) -> Claim:
    for number in itertools.count(1):
        final = out / f"{stem}-{number}"
        if not final.exists():
            with suppress(ConfigError, RunError):  # another process is as quick
                return _draft(final, tries=1)
    raise AssertionError("there is no last number")


def _draft(final: Path, *, tries: int = 10) -> Claim:
    """Claims a name and an empty hidden folder for it.

    Args:
        final: What will be made.
        tries: How often it is tried, as somebody may be just looking whether it is free.

    Raises:
        ConfigError: If there is a run of this name.
        RunError: If another process is about to make one.
    """
    if final.exists():
        raise _name_taken(final)
    for left in reversed(range(tries)):
        try:
            lock = FolderLock(final)
            break
        except Held as error:
            if not left:
                raise _held(final, str(error)) from error
            time.sleep(0.05)
    folder = final.with_name(DRAFT.format(final.name))
    claim = Claim(lock, folder, final)
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
    """Removes the drafts of processes that were killed, and the links that they were making."""
    prefix, suffix = DRAFT.split("{}")
    for folder in out.glob(DRAFT.format("*")):
        final = out / folder.name.removeprefix(prefix).removesuffix(suffix)
        with suppress(Held, OSError):
            lock = FolderLock(final)
            if lock.is_certain:
                Claim(lock, folder, final).release()
            else:
                lock.release()
    sweep_locks(out)
    sweep_latest(out)


def _name_taken(final: Path) -> ConfigError:
    busy = ""
    with suppress(OSError):
        try:
            FolderLock(final).release()
        except Held as held:
            busy = f", and {held} is training it (this is {whoami()})"
    return ConfigError(
        f"a --name that is free in '{final.parent}'",
        found=f"'{final.name}' is there already{busy}",
        hint=f"another --name, or to go on with it: swinclf train --resume '{final}'",
    )


def _held(path: Path, owner: str) -> RunError:
    return RunError(
        f"nobody else to be training '{path}' (this is {whoami()})",
        found=f"{owner} is training it",
        hint="wait for it, stop it with Ctrl-C, or train under another --name",
    )


def find_run(where: Path | None, *, out: Path = Path("runs")) -> RunFolder:
    """The run folder that is meant.

    Args:
        where: A run folder or a file in one; None for the newest finished run.
        out: The folder that runs go into.

    Raises:
        RunError: If there is none.
    """
    if where is None:
        return RunFolder(_newest_finished(out))
    where = follow_latest(Path(expand_home(str(where))))
    folder = where if where.is_dir() else where.parent
    run = RunFolder(folder)
    if not where.exists() or not run.config.is_file():
        raise _no_run(where)
    return run


def find_model(where: Path | None, *, out: Path = Path("runs")) -> Path:
    """The model file that is meant: a run's model.safetensors, or the file itself.

    Args:
        where: A run folder, a weights file or an exported file; None for the newest finished run.
        out: The folder that runs go into.

    Raises:
        RunError: If there is none.
    """
    if where is None:
        return RunFolder(_newest_finished(out)).model
    where = follow_latest(Path(expand_home(str(where))))
    if where.is_file():
        if where.suffix.lower() not in MODEL_SUFFIXES:
            raise RunError(
                f"a run folder, a model.safetensors or an exported .onnx file at '{where}'",
                found=f"a file of another kind ({where.suffix or 'no ending'})",
                hint="--run RUN, the folder that `swinclf train` named at its end",
            )
        return where
    if where.is_dir() and RunFolder(where).model.is_file():
        return RunFolder(where).model
    raise _no_run(where)


def run_beside(model: Path) -> RunFolder | None:
    """The run folder that a model file lies in, if it lies in one."""
    run = RunFolder(model.resolve().parent)
    return run if run.config.is_file() and run.split.is_file() else None


def data_folder_of(model: Path) -> Path | None:
    """The dataset that a model's run was trained on; None where there is no run that says."""
    run = run_beside(model)
    if run is None:
        return None
    with suppress(RunError):
        data = read_json(run.config).get("data")
        return Path(data) if isinstance(data, str) else None
    return None


def make_folder(path: Path) -> Path:
    """Makes a folder, if it is not there, and returns it.

    Raises:
        RunError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from error
    return path


def next_free_folder(parent: Path, stem: str) -> Path:
    """Makes and returns the first of `stem-1`, `stem-2`, ... in `parent` that is not there yet.

    Raises:
        RunError: If none can be made.
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
    """A dataset's name as a plain folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", dataset.resolve().name).strip("-.")[:40] or "run"


def _newest_finished(out: Path) -> Path:
    latest = follow_latest(out / LATEST)
    if RunFolder(latest).is_finished:
        return latest.resolve()
    finished = [run for run in _runs(out) if run.is_finished]
    if not finished:
        raise RunError(
            f"a finished run under '{out}'",
            found="none" if out.is_dir() else f"no folder '{out}' here ({Path.cwd()})",
            hint="swinclf train DATA, or name one: --run RUN",
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
    found = "nothing of that name"
    if where.exists():
        inside = sorted(entry.name for entry in where.iterdir())[:5] if where.is_dir() else []
        found = (
            f"a folder without a model ({', '.join(inside) or 'empty'})"
            if where.is_dir()
            else "a file"
        )
        if (where / "config.json").is_file():
            found = "a run that was not finished"
    near = difflib.get_close_matches(
        where.name, [run.path.name for run in _runs(where.parent)], n=1
    )
    hint = (
        f"did you mean '{where.parent / near[0]}'?" if near else "swinclf train DATA, or --run RUN"
    )
    if found == "a run that was not finished":
        hint = f"swinclf train --resume '{where}'"
    return RunError(f"a run at '{where}'", found=found, hint=hint)


def _cannot_write(out: Path, why: str) -> RunError:
    return RunError(
        f"to make a folder in '{out}'", found=why, hint="another folder, by --out or --output"
    )
