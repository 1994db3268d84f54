"""relabel: move images of a dataset into other class folders, according to a table; or back.

The only command that changes a dataset. Images are renamed, never copied, overwritten or deleted.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from swinclf.data.class_names import match_unicode_forms
from swinclf.data.dataset_layout import find_layout
from swinclf.errors import DataError, RunError
from swinclf.files import (
    cannot_write,
    numbered_path,
    read_csv,
    read_json,
    rename_to_free,
    write_json,
)
from swinclf.run_folder import RunFolder, find_data_folder
from swinclf.shell_quoting import quoted

COLUMNS = ("path", "label")
SHOWN = 3  # rows in an error


@dataclass(frozen=True)
class Move:
    """One image and its new path, both relative to the dataset."""

    path: str
    target: str


@dataclass(frozen=True)
class RelabelPlan:
    """What is to be moved in a dataset."""

    data: Path  # the dataset's folder
    moves: tuple[Move, ...]  # in order of the table
    unchanged: int  # number of rows whose image is in the folder of its label already
    table: Path  # the file with the plan: a table of labels, or an undo file


def plan_relabel(table: Path, data: Path | None = None) -> RelabelPlan:
    """Return the moves that give images the labels of a table. Changes nothing.

    `table` is a CSV file with the columns path and label, such as an edited suspects.csv; `data` is
    None for the dataset of the run that the table is in.

    Raises:
        RunError: If the table cannot be read, or its dataset is not known.
        DataError: If an image is missing, outside the dataset or a link, or if there is no folder
            of its new class.
    """
    rows = read_csv(table, COLUMNS)
    data = data or _data_of_run(table)
    root = _dataset_root(data)
    labels = {
        Path(one.path): (one.label, Path(one.path).parent)
        for one in find_layout(root, None).class_folders
    }
    moves: list[Move] = []
    problems: list[str] = []
    used: set[Path] = set()
    for row in rows:
        try:
            if row["label"]:  # it is empty for images that `predict` could not read
                moves += _plan_move(root, row["path"], row["label"], labels, used)
        except ValueError as error:
            problems.append(f"{row['path']}: {error}")
    if problems:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise DataError(
            f"images of '{data}' and labels that have a folder there, in '{table}'",
            found="; ".join(problems[:SHOWN]) + more,
            hint="correct these rows, or --data DATA; a new class needs its folder first (mkdir)",
        )
    return RelabelPlan(root, tuple(moves), len(rows) - len(moves), table)


def plan_undo(undo: Path, data: Path | None = None) -> RelabelPlan:
    """Return the moves that take back an earlier relabelling, as far as it came.

    `data` is the dataset's folder, if it has been moved; None for the recorded one.

    Raises:
        RunError: If the file is not an undo file.
        DataError: If there is no dataset, an image is not where it was moved, or its former path is
            in use.
    """
    record = read_json(undo)
    try:
        root = _dataset_root(data or Path(record["data"]))
        done = [Move(str(one["path"]), str(one["target"])) for one in record["moves"]]
    except (KeyError, TypeError) as error:
        raise RunError(
            f"a file for --undo at '{undo}'",
            found=f"no {error} in it",
            hint="swinclf relabel names it",
        ) from error
    moves: list[Move] = []
    lost: list[str] = []
    for one in reversed(done):
        now, former = root / one.target, root / one.path
        try:
            _check_inside(root, now)
            _check_inside(root, former)
        except ValueError:
            lost.append(one.target)
            continue
        if os.path.lexists(now) and not os.path.lexists(former):
            moves.append(Move(one.target, one.path))
        elif not former.is_file() or os.path.lexists(now):
            lost.append(one.target)
    if lost:
        raise DataError(
            f"the images of '{undo}' where they were moved, and their former paths free",
            found=f"{len(lost):,} that are not, e.g. {lost[0]!r}",
            hint="move these by hand",
        )
    return RelabelPlan(root, tuple(moves), len(done) - len(moves), undo)


def apply_moves(plan: RelabelPlan, *, is_undo: bool = False) -> Path | None:
    """Move the images, after writing the file that can undo it next to the table; return that file.

    It is written next to the dataset if the table is inside it. With `is_undo`, the moves take back
    earlier ones: no such file is written, None is returned.

    Raises:
        RunError: If an image cannot be moved; the undo file takes back those before it.
    """
    undo = None
    if not is_undo:
        is_inside = plan.table.resolve().is_relative_to(plan.data)
        folder = plan.data.parent if is_inside else plan.table.parent
        undo = _free_path(folder / f"{plan.table.stem}-undo.json")
        moves = [{"path": one.path, "target": one.target} for one in plan.moves]
        write_json(undo, {"data": str(plan.data), "moves": moves})
    for one in plan.moves:
        target = plan.data / one.target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            rename_to_free(plan.data / one.path, target)
        except OSError as error:
            failed = cannot_write(target, error)
            hint = f"swinclf relabel --undo {quoted(undo or plan.table)}, which moves images back"
            raise RunError(failed.expected, found=failed.found, hint=hint) from error
    return undo


def _dataset_root(data: Path) -> Path:
    if not data.is_dir():
        raise DataError(f"a dataset at '{data}'", found="no such folder", hint="--data DATA")
    return data.resolve()


def _data_of_run(table: Path) -> Path:
    folder = table.resolve().parent
    for run in (folder, folder.parent):  # the table of a run, or of an evaluation in it
        if data := find_data_folder(RunFolder(run).model):
            return data
    raise RunError(
        "the dataset whose images are to be moved",
        found=f"'{table}' is not in a run",
        hint="--data DATA",
    )


def _plan_move(
    root: Path,
    given: str,
    label: str,
    labels: Mapping[Path, tuple[str, Path]],
    used: set[Path],
) -> list[Move]:
    """Return the move of one image; none if it has its label.

    `given` is the image, relative to the dataset `root` or to the current folder. `labels` maps a
    class folder to its label and the folder that it is in; `used` are the old and new paths of the
    rows above, to which those of this one are added.

    Raises:
        ValueError: With the reason, if it cannot be moved.
    """
    path = root / given
    if not os.path.lexists(path) and os.path.lexists(given):
        path = Path(given).absolute()  # as printed by predict, relative to where it ran
    _check_inside(root, path)
    if path.is_symlink() or not path.is_file():
        raise ValueError("a link" if path.is_symlink() else "no such file")
    path = path.resolve()
    folder = next((one for one in path.parents if one in labels), None)
    if folder is None:
        raise ValueError("not in a class folder")
    old, parent = labels[folder]
    if label == old:
        return []
    classes = {name: one for one, (name, above) in labels.items() if above == parent}
    if label not in classes:
        label = match_unicode_forms([label], classes).get(label, label)
        if label == old:
            return []
    if path in used:
        raise ValueError("in two rows")
    if label not in classes:
        near = difflib.get_close_matches(label, classes, n=1)
        guess = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no class folder {label!r}{guess}")
    target = _free_path(classes[label] / path.relative_to(folder), used)
    used |= {path, target}
    return [Move(*(one.relative_to(root).as_posix() for one in (path, target)))]


def _check_inside(root: Path, path: Path) -> None:
    if not path.parent.resolve().is_relative_to(root):
        raise ValueError("outside the dataset")


def _free_path(path: Path, used: Collection[Path] = ()) -> Path:
    """Return a path that neither exists nor is `used`: with a number in its name if need be."""
    number = 1
    while os.path.lexists(free := numbered_path(path, number)) or free in used:
        number += 1
    return free
