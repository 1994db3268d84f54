"""Distillation: the teacher, its features and head, the training objective, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from swinclf.config import TeacherViews
from swinclf.data.folder import TEST, TRAIN, VAL, FolderIndex, ImageFile, SkippedFile
from swinclf.data.loader import batched
from swinclf.data.unlabelled import UnlabelledImages, read_unlabelled, scan_unlabelled
from swinclf.errors import DataError, RunError, SwinclfError
from swinclf.inference.score import SCORED_AT_ONCE
from swinclf.pipeline.extract_features import build_extractor
from swinclf.pipeline.plan import Context, Plan, TeacherData
from swinclf.pipeline.starting_model import ExtractionOptions, StartingModel
from swinclf.reporter import format_percent
from swinclf.reporting.paired_comparison import TeacherScores
from swinclf.reporting.report_data import PredictionRow
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings
from swinclf.shell_quoting import quoted
from swinclf.training.batches import FeatureBatches
from swinclf.training.checkpoint import Checkpoint, load_teacher_head
from swinclf.training.defaults import Regime, choose_distillation
from swinclf.training.feature_extraction import (
    MIRROR,
    PLAIN,
    ExtractedFeatures,
    FeatureExtractor,
    FeatureTable,
    ViewsOf,
)
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.logistic_regression import fit_baseline
from swinclf.training.objective import CachedFeatures, Distillation, OnlineFeatures
from swinclf.training.resume_guard import check_weights
from swinclf.training.schedule import Schedule
from swinclf.training.teacher import (
    Teacher,
    check_classes,
    extract_head,
    locate_teacher,
    open_teacher,
)

STANDARDISED_ON = 20_000  # images, enough for mean and standard deviation


def find_teacher(
    settings: Settings, classes: Sequence[str], saved: Checkpoint | None, context: Context
) -> tuple[Settings, Teacher | None]:
    """Load the teacher, before any image is read; None without one.

    The returned settings have absolute paths of teacher and unlabelled images. `saved` is the
    checkpoint of a resumed run.

    Raises:
        SwinclfError: If there is no such teacher, it has other classes, or it is not the one that
            the resumed run started with.
    """
    named, folder = settings.config.teacher, settings.config.unlabelled
    if named is None:
        return settings, None
    named = locate_teacher(named)
    folder = None if folder is None else str(Path(folder).resolve())
    try:
        teacher = open_teacher(named, len(classes), context.report)
    except SwinclfError as error:
        if saved is None:
            raise
        run = saved.path.parent
        raise RunError(
            f"the teacher that '{run}' started with, '{named}'",
            found=error.found,
            hint=f"swinclf train --resume {quoted(run)} --teacher RUN, with its current path",
        ) from error
    if saved is not None:
        check_weights("teacher", teacher.digest, saved.fingerprint.teacher, saved.path.parent)
    unknown = set(teacher.classes or ()) - set(classes)
    if unknown:  # fail early, before reading all images
        check_classes(teacher, classes)
    config = replace(settings.config, teacher=named, unlabelled=folder)
    return replace(settings, config=config), teacher


def prepare_teacher(
    settings: Settings,
    teacher: Teacher | None,
    start: StartingModel,
    dataset: FolderIndex,
    extracted: ExtractedFeatures,
    context: Context,
    saved: Checkpoint | None,
) -> tuple[Settings, FolderIndex, TeacherData | None]:
    """Extract the teacher's features of all images, and fit its head if need be.

    Returns the settings with the defaults of distillation, the dataset with the skipped unlabelled
    images, and the teacher's data; without a teacher None, and both unchanged. `start` is the
    student, `extracted` has the digests and the student's features of the labelled images, `saved`
    is the checkpoint of a resumed run.

    Raises:
        SwinclfError: If the teacher has other classes, or an image is missing or has changed.
        Interrupted: If a signal asked to stop; features computed so far are cached.
    """
    if teacher is None:
        return settings, dataset, None
    check_classes(teacher, dataset.classes)
    settings, terms, teacher_views = choose_distillation(settings, start.regime)
    listed = _list_unlabelled(settings.config.unlabelled, saved)
    if teacher.classes is None:
        ranges = start.preprocess.ranges
        teacher = replace(teacher, preprocess=replace(teacher.preprocess, ranges=ranges))
    teaching = replace(
        start,
        network=teacher.network,
        preprocess=teacher.preprocess,
        extracts_features=True,
        extraction=replace(start.extraction, network_id=teacher.network_id),
    )
    extractor = build_extractor(dataset.root, teaching, context, dtype=torch.float16)
    online = teacher_views is TeacherViews.ONLINE
    table = _extract_teacher_features(
        extractor, start.extraction, dataset, extracted, listed, context, is_cached=not online
    )
    unlabelled, skipped = _select_unlabelled(
        listed, dataset, extracted, extractor.extracted, context, saved
    )
    head = _teacher_head(teacher, dataset, extracted, table, settings.config.seed, context, saved)
    student = None
    if unlabelled is not None and start.regime is Regime.HEAD:
        student = _extract_student_features(start, unlabelled, context)
    teacher_data = TeacherData(
        name=teacher.name,
        digest=teacher.digest,
        head=head,
        table=table,
        online=OnlineFeatures(extractor.computer, start.preprocess, teacher.preprocess)
        if online and extractor.computer
        else None,
        unlabelled=unlabelled,
        student=student,
        terms=terms,
    )
    return settings, replace(dataset, skipped=(*dataset.skipped, *skipped)), teacher_data


def _list_unlabelled(folder: str | None, saved: Checkpoint | None) -> UnlabelledImages | None:
    """List the unlabelled images, in a new run without digests."""
    if folder is None:
        return None
    root = Path(folder)
    if saved is not None:
        return read_unlabelled(RunFolder(saved.path.parent).unlabelled, root)
    return UnlabelledImages(root, tuple(scan_unlabelled(root)), ())


def _extract_teacher_features(
    extractor: FeatureExtractor,
    options: ExtractionOptions,
    dataset: FolderIndex,
    extracted: ExtractedFeatures,
    listed: UnlabelledImages | None,
    context: Context,
    *,
    is_cached: bool,
) -> FeatureTable:
    """Extract the teacher's features of training, validation and unlabelled images."""
    both = (PLAIN, MIRROR) if is_cached and options.mirror else (PLAIN,)
    needed = [  # the others are scored by another command
        one for one in dataset.images if one.split != TEST or options.split.test
    ]
    views: dict[str, tuple[bytes, ...]] = {
        one.path: both if one.split == TRAIN else (PLAIN,) for one in needed
    }
    if listed is not None:
        views |= {str(file): both if is_cached else () for file in listed.files}
    task = "extracting features of the teacher"
    by_teacher = _extract(list(views), lambda file, _: views[file], extractor, context, task)
    table = by_teacher.features
    assert table is not None
    for image in needed:
        if extracted.digests[image.path] + PLAIN not in table:
            raise _changed_image(dataset.root / image.path, by_teacher.errors.get(image.path))
    return table


def _extract_student_features(
    start: StartingModel, images: UnlabelledImages, context: Context
) -> FeatureTable | None:
    """Extract the frozen student's features of the unlabelled images."""
    views = (PLAIN, MIRROR) if start.extraction.mirror else (PLAIN,)
    extractor = build_extractor(images.root, start, context)
    task = "extracting features of unlabelled images"
    extracted = _extract(images.paths, lambda *_: views, extractor, context, task)
    for path, digest in zip(images.paths, images.digests, strict=True):
        if extracted.digests.get(path) != digest:
            raise _changed_image(images.root / path, extracted.errors.get(path))
    return extracted.features


def _extract(
    files: Sequence[str],
    views_of: ViewsOf,
    extractor: FeatureExtractor,
    context: Context,
    task: str,
) -> ExtractedFeatures:
    """Extract the features of files; those computed are cached whatever ends it."""
    with closing(extractor):
        extractor.extract(files, views_of, task)
        context.stop.check()
    return extractor.extracted


def _select_unlabelled(
    listed: UnlabelledImages | None,
    dataset: FolderIndex,
    extracted: ExtractedFeatures,
    extracted_by_teacher: ExtractedFeatures,
    context: Context,
    saved: Checkpoint | None,
) -> tuple[UnlabelledImages | None, list[SkippedFile]]:
    """Return the unlabelled images to train on, and those that cannot be read.

    Copies of validation and test images are excluded, whatever their names.
    """
    if listed is None:
        return None, []
    digests = [extracted_by_teacher.digests.get(str(file)) for file in listed.files]
    errors = extracted_by_teacher.errors
    if saved is not None:
        for file, digest, expected in zip(listed.files, digests, listed.digests, strict=True):
            if digest != expected:
                raise _changed_image(file, errors.get(str(file)), saved.path.parent)
        return listed, []
    skipped = [
        SkippedFile(str(file), errors.get(str(file), "not read"))
        for file, digest in zip(listed.files, digests, strict=True)
        if digest is None
    ]
    held_out = {extracted.digests[one.path] for one in dataset.images if one.split in (VAL, TEST)}
    selected = [
        (path, digest)
        for path, digest in zip(listed.paths, digests, strict=True)
        if digest is not None and digest not in held_out
    ]
    leaks = len(digests) - len(skipped) - len(selected)
    if leaks:
        context.report.note(
            f"{leaks:,} unlabelled images excluded: copies of validation or test images"
        )
    if not selected:
        raise DataError(
            f"images to train on in '{listed.root}'",
            found=f"{len(skipped):,} unreadable, {leaks:,} copies of validation or test images",
            hint="another --unlabelled DIR, or none",
        )
    context.report.note(f"{len(selected):,} unlabelled training images in '{listed.root}'")
    paths, contents = zip(*selected, strict=True)
    return UnlabelledImages(listed.root, paths, contents), skipped


def _teacher_head(
    teacher: Teacher,
    dataset: FolderIndex,
    extracted: ExtractedFeatures,
    table: FeatureTable,
    seed: int,
    context: Context,
    saved: Checkpoint | None,
) -> nn.Linear:
    """Return the teacher's own head, or fit a linear probe on its features, once in a run."""
    report, count = context.report, len(dataset.classes)
    if teacher.classes is not None:
        report.note(f"teacher: {teacher.name}, with its own head of {count} classes")
        return extract_head(teacher, dataset.classes)
    if saved is not None:
        return load_teacher_head(saved)

    def features_of(images: Sequence[ImageFile]) -> torch.Tensor:
        return table.gather([extracted.digests[one.path] + PLAIN for one in images])

    features = FeatureBatches(
        train_features=features_of(dataset.of(TRAIN))[None],
        train_targets=torch.tensor(dataset.targets(TRAIN)),
        val_features=features_of(dataset.of(VAL)),
        val_targets=torch.tensor(dataset.targets(VAL), dtype=torch.int64),
        batch_size=1,
        seed=seed,
    )
    fitted = fit_baseline(features, count, Schedule(epochs=1), seed=seed)
    scored = format_percent(fitted.accuracy)
    accuracy = f", validation accuracy {scored}" if features.val_count else ""
    report.note(f"teacher: {teacher.name}, with a linear probe as its head{accuracy}")
    head = nn.Linear(fitted.probe.linear.in_features, count).requires_grad_(False)
    fitted.probe.copy_to(head)
    return head


def _changed_image(file: Path, why: str | None, run: Path | None = None) -> SwinclfError:
    """Return the error for an image that is missing or has changed."""
    found = why or "its content has changed"
    if run is None:
        return DataError(f"an unchanged '{file}'", found=found, hint="run the same command again")
    return RunError(
        f"the unlabelled images that '{run}' started with",
        found=f"{file}: {found}",
        hint=f"restore it, or give their current folder: swinclf train --resume {quoted(run)} "
        "--unlabelled DIR",
    )


def build_objective(teacher_data: TeacherData, plan: Plan, device: str) -> Distillation:
    """Build the distillation loss, on the training device."""
    table, terms = teacher_data.table, teacher_data.terms
    labelled = [plan.extracted.digests[one.path] for one in plan.dataset.of(TRAIN)]
    digests = [*labelled, *(teacher_data.unlabelled.digests if teacher_data.unlabelled else ())]
    teacher: CachedFeatures | OnlineFeatures
    if teacher_data.online is not None:
        teacher = teacher_data.online
    else:
        views = (PLAIN, MIRROR) if plan.config.mirror else (PLAIN,)
        rows = table.rows([digest + view for view in views for digest in digests])
        teacher = CachedFeatures(table.whole, rows)
    sample = labelled[:: 1 + len(labelled) // STANDARDISED_ON]
    return Distillation(
        teacher,
        teacher_data.head,
        table.gather([digest + PLAIN for digest in sample]),
        terms,
        linear_classifiers(plan.start.network)[0].in_features if terms.features else 0,
    ).to(device)


def score_teacher(plan: Plan, rows: Sequence[PredictionRow]) -> TeacherScores | None:
    """Score the teacher on the images that the student was scored on; None without a teacher."""
    teacher_data = plan.teacher_data
    if teacher_data is None:
        return None
    predicted = [
        plan.dataset.classes[index]
        for part in batched(rows, SCORED_AT_ONCE)
        for index in _teacher_predictions(teacher_data, plan, part)
    ]
    outcomes = [
        (name == row.label, row.is_right) for name, row in zip(predicted, rows, strict=True)
    ]
    same = sum(name == row.predicted for name, row in zip(predicted, rows, strict=True))
    return TeacherScores.from_outcomes(teacher_data.name, outcomes, same / len(rows))


def _teacher_predictions(
    teacher_data: TeacherData, plan: Plan, rows: Sequence[PredictionRow]
) -> list[int]:
    """Return the indices of the classes that the teacher predicts for images, N > 0."""
    features = teacher_data.table.gather([plan.extracted.digests[one.path] + PLAIN for one in rows])
    indices: list[int] = teacher_data.head(features).argmax(dim=1).tolist()
    return indices
