"""eval: score a model on its own held-out images, or on another folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swinclf.confidence.selective import (
    RejectionScores,
    SelectiveScores,
    score_rejection,
    threshold_for,
)
from swinclf.data.dataset import classes_without_images, describe_lost_classes
from swinclf.data.folder import TRAIN, VAL, FolderIndex, SkippedFile
from swinclf.data.split_names import CROSS_VALIDATION
from swinclf.device import default_workers
from swinclf.errors import ConfigError, DataError, RunError, WeightsError
from swinclf.export_formats import find_export
from swinclf.files import check_can_write, read_json
from swinclf.inference.predictor import (
    RUN_OPTIONS,
    InferenceOptions,
    Predictor,
    TorchPredictor,
    open_predictor,
)
from swinclf.inference.results import Illustrations, write_results
from swinclf.inference.score import ScoringResult, score_images
from swinclf.inference.selection import (
    find_training_dataset,
    find_training_root,
    match_labels,
    select_images,
)
from swinclf.inference.shared_stream import ModelFile
from swinclf.inference.stream import stream_outputs
from swinclf.metrics import Metrics
from swinclf.reporter import SILENT, Reporter, format_percent
from swinclf.reporting.report_data import Neighbour, Provenance, ReportSections
from swinclf.run_folder import (
    RunFolder,
    find_data_folder,
    find_enclosing_run,
    make_folder,
    next_free_folder,
    refuse_inside,
)
from swinclf.shell_quoting import quoted

if TYPE_CHECKING:
    from swinclf.explain.saliency_overlay import EvidenceDrawer


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation."""

    folder: Path
    metrics: Metrics
    skipped: tuple[SkippedFile, ...]  # images that were not scored, and why
    rejection: RejectionScores | None = None  # the effect of rejection; None if not requested


@dataclass(frozen=True)
class SplitScores:
    """The result of a scoring that has not been written."""

    index: FolderIndex
    split: str  # which images were scored: val, test, train or all
    is_training_dataset: bool  # whether the model was trained on the folder, perhaps moved
    result: ScoringResult  # metrics and a row for each image
    rejection: RejectionScores | None  # the effect of rejection; None if not requested
    # number of images of each class that the model does not know
    unknown_classes: Mapping[str, int]


def score(
    predictor: Predictor,
    model: Path,
    data: Path | None = None,
    *,
    split: str | None = None,
    reject: float | None = None,
    workers: int | None = None,
    report: Reporter = SILENT,
    options: InferenceOptions | None = None,
) -> SplitScores:
    """Score an open predictor and write nothing.

    `model` is its file, whose run folder names the dataset and the split; the other arguments and
    the errors are those of `evaluate`. With `options`, with which the file was opened, other
    processes take part.
    """
    if reject is not None:
        threshold_for(predictor.card.confidence, reject)  # raises before any image is read
    run = find_enclosing_run(model)
    root = data or find_training_dataset(model, run)
    if data is None and not root.is_dir():
        raise DataError(
            f"the dataset of the run, at '{root}'",
            found="no such folder: moved, or deleted",
            hint=f"swinclf eval DATA --run {quoted(model)}",
        )
    requested = split
    index, split, is_training_dataset = select_images(root, split, run, predictor.card, report)
    for note in index.notes:
        report.note(note)
    for warning in index.warnings:
        report.warn(warning)
    if split == TRAIN and requested is None:
        report.warn(_training_images_warning(model))
    if split == VAL and is_training_dataset and reject is not None:
        report.note(
            "the thresholds of --reject were set on these images: other images give a fairer test"
        )
    images, unknown = match_labels(index, predictor.card, report)
    workers = default_workers() if workers is None else workers
    result = score_images(
        predictor,
        index.root,
        images,
        split=split,
        workers=workers,
        report=report,
        model=None if options is None else ModelFile(model, options),
    )
    rejection = None
    if reject is not None:
        others = [index.root / skipped.path for skipped in unknown]
        rejection = _rejection(predictor, reject, result, others, workers, report)
    for loss in describe_lost_classes(_lost(result, index)):
        report.warn(loss)
    result = replace(result, skipped=[*index.skipped, *unknown, *result.skipped])
    unknown_classes = Counter(skipped.label for skipped in unknown)
    return SplitScores(index, split, is_training_dataset, result, rejection, unknown_classes)


def evaluate(
    model: Path,
    data: Path | None = None,
    *,
    split: str | None = None,
    output: Path | None = None,
    options: InferenceOptions = RUN_OPTIONS,
    reject: float | None = None,
    workers: int | None = None,
    report: Reporter = SILENT,
) -> Evaluation:
    """Score a model and write the results to a folder.

    `model` is a model.safetensors or an exported file, `data` a folder of class folders, None for
    the one the run was trained on. `split` is val, test, train or all; None for the held-out images
    where `data` is what the run was trained on, and for all images of any other folder.

    With `reject`, a target precision in (0, 1), rejection is measured too, also on unknown classes.
    `output` is the folder; None for the next free `eval-N` next to the model. `workers` is the
    number of threads that decode; None for one a core.

    Raises:
        ConfigError: If `output` is a training run, or inside the dataset.
        SwinclfError: If it cannot be done. That nothing can be written is found out at the start.
    """
    refuse_inside(data or find_data_folder(model), output, "--output")
    _refuse_run(output)
    check_can_write((output or _parent_of(model)) / "report.html")
    predictor = open_predictor(model, options)
    if predictor.note:
        report.warn(predictor.note)
    done = score(
        predictor,
        model,
        data,
        split=split,
        reject=reject,
        workers=workers,
        report=report,
        options=options,
    )
    root = done.index.root
    workers = default_workers() if workers is None else workers
    drawer, ranges = _drawer(model, root, predictor), predictor.card.preprocess.ranges
    draw = drawer.draw if drawer else None
    neighbours = _neighbours(model, find_enclosing_run(model), predictor, root, workers, report)
    folder = make_folder(output) if output else next_free_folder(_parent_of(model), "eval")
    write_results(
        folder,
        done.result,
        _provenance(model, done, options, reject),
        illustrations=Illustrations(root, workers, ranges, draw, neighbours),
        sections=ReportSections(
            confidence=predictor.card.confidence,
            rejection=done.rejection,
            unknown_classes=done.unknown_classes,
        ),
    )
    return Evaluation(folder, done.result.metrics, tuple(done.result.skipped), done.rejection)


def _refuse_run(output: Path | None) -> None:
    """Raise a ConfigError if a folder is a training run, whose scores would be replaced."""
    if output is not None and RunFolder(output).is_run:
        raise ConfigError(
            "a folder for --output that is not a training run, whose scores it would replace",
            found=f"the run '{output}'",
            hint="no --output, which writes to the next free eval-N, or another folder",
        )


def _provenance(
    model: Path, done: SplitScores, options: InferenceOptions, reject: float | None
) -> Provenance:
    """Return the origin of the scores, for the report."""
    flags = {"reject": reject, **asdict(options)}
    left_out = {"reject": None, "impl": None, "device": "auto", "precision": None}
    given = [f" --{name} {value}" for name, value in flags.items() if value != left_out[name]]
    root, split = done.index.root, done.split
    command = f"swinclf eval {quoted(root)} --run {quoted(model)} --split {split}"
    return Provenance(
        title=f"{model.resolve().parent.name}: {split} of {root.name}",
        data=root.name,
        command=command + "".join(given),
        epochs=_trained_epochs(find_enclosing_run(model)),
        is_training_dataset=done.is_training_dataset,
    )


def _trained_epochs(run: RunFolder | None) -> int:
    """Return the epochs that a run was to be trained for; 0 if they are not recorded."""
    with suppress(RunError):
        return int(read_json(run.config).get("epochs") or 0) if run is not None else 0
    return 0


def _training_images_warning(model: Path) -> str:
    """Return the warning for scores on training images, with those of a cross-validation."""
    warning = (
        "the model was trained on all of these images: their scores say nothing about new ones"
    )
    run = find_enclosing_run(model)
    metrics = read_json(run.metrics) if run is not None and run.is_finished else {}
    if metrics.get("split") != CROSS_VALIDATION:
        return warning
    accuracy = format_percent(metrics["accuracy"])
    return f"{warning}; by cross-validation, accuracy is {accuracy}"


def _lost(result: ScoringResult, index: FolderIndex) -> Mapping[str, str]:
    """Return the classes without a readable image, each with the most common reason."""
    there = tuple({row.label for row in result.rows})
    skipped = (*index.skipped, *result.skipped)
    return classes_without_images(replace(index, classes=there, skipped=skipped))[0]


def _parent_of(model: Path) -> Path:
    """Return the folder of a model, outside an exported folder, which may be published."""
    parent = model.resolve().parent
    exported = find_export(model)
    return parent.parent if exported and exported[0].entry_file else parent


def _drawer(model: Path, root: Path, predictor: Predictor) -> EvidenceDrawer | None:
    """Return a drawer of saliency maps; None for an export, which is scored without torch."""
    if not isinstance(predictor, TorchPredictor):
        return None
    from swinclf.explain.saliency_overlay import EvidenceDrawer

    return EvidenceDrawer.open(model, root=root, hardware=predictor.hardware)


def _neighbours(
    model: Path,
    run: RunFolder | None,
    predictor: Predictor,
    root: Path,
    workers: int,
    report: Reporter,
) -> Callable[[Sequence[str]], Mapping[str, Sequence[Neighbour]]] | None:
    """Return a search for the nearest training images; None without stored features.

    Exports have none: they are scored without torch, and their features may differ a little.
    """
    path = RunFolder(model.resolve().parent).neighbours
    if model.suffix != ".safetensors" or not path.is_file():
        return None
    from swinclf.inference.neighbours import find_reference_neighbours, load_reference_features

    try:
        reference = load_reference_features(path, model)
    except WeightsError as error:
        report.warn(
            f"the report has no nearest training images: expected {error.expected}, "
            f"found {error.found}"
        )
        return None
    training_root = find_training_root(model, run, root, predictor.card)
    return partial(
        find_reference_neighbours,
        reference,
        predictor,
        root=root,
        training_root=training_root,
        workers=workers,
    )


def _rejection(
    predictor: Predictor,
    precision: float,
    result: ScoringResult,
    others: Sequence[Path],
    workers: int,
    report: Reporter,
) -> RejectionScores:
    """Measure rejection on the scored images and on those of unknown classes."""
    unknown = []
    with report.track("scoring unknown classes", len(others)) as advance:
        for _, output in stream_outputs(predictor, others, workers=workers):
            if output.probabilities is not None:
                unknown.append(output.selective_scores)
            advance(1)
    return score_rejection(
        predictor.card.confidence,
        precision,
        result.selective,
        np.array([row.is_right for row in result.rows]),
        SelectiveScores.from_rows(unknown),
    )
