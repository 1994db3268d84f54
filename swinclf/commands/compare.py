"""compare: compare two runs or evaluations on the same images."""

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
from swinclf.reporting.paired_comparison import PairedCounts, PredictionPair
from swinclf.run_folder import make_folder

PREDICTIONS = "predictions.csv"
COLUMNS = ("path", "label", "predicted", "probability")


@dataclass(frozen=True)
class Comparison:
    """The comparison of two classifiers on the same images.

    Attributes:
        first: The folder of the first one's predictions.
        second: The folder of the second one's.
        overall: Counts over all images.
        classes: Counts over the images of each class, largest difference first.
        differing: Images with different predictions, in order of path.
    """

    first: Path
    second: Path
    overall: PairedCounts
    classes: Mapping[str, PairedCounts]
    differing: tuple[PredictionPair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. The difference is the second accuracy less the first."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            **_record(self.overall),
            "difference_ci95": list(self.overall.difference_ci95),
            "mcnemar_p": self.overall.p_value,
            "classes": {name: _record(counts) for name, counts in self.classes.items()},
            "differing": [asdict(pair) for pair in self.differing],
        }


def compare(first: Path, second: Path, *, output: Path | None = None) -> Comparison:
    """Compare the predictions of two runs or evaluations.

    Args:
        first: A folder with a predictions.csv: a run, or the output of `eval`.
        second: Another one, on the same images.
        output: A JSON file for the comparison.

    Raises:
        RunError: If one of them has no predictions.
        DataError: If the images or their labels differ.
    """
    first, second = follow_latest(first), follow_latest(second)
    rows, others = _predictions(first), _predictions(second)
    _check_same_images(first, second, rows, others)
    _check_same_data(first, second, list(rows))
    pairs = [_pair(rows[path], others[path]) for path in sorted(rows)]
    by_class: dict[str, list[PredictionPair]] = defaultdict(list)
    for pair in pairs:
        by_class[pair.label].append(pair)
    classes = {name: PairedCounts.from_pairs(own) for name, own in sorted(by_class.items())}
    changed = sorted(classes, key=lambda name: -abs(classes[name].difference))
    comparison = Comparison(
        first=first,
        second=second,
        overall=PairedCounts.from_pairs(pairs),
        classes={name: classes[name] for name in changed},
        differing=tuple(pair for pair in pairs if pair.first != pair.second),
    )
    if output is not None:
        write_json(make_folder(output.parent) / output.name, comparison.to_dict())
    return comparison


def _predictions(folder: Path) -> dict[str, Mapping[str, str]]:
    """Return the rows of a predictions.csv by path."""
    file = folder / PREDICTIONS
    if not file.is_file():
        raise RunError(
            f"a finished run or the output of an evaluation at '{folder}'",
            found=f"no {PREDICTIONS} in it" if folder.is_dir() else "no such folder",
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
            found="a probability that is not a number" if rows else "no image",
            hint=f"swinclf eval DATA --run RUN --output '{folder}'",
        )
    return rows


def _check_same_images(
    first: Path,
    second: Path,
    rows: Mapping[str, Mapping[str, str]],
    others: Mapping[str, Mapping[str, str]],
) -> None:
    """Raise if the images or labels differ, and list the differences."""
    unpaired = (
        (first, sorted(rows.keys() - others.keys())),
        (second, sorted(others.keys() - rows.keys())),
    )
    found = [
        f"{len(paths):,} images only in '{folder}', e.g. {paths[0]!r}"
        for folder, paths in unpaired
        if paths
    ]
    relabelled = [
        path
        for path in sorted(rows.keys() & others.keys())
        if rows[path]["label"] != others[path]["label"]
    ]
    if relabelled and not found:
        path = relabelled[0]
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

    Only runs record their dataset. Files are compared by size, if both folders still exist.
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
            f"predictions for the same images in '{first}' and '{second}'",
            found=f"{len(different):,} files that differ between '{one}' and '{other}', "
            f"e.g. {different[0]!r}",
            hint=_hint(first, second),
        )


def _data_of(folder: Path) -> Path | None:
    """Return the dataset that a run was trained on; None if it is not recorded."""
    try:
        return Path(json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hint(first: Path, second: Path) -> str:
    outputs = [f"{folder.resolve().name or 'run'}-scored" for folder in (first, second)]
    return (
        f"score both on one folder: swinclf eval DATA --split all --run '{first}' --output "
        f"{outputs[0]}, likewise '{second}', then swinclf compare {' '.join(outputs)}"
    )


def _pair(one: Mapping[str, str], other: Mapping[str, str]) -> PredictionPair:
    return PredictionPair(
        one["path"],
        one["label"],
        one["predicted"],
        other["predicted"],
        float(one["probability"]),
        float(other["probability"]),
    )


def _record(counts: PairedCounts) -> dict[str, Any]:
    return {
        "images": counts.images,
        "first_accuracy": counts.first_accuracy,
        "second_accuracy": counts.second_accuracy,
        "difference": counts.difference,
        "both_right": counts.both,
        "only_first_right": counts.only_first,
        "only_second_right": counts.only_second,
    }
