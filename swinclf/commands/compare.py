"""compare: two runs, or two evaluations, on the same images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swinclf.errors import DataError, RunError
from swinclf.files import read_csv, write_json
from swinclf.latest_run import follow_latest
from swinclf.reporting.compare import Pair, Paired
from swinclf.run_folder import make_folder

PREDICTIONS = "predictions.csv"
COLUMNS = ("path", "label", "predicted", "probability")


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images.

    Attributes:
        first: The folder of the first one's predictions.
        second: The folder of the second one's.
        paired: On all images.
        classes: On the images of each class, most changed first.
        differing: The images that the two call differently, in order of path.
    """

    first: Path
    second: Path
    paired: Paired
    classes: Mapping[str, Paired]
    differing: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON. The difference is the second accuracy less the first."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            **_record(self.paired),
            "difference_ci95": list(self.paired.difference_ci95),
            "mcnemar_p": self.paired.p_value,
            "classes": {name: _record(paired) for name, paired in self.classes.items()},
            "differing": [asdict(pair) for pair in self.differing],
        }


def compare(first: Path, second: Path, *, output: Path | None = None) -> Comparison:
    """Compares the answers that two runs or evaluations have left.

    Args:
        first: A folder with a predictions.csv: a run, or what `eval` has written.
        second: Another one, on the same images.
        output: A JSON file for all of it.

    Raises:
        RunError: If one of them has no predictions.
        DataError: If they are of different images, or the images have different labels.
    """
    first, second = follow_latest(first), follow_latest(second)
    answers, others = _predictions(first), _predictions(second)
    _check_same_images(first, second, answers, others)
    _check_same_data(first, second, list(answers))
    pairs = [_pair(answers[path], others[path]) for path in sorted(answers)]
    by_class: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_class[pair.label].append(pair)
    classes = {name: Paired.of(own) for name, own in sorted(by_class.items())}
    changed = sorted(classes, key=lambda name: -abs(classes[name].difference))
    comparison = Comparison(
        first=first,
        second=second,
        paired=Paired.of(pairs),
        classes={name: classes[name] for name in changed},
        differing=tuple(pair for pair in pairs if pair.first != pair.second),
    )
    if output is not None:
        write_json(make_folder(output.parent) / output.name, comparison.to_dict())
    return comparison


def _predictions(folder: Path) -> dict[str, Mapping[str, str]]:
    """The rows of a predictions.csv by path."""
    file = folder / PREDICTIONS
    if not file.is_file():
        raise RunError(
            f"a finished run or the output of an evaluation at '{folder}'",
            found=f"no {PREDICTIONS} in it" if folder.is_dir() else "no folder of that name",
            hint=f"swinclf eval DATA --run RUN --output '{folder}'",
        )
    rows = {row["path"]: row for row in read_csv(file, COLUMNS)}
    try:
        numbers = [float(row["probability"]) for row in rows.values()]
    except ValueError:
        numbers = []
    if not numbers:
        raise RunError(
            f"images with their probabilities in '{file}'",
            found="a probability that is no number" if rows else "no image",
            hint=f"swinclf eval DATA --run RUN --output '{folder}'",
        )
    return rows


def _check_same_images(
    first: Path,
    second: Path,
    answers: Mapping[str, Mapping[str, str]],
    others: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuses what cannot be paired, and says what each side has that the other lacks."""
    lone = (
        (first, sorted(answers.keys() - others.keys())),
        (second, sorted(others.keys() - answers.keys())),
    )
    found = [
        f"{len(paths):,} images only in '{folder}', e.g. {paths[0]!r}"
        for folder, paths in lone
        if paths
    ]
    relabelled = [
        path
        for path in sorted(answers.keys() & others.keys())
        if answers[path]["label"] != others[path]["label"]
    ]
    if relabelled and not found:
        path = relabelled[0]
        found.append(
            f"{len(relabelled):,} images with another label, e.g. {path!r}: "
            f"{answers[path]['label']!r} in '{first}', {others[path]['label']!r} in '{second}'"
        )
    if found:
        raise DataError(
            f"answers for the same images in '{first}' and '{second}'",
            found="; ".join(found),
            hint=_scoring(first, second),
        )


def _check_same_data(first: Path, second: Path, paths: Sequence[str]) -> None:
    """Refuses two datasets whose files have the same names and are not the same files.

    Only runs say where their images are; where the folders are two, and both there, sizes tell.
    """
    roots = [_data_of(folder) for folder in (first, second)]
    one, other = roots
    if one is None or other is None or one == other:
        return
    different = [
        path
        for path in paths
        if (one / path).is_file()
        and (other / path).is_file()
        and (one / path).stat().st_size != (other / path).stat().st_size
    ]
    if different:
        raise DataError(
            f"answers for the same images in '{first}' and '{second}'",
            found=f"{len(different):,} files of the same name that are not the same in '{one}' and "
            f"'{other}', e.g. {different[0]!r}",
            hint=_scoring(first, second),
        )


def _data_of(folder: Path) -> Path | None:
    """The dataset that a run was trained on; None for a folder that does not say."""
    try:
        return Path(json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scoring(first: Path, second: Path) -> str:
    outputs = [f"{folder.resolve().name or 'run'}-scored" for folder in (first, second)]
    return (
        f"score both on one folder: swinclf eval DATA --split all --run '{first}' --output "
        f"{outputs[0]}, likewise '{second}', then swinclf compare {' '.join(outputs)}"
    )


def _pair(one: Mapping[str, str], other: Mapping[str, str]) -> Pair:
    return Pair(
        one["path"],
        one["label"],
        one["predicted"],
        other["predicted"],
        float(one["probability"]),
        float(other["probability"]),
    )


def _record(paired: Paired) -> dict[str, Any]:
    return {
        "images": paired.images,
        "first_accuracy": paired.first_accuracy,
        "second_accuracy": paired.second_accuracy,
        "difference": paired.difference,
        "both_right": paired.both,
        "only_first_right": paired.only_first,
        "only_second_right": paired.only_second,
    }
