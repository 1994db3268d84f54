"""compare: compare runs or evaluations on the same images."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from swinclf.config import SETTINGS
from swinclf.data.folder import CROSS_VALIDATION, TRAIN, VAL
from swinclf.data.loader import evenly_spaced
from swinclf.data.thumbnails import thumbnails
from swinclf.device import default_workers
from swinclf.errors import ConfigError, DataError, RunError
from swinclf.files import read_csv, read_json, write_json
from swinclf.latest_run import LATEST, follow_latest
from swinclf.metrics import cross_validation_interval, wilson_interval
from swinclf.path_patterns import expand_home, expand_pattern, is_pattern
from swinclf.reporting.compare_page import write_compare_page
from swinclf.reporting.paired_comparison import (
    DifferingImage,
    Leaderboard,
    PairedCounts,
    RunScore,
    SeedGroup,
    holm,
    seeds_interval,
)
from swinclf.run_folder import RunFolder, find_data_folder, make_folder, refuse_inside
from swinclf.shell_quoting import quoted

PREDICTIONS = "predictions.csv"
COMPARED_FILES = 1000  # by their sizes
COLUMNS = ("path", "label", "predicted", "probability")
# Settings that do not change what is learned, but for the random numbers.
_NOT_COMPARED = (
    *("seed", "name", "out", "device", "threads", "workers", "cache", "cache_gib", "compile"),
)
SEED_NOTE = (
    "This compares trained models on these images. Another --seed alone moves accuracy by a point "
    "or more: to compare their settings, add --seeds 3, which trains each with further seeds."
)
SELECTED_NOTE = "scores of images that also selected the epoch, which are a little too high"


def expand_runs(folders: Sequence[Path]) -> list[Path]:
    """Return runs by their names and patterns such as `runs/*`, which not every shell expands.

    `latest` is left out where it is also given by its name.
    """
    folders = [one for given in folders for one in _expand(given)]
    named = {one.resolve() for one in folders if one.name != LATEST}
    return [
        one for one in folders if one.name != LATEST or follow_latest(one).resolve() not in named
    ]


def _expand(given: Path) -> list[Path]:
    pattern = expand_home(str(given))
    if not is_pattern(pattern):
        return [given]
    return [Path(one) for one in expand_pattern(pattern)] or [given]


def rank_runs(
    folders: Sequence[Path], *, output: Path | None = None, page: Path | None = None
) -> Leaderboard:
    """Compare any number of runs or evaluations, on the images that all of them have.

    `folders` are two or more, each with a predictions.csv: a run, or the output of `eval`. `output`
    is a JSON file for the comparison, `page` an HTML file with the images on which they differ.

    Raises:
        ConfigError: If there are less than two folders.
        RunError: If one of them has no predictions.
        DataError: If an image has different labels, or, where no runs differ in their seed only, if
            none is common to all.
    """
    if len(folders) < 2:
        raise ConfigError(
            "two runs or more to compare",
            found=f"{len(folders)}",
            hint="swinclf compare RUN RUN, and swinclf runs lists them",
        )
    folders = [_folder_of(folder) for folder in folders]
    for folder in folders:
        dataset = find_data_folder(RunFolder(folder).model)
        refuse_inside(dataset, output, "--output")
        refuse_inside(dataset, page, "--page")
    tables = [_predictions(folder) for folder in folders]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    groups = _seed_groups(folders, tables)
    for (first, rows), (second, others) in pairwise(zip(folders, tables, strict=True)):
        if not groups and not common:
            _check_same_images(first, second, rows, others)
        same = [{path: table[path] for path in common} for table in (rows, others)]
        _check_same_images(first, second, *same)
        _check_same_data(first, second, common)
    done = Leaderboard(
        images=len(common),
        runs=_rank(folders, tables, common) if common else (),
        groups=groups,
        differing=tuple(
            DifferingImage(
                path, tables[0][path]["label"], tuple(table[path]["predicted"] for table in tables)
            )
            for path in common
            if len({table[path]["predicted"] for table in tables}) > 1
        ),
        notes=_notes(folders, groups, tables, len(common)) if common else (),
        majority_accuracy=_majority_accuracy(tables[0], common),
        probe_accuracy=_probe_accuracy(folders, tables, common),
    )
    if output is not None:
        write_json(make_folder(output.parent) / output.name, done.to_dict())
    if page is not None:
        roots = [root for folder in folders if (root := _data_of(folder)) and root.is_dir()]
        images = partial(thumbnails, roots[0], workers=default_workers()) if roots else _no_images
        write_compare_page(make_folder(page.parent) / page.name, done, images)
    return done


def _rank(
    folders: Sequence[Path],
    tables: Sequence[Mapping[str, Mapping[str, str]]],
    common: Sequence[str],
) -> tuple[RunScore, ...]:
    """Return the scores of runs, best first, each compared with the best."""
    right = [[_is_right(table[path]) for path in common] for table in tables]
    order = sorted(range(len(folders)), key=lambda index: -sum(right[index]))
    best = order[0]
    counts = {
        index: PairedCounts.from_outcomes(zip(right[best], right[index], strict=True))
        for index in order
    }
    corrected = dict(
        zip(order[1:], holm([counts[index].p_value for index in order[1:]]), strict=True)
    )
    return tuple(
        RunScore(
            run=str(folders[index]),
            number=index + 1,
            accuracy=sum(right[index]) / len(common),
            accuracy_ci95=_accuracy_interval(folders[index], right[index]),
            difference=counts[index].difference,
            difference_ci95=counts[index].difference_ci95,
            p_value=corrected.get(index),
            own_images=len(tables[index]),
            own_accuracy=_accuracy(tables[index]),
        )
        for index in order
    )


def _accuracy_interval(folder: Path, right: Sequence[bool]) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy of a run, cross-validated or not."""
    folds = _config_of(folder).get("folds") or 0
    if _own_split(folder) == CROSS_VALIDATION and folds > 1:
        return cross_validation_interval(statistics.fmean(right), len(right), folds)
    return wilson_interval(sum(right), len(right))


def _majority_accuracy(
    table: Mapping[str, Mapping[str, str]], common: Sequence[str]
) -> float | None:
    """Return the accuracy of always answering the largest class; None without images."""
    labels = Counter(table[path]["label"] for path in common)
    return max(labels.values()) / len(common) if common else None


def _probe_accuracy(
    folders: Sequence[Path],
    tables: Sequence[Mapping[str, Mapping[str, str]]],
    common: Sequence[str],
) -> float | None:
    """Return the accuracy of the best linear probe that a run began with, on the same images."""
    found = [
        RunFolder(folder).probe_accuracy
        for folder, table in zip(folders, tables, strict=True)
        if _own_split(folder) == VAL
        and read_config(folder).get("epochs")
        and len(table) == len(common)
    ]
    return max((one for one in found if one is not None), default=None)


def _seed_groups(
    folders: Sequence[Path], tables: Sequence[Mapping[str, Mapping[str, str]]]
) -> tuple[SeedGroup, ...]:
    """Return the runs grouped by settings, but for the seed, and images; none if all are single."""
    groups: dict[str, dict[int, float]] = defaultdict(dict)
    for folder, table in zip(folders, tables, strict=True):
        config = _config_of(folder)
        if config:
            images = _own_split(folder) or sorted((path, table[path]["label"]) for path in table)
            recipe = json.dumps({**recipe_of(config), "images": images})
            groups[recipe][int(config.get("seed", 0))] = _accuracy(table)
    if all(len(members) < 2 for members in groups.values()):
        return ()
    recipes = [json.loads(key) for key in groups]
    varied = [
        name
        for name in recipes[0]
        if name != "images" and len({str(one[name]) for one in recipes}) > 1
    ]
    best = max(groups.values(), key=lambda members: statistics.fmean(members.values()))
    found = [
        SeedGroup(
            settings=", ".join(f"{name} {Path(str(one[name])).name}" for name in varied) or "equal",
            seeds=tuple(members),
            mean=statistics.fmean(members.values()),
            deviation=statistics.stdev(members.values()) if len(members) > 1 else None,
            difference_ci95=None if members is best else seeds_interval(members, best),
        )
        for one, members in zip(recipes, groups.values(), strict=True)
    ]
    return tuple(sorted(found, key=lambda group: -group.mean))


def _notes(
    folders: Sequence[Path],
    groups: Sequence[SeedGroup],
    tables: Sequence[Mapping[str, Mapping[str, str]]],
    common: int,
) -> tuple[str, ...]:
    """Return what a comparison of trained models does not show."""
    selected = [
        str(one) for one in folders if _own_split(one) == VAL and _config_of(one).get("epochs")
    ]
    own = [str(one) for one in folders if _own_split(one) == TRAIN]
    notes = [] if groups else [SEED_NOTE]
    most = max(map(len, tables))
    if common < most:
        notes.append(f"compared on the {common:,} of up to {most:,} images that all of them scored")
    if selected:
        names = "each run" if len(selected) == len(folders) else ", ".join(selected)
        notes.append(f"{names}: {SELECTED_NOTE}")
    if own:
        notes.append(f"{', '.join(own)}: scores of images that it was trained on, which are higher")
    return tuple(notes)


def _own_split(folder: Path) -> str | None:
    """Return the split of the training that was scored; None for images of another folder."""
    metrics = _json_of(folder / "metrics.json")
    return None if metrics.get("other_folder") else metrics.get("split")


def _no_images(_files: Sequence[str]) -> Iterator[bytes | None]:
    return iter(())


def _is_right(row: Mapping[str, str]) -> bool:
    return row["label"] == row["predicted"]


def _accuracy(table: Mapping[str, Mapping[str, str]]) -> float:
    return statistics.fmean(map(_is_right, table.values()))


def _folder_of(where: Path) -> Path:
    """Return the folder of a run, which may be given by its weights file."""
    where = follow_latest(where)
    return where.parent if where.is_file() else where


def _predictions(folder: Path) -> dict[str, Mapping[str, str]]:
    """Return the rows of a predictions.csv by path."""
    file = folder / PREDICTIONS
    if not file.is_file():
        raise RunError(
            f"a finished run or the output of an evaluation at '{folder}'",
            found=f"no {PREDICTIONS} in it" if folder.is_dir() else "no such folder",
            hint=_predictions_hint(folder),
        )
    rows = {row["path"]: row for row in read_csv(file, COLUMNS)}
    try:
        numbers = [float(row["probability"]) for row in rows.values()]
    except ValueError:
        numbers = []
    if not numbers:
        raise RunError(
            f"images with their probabilities in '{file}'",
            found="a probability that is not a number" if rows else "no image",
            hint=_predictions_hint(folder),
        )
    return rows


def _predictions_hint(folder: Path) -> str:
    """Return the command that writes the predictions that a folder lacks."""
    run = RunFolder(folder)
    if run.is_run and not run.is_finished:
        return f"swinclf train --resume {quoted(folder)}"
    if run.is_run:  # whose folder `eval` does not write to
        return f"swinclf eval --run {quoted(folder)}, and compare the folder that it writes"
    return f"swinclf eval DATA --run RUN --output {quoted(folder)}"


def _check_same_images(
    first: Path,
    second: Path,
    rows: Mapping[str, Mapping[str, str]],
    others: Mapping[str, Mapping[str, str]],
) -> None:
    """Raise if the images or labels differ, and list the differences."""
    unpaired = {first: rows.keys() - others.keys(), second: others.keys() - rows.keys()}
    found = [
        f"{len(paths):,} images only in '{folder}', e.g. {min(paths)!r}"
        for folder, paths in unpaired.items()
        if paths
    ]
    common = rows.keys() & others.keys()
    relabelled = [path for path in common if rows[path]["label"] != others[path]["label"]]
    if relabelled and not found:
        path = min(relabelled)
        found.append(
            f"{len(relabelled):,} images with another label, e.g. {path!r}: "
            f"{rows[path]['label']!r} in '{first}', {others[path]['label']!r} in '{second}'"
        )
    if found:
        raise DataError(
            f"predictions for the same images in '{first}' and '{second}'",
            found="; ".join(found),
            hint=_hint(first, second),
        )


def _check_same_data(first: Path, second: Path, paths: Sequence[str]) -> None:
    """Raise if two datasets have different files under the same names.

    Only runs record their dataset. Files are compared by size, a thousand of them at most, if both
    folders still exist.
    """
    one, other = _data_of(first), _data_of(second)
    if one is None or other is None or one == other:
        return
    checked = evenly_spaced(paths, COMPARED_FILES)
    different = [
        path
        for path in checked
        if (one / path).is_file()
        and (other / path).is_file()
        and (one / path).stat().st_size != (other / path).stat().st_size
    ]
    if different:
        raise DataError(
            f"predictions for the same images in '{first}' and '{second}'",
            found=f"{len(different):,} files that differ between '{one}' and '{other}', "
            + (f"of {len(checked):,} compared, " if len(checked) < len(paths) else "")
            + f"e.g. {different[0]!r}",
            hint=_hint(first, second),
        )


def _data_of(folder: Path) -> Path | None:
    """Return the dataset that a run was trained on; None if it is not recorded."""
    data = read_config(folder).get("data")
    return Path(data) if isinstance(data, str) else None


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the settings of a run; none for other folders."""
    return _json_of(RunFolder(folder).config)


def _config_of(folder: Path) -> Mapping[str, Any]:
    """Return the settings of a run, or of the run that an evaluation is in; none without one."""
    return read_config(folder) or read_config(folder.parent)


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that change what is learned, but for the seed."""
    return {
        name: config.get(name, SETTINGS[name].default)
        for name in SETTINGS
        if name not in _NOT_COMPARED
    }


def _json_of(file: Path) -> Mapping[str, Any]:
    try:
        return read_json(file)
    except RunError:
        return {}


def _hint(first: Path, second: Path) -> str:
    runs = [one if read_config(one) else one.parent for one in (first, second)]
    names = [quoted(one) if read_config(one) else "RUN" for one in runs]
    return (
        "score both on a folder that neither was trained on: swinclf eval DATA --split all "
        f"--run {names[0]} --output scored-1, and --run {names[1]} --output scored-2, then "
        "swinclf compare scored-1 scored-2"
    )
