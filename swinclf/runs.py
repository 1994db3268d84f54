"""The run folder: what its files are called, how one is made, and how one is found again."""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swinclf.errors import ConfigError, RunError

LATEST = "latest"
SPLIT_COLUMNS = ("path", "label", "split")  # of split.csv
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
    def skipped(self) -> Path:
        """Every image not used, and why."""
        return self.path / "skipped.csv"

    @property
    def history(self) -> Path:
        """A row an epoch."""
        return self.path / "history.csv"

    @property
    def model(self) -> Path:
        """The best weights with all that prediction needs."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training goes on from."""
        return self.path / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """The scores; written last, so its presence says that the run is finished."""
        return self.path / "metrics.json"

    @property
    def samples(self) -> Path:
        """A few small copies of validation images, which exports are compared on."""
        return self.path / "samples"

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end."""
        return self.metrics.is_file()


def create_run(out: Path, *, name: str | None, dataset: Path) -> RunFolder:
    """Makes a new folder for a run.

    Args:
        out: The folder that runs go into; made if it is not there.
        name: The run's folder; None for the dataset's name and the next free number.
        dataset: The dataset's folder, which must not contain `out`.

    Raises:
        ConfigError: If the run would lie in the dataset, or there is one of this name.
        RunError: If the folder cannot be made.
    """
    if out.resolve().is_relative_to(dataset.resolve()):
        raise ConfigError(
            f"--out outside the dataset '{dataset}' (nothing is ever written into a dataset)",
            found=f"'{out}', which is '{out.resolve()}'",
            hint=f"--out '{dataset.resolve().parent / 'runs'}'",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if name is None:
            return RunFolder(next_free_folder(out, _stem_of(dataset)))
        (out / name).mkdir()
        return RunFolder(out / name)
    except FileExistsError as error:
        if not out.is_dir():
            raise _cannot_write(out, "it is a file") from error
        raise ConfigError(
            f"a --name that is free in '{out}'",
            found=f"'{name}' is there already",
            hint=f"another --name, or to go on with it: swinclf train --resume '{out / str(name)}'",
        ) from error
    except OSError as error:
        raise _cannot_write(out, error.strerror or str(error)) from error


def mark_latest(run: RunFolder) -> None:
    """Points the link `latest` at a run; without links the newest run is found by its date."""
    link = run.path.parent / LATEST
    temporary = run.path.parent / f".{LATEST}.{os.getpid()}.tmp"
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.path.name, target_is_directory=True)
        temporary.replace(link)


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
    latest = out / LATEST
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
        RunFolder(path) for path in sorted(out.iterdir()) if path.is_dir() and path.name != LATEST
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
