"""eval: metrics of a model on its own held-out images, or on another folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swinclf.card import ModelCard
from swinclf.data.digests import digest_files
from swinclf.data.folder import (
    TEST,
    TRAIN,
    VAL,
    FolderIndex,
    ImageFile,
    Skipped,
    dataset_digest,
    scan_folder,
)
from swinclf.data.split import hold_out
from swinclf.data.split_file import read_split
from swinclf.errors import DataError, RunError
from swinclf.evaluation.metrics import Metrics
from swinclf.evaluation.sections import Sections
from swinclf.files import read_json
from swinclf.inference.predictor import AS_THE_RUN, Asked, Predictor, open_predictor
from swinclf.inference.reject import Rejection, judged_of, measure_rejection, threshold_for
from swinclf.inference.results import Illustrations, write_results
from swinclf.inference.score import Scored, score_images
from swinclf.inference.stream import answer_all
from swinclf.progress import SILENT, Reporter
from swinclf.runs import RunFolder, make_folder, next_free_folder, run_beside
from swinclf.runtime import default_workers

if TYPE_CHECKING:
    from swinclf.inspection.overlay import EvidenceDrawer

ALL = "all"


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
    skipped: tuple[Skipped, ...]
    rejection: Rejection | None = None


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
    """Scores a model.

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
    if reject is not None:
        threshold_for(predictor.card, reject)  # before any image is looked at
    run = run_beside(model)
    root = data or _trained_on(model, run)
    index, split = _choose_images(root, split, run, predictor.card, report)
    images, unknown = _with_known_labels(index, predictor.card)
    workers = default_workers() if workers is None else workers
    scored = score_images(
        predictor, index.root, images, split=split, workers=workers, report=report
    )
    rejection = None
    if reject is not None:
        others = [index.root / skipped.path for skipped in unknown]
        rejection = _rejection(predictor, reject, scored, others, workers, report)
    drawer = _drawer(model, index.root, asked)
    folder = make_folder(output) if output else next_free_folder(model.resolve().parent, "eval")
    scored = replace(scored, skipped=[*index.skipped, *unknown, *scored.skipped])
    write_results(
        folder,
        scored,
        title=f"{model.resolve().parent.name}: {split} of {index.root.name}",
        data=str(index.root),
        command=f"swinclf eval '{index.root}' --run '{model}' --split {split}",
        settings={},
        history=[],
        illustrations=Illustrations(index.root, workers, drawer.draw if drawer else None),
        sections=Sections(thresholds=predictor.card.confidence.thresholds, rejection=rejection),
    )
    return Evaluation(folder, scored.metrics, tuple(scored.skipped), rejection)


def _drawer(model: Path, root: Path, asked: Asked) -> EvidenceDrawer | None:
    """Draws what spoke for mistakes; an export is scored without torch, and has none."""
    if model.suffix != ".safetensors":
        return None
    from swinclf.inspection.overlay import EvidenceDrawer

    return EvidenceDrawer.open(model, root=root, device=asked.device)


def _rejection(
    predictor: Predictor,
    precision: float,
    scored: Scored,
    others: Sequence[Path],
    workers: int,
    report: Reporter,
) -> Rejection:
    """Measures withholding on the scored images and on those of unknown classes."""
    probabilities: list[float] = []
    strangeness: list[float | None] = []
    with report.track("scoring unknown classes", len(others)) as advance:
        for _, answer in answer_all(predictor, others, workers=workers):
            if answer.probabilities is not None:
                probabilities.append(float(answer.probabilities.max()))
                strangeness.append(answer.strangeness)
            advance(1)
    return measure_rejection(
        predictor.card,
        precision,
        judged_of([row.probability for row in scored.rows], scored.strangeness),
        np.array([row.label == row.predicted for row in scored.rows]),
        judged_of(probabilities, strangeness),
    )


def _trained_on(model: Path, run: RunFolder | None) -> Path:
    if run is None:
        raise RunError(
            f"the folder to score '{model}' on",
            found="none named, and no run folder around the file that would say",
            hint=f"swinclf eval DATA --run '{model}'",
        )
    data = read_json(run.config).get("data")
    if not isinstance(data, str):
        raise RunError(
            f"the folder that a run was trained on, in '{run.config}'",
            found=f"{data!r}",
            hint=f"swinclf eval DATA --run '{model}'",
        )
    return Path(data)


def _choose_images(
    root: Path, split: str | None, run: RunFolder | None, card: ModelCard, report: Reporter
) -> tuple[FolderIndex, str]:
    """The images to score and the name of what they are."""
    if run is not None and _is_dataset_of(run, root, card):
        images = read_split(run.split)
        index = FolderIndex(root.resolve(), (), images, (), has_val=True)
        return _only(index, split or (VAL if _has(images, VAL) else TRAIN))
    index = scan_folder(root)
    if card.split.get("dataset") == dataset_digest(root) and not index.has_val:
        return _only(_split_by_rule(index, card), split or VAL)
    if split is None and card.split.get("dataset") != dataset_digest(root):
        report.note(f"'{root}' is not where this model was trained: all of its images are scored")
    return _only(index, split or ALL)


def _is_dataset_of(run: RunFolder, root: Path, card: ModelCard) -> bool:
    """Whether a folder is what a run was trained on: the same path, or, moved, the same files."""
    if card.split.get("dataset") == dataset_digest(root):
        return True
    listed = [image.path for image in read_split(run.split)]
    step = max(1, len(listed) // 200)
    return all((root / path).is_file() for path in listed[::step])


def _split_by_rule(index: FolderIndex, card: ModelCard) -> FolderIndex:
    """Holds out what the training held out: the rule needs only the images and the seed."""
    tests = [image for image in index.images if image.split == TEST]
    others = [image for image in index.images if image.split != TEST]
    digests, _ = digest_files(index.root, (image.path for image in others))
    readable = [image for image in others if image.path in digests]  # the rest trained nothing
    held_out = hold_out(
        [image.label for image in readable],
        [digests[image.path] for image in readable],
        fraction=float(card.split["val_split"]),
        seed=int(card.split["seed"]),
    )
    split = [
        replace(image, split=VAL if out else TRAIN)
        for image, out in zip(readable, held_out, strict=True)
    ]
    return replace(index, images=(*split, *tests))


def _only(index: FolderIndex, split: str) -> tuple[FolderIndex, str]:
    images = tuple(image for image in index.images if split in (ALL, image.split))
    if not images:
        there = sorted({image.split for image in index.images if image.split})
        raise DataError(
            f"images of the split '{split}' in '{index.root}'",
            found=f"images of {', '.join(there)}" if there else "no split in its folders",
            hint=f"--split {VAL if VAL in there else there[0] if there else ALL}",
        )
    return replace(index, images=images), split


def _has(images: Sequence[ImageFile], split: str) -> bool:
    return any(image.split == split for image in images)


def _with_known_labels(
    index: FolderIndex, card: ModelCard
) -> tuple[list[ImageFile], list[Skipped]]:
    """Matches classes by name; images of classes that the model does not know cannot be scored."""
    known = [image for image in index.images if image.label in card.classes]
    unknown = [image for image in index.images if image.label not in card.classes]
    if not known:
        labels = sorted({image.label for image in unknown})
        raise DataError(
            f"folders named like the model's classes ({', '.join(map(repr, card.classes[:5]))})",
            found=f"{', '.join(map(repr, labels[:5]))} in '{index.root}'",
            hint="name the folders like the classes, or: swinclf predict",
        )
    reason = "its class '{}' is not one of the model's"
    return known, [Skipped(image.path, reason.format(image.label)) for image in unknown]
