"""eval: metrics of a model on its own held-out images, or on another folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swinclf.confidence.selective import Judged, Rejection, measure_rejection, threshold_for
from swinclf.data.dataset import classes_without_images, describe_lost_classes
from swinclf.data.folder import FolderIndex, SkippedFile
from swinclf.device import default_workers
from swinclf.errors import WeightsError
from swinclf.inference.predictor import (
    AS_THE_RUN,
    Asked,
    Predictor,
    TorchPredictor,
    open_predictor,
)
from swinclf.inference.results import Illustrations, write_results
from swinclf.inference.score import Scored, score_images
from swinclf.inference.selection import choose_images, home_of, trained_on, with_known_labels
from swinclf.inference.stream import answer_all
from swinclf.metrics import Metrics
from swinclf.reporter import SILENT, Reporter
from swinclf.reporting.report_data import Neighbour, Provenance, Sections
from swinclf.run_folder import RunFolder, make_folder, next_free_folder, run_beside

if TYPE_CHECKING:
    from swinclf.explain.saliency_overlay import EvidenceDrawer


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        folder: Where its files are.
        metrics: The scores.
        skipped: Images that were not scored, and why.
        rejection: What withholding answers would do, where that was asked.
    """

    folder: Path
    metrics: Metrics
    skipped: tuple[SkippedFile, ...]
    rejection: Rejection | None = None


@dataclass(frozen=True)
class Scores:
    """The result of a scoring, nothing of it written.

    Attributes:
        index: The images.
        split: Which of them were scored: val, test, train or all.
        scored: Metrics and a row for each image.
        rejection: The effect of rejecting answers, where that was asked for.
    """

    index: FolderIndex
    split: str
    scored: Scored
    rejection: Rejection | None


def score(
    predictor: Predictor,
    model: Path,
    data: Path | None = None,
    *,
    split: str | None = None,
    reject: float | None = None,
    workers: int | None = None,
    report: Reporter = SILENT,
) -> Scores:
    """Score a model and write nothing; the arguments are those of `evaluate`.

    Args:
        predictor: The model, open.
        model: Its file, whose run folder names the dataset and the split.
        data: As for `evaluate`.
        split: As for `evaluate`.
        reject: As for `evaluate`.
        workers: As for `evaluate`.
        report: Receives progress.

    Raises:
        SwinclfError: If it cannot be done.
    """
    if reject is not None:
        threshold_for(predictor.card.confidence, reject)  # before any image is looked at
    run = run_beside(model)
    root = data or trained_on(model, run)
    index, split = choose_images(root, split, run, predictor.card, report)
    for note in index.notes.notes():
        report.note(note)
    for warning in index.notes.warnings():
        report.warn(warning)
    images, unknown = with_known_labels(index, predictor.card, report)
    workers = default_workers() if workers is None else workers
    scored = score_images(
        predictor,
        index.root,
        images,
        split=split,
        workers=workers,
        report=report,
    )
    rejection = None
    if reject is not None:
        others = [index.root / skipped.path for skipped in unknown]
        rejection = _rejection(predictor, reject, scored, others, workers, report)
    for loss in describe_lost_classes(_lost(scored, index)):
        report.warn(loss)
    scored = replace(scored, skipped=[*index.skipped, *unknown, *scored.skipped])
    return Scores(index, split, scored, rejection)


def evaluate(
    model: Path,
    data: Path | None = None,
    *,
    split: str | None = None,
    output: Path | None = None,
    asked: Asked = AS_THE_RUN,
    reject: float | None = None,
    workers: int | None = None,
    report: Reporter = SILENT,
) -> Evaluation:
    """Score a model and write the results to a folder.

    Args:
        model: A model.safetensors or an exported file (`runs.find_model`).
        data: A folder of class folders; None for the one the run was trained on.
        split: val, test, train or all. None for the held-out images where `data` is what the run
            was trained on, and for all images of any other folder.
        output: Where the results go; None for the next free `eval-N` beside the model.
        asked: How the model is run.
        reject: Also measure what withholding answers for this share of right ones does, in (0, 1);
            on images of classes that the model does not know, too.
        workers: Threads that decode; None for one a core.
        report: Told of progress.

    Raises:
        SwinclfError: If it cannot be done.
    """
    predictor = open_predictor(model, asked)
    if predictor.note:
        report.warn(predictor.note)
    done = score(predictor, model, data, split=split, reject=reject, workers=workers, report=report)
    scored, root = done.scored, done.index.root
    workers = default_workers() if workers is None else workers
    drawer = _drawer(model, root, predictor)
    neighbours = _neighbours(model, run_beside(model), predictor, root, workers, report)
    folder = make_folder(output) if output else next_free_folder(model.resolve().parent, "eval")
    write_results(
        folder,
        scored,
        Provenance(
            title=f"{model.resolve().parent.name}: {done.split} of {root.name}",
            data=str(root),
            command=f"swinclf eval '{root}' --run '{model}' --split {done.split}",
        ),
        illustrations=Illustrations(
            root,
            workers,
            predictor.card.preprocess.ranges,
            drawer.draw if drawer else None,
            neighbours,
        ),
        sections=Sections(confidence=predictor.card.confidence, rejection=done.rejection),
    )
    return Evaluation(folder, scored.metrics, tuple(scored.skipped), done.rejection)


def _lost(scored: Scored, index: FolderIndex) -> Mapping[str, str]:
    """The class folders of which no image can be read, each with the commonest reason."""
    there = tuple({row.label for row in scored.rows})
    skipped = (*index.skipped, *scored.skipped)
    return classes_without_images(replace(index, classes=there, skipped=skipped))[0]


def _drawer(model: Path, root: Path, predictor: Predictor) -> EvidenceDrawer | None:
    """Draws what spoke for mistakes; an export is scored without torch, and has none."""
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
    """Finds the training images most alike to mistakes; None where none are kept beside the model.

    An export is scored without torch, and may answer a little otherwise: it has none.
    """
    path = RunFolder(model.resolve().parent).neighbours
    if model.suffix != ".safetensors" or not path.is_file():
        return None
    from swinclf.inference.nearest_images import most_alike_in
    from swinclf.inference.reference_features import read_training_sample

    try:
        sample = read_training_sample(path, model)
    except WeightsError as error:
        report.warn(
            f"no training images beside the mistakes: expected {error.expected}, "
            f"found {error.found}"
        )
        return None
    home = home_of(model, run, root, predictor.card)
    return partial(most_alike_in, sample, predictor, root=root, home=home, workers=workers)


def _rejection(
    predictor: Predictor,
    precision: float,
    scored: Scored,
    others: Sequence[Path],
    workers: int,
    report: Reporter,
) -> Rejection:
    """Measures withholding on the scored images and on those of unknown classes."""
    judged = []
    with report.track("scoring unknown classes", len(others)) as advance:
        for _, answer in answer_all(predictor, others, workers=workers):
            if answer.probabilities is not None:
                judged.append(answer.judged)
            advance(1)
    return measure_rejection(
        predictor.card.confidence,
        precision,
        scored.judged,
        np.array([row.label == row.predicted for row in scored.rows]),
        Judged.of(judged),
    )
