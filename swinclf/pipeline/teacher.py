"""The teacher of a training: it is found, sees the images once, and is given a head if need be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from swinclf.config import TeacherViews
from swinclf.data.dataset import Dataset
from swinclf.data.folder import TEST, TRAIN, VAL, ImageFile, SkippedFile
from swinclf.data.unlabelled import UnlabelledImages, read_unlabelled, scan_unlabelled
from swinclf.device import fixed_batch_size, translate_out_of_memory
from swinclf.errors import DataError, ExitCode, Interrupted, RunError, SwinclfError
from swinclf.models.compute import Computer
from swinclf.pipeline.extract_features import known_features
from swinclf.pipeline.plan import Context, Teaching
from swinclf.pipeline.start import ExtractionOptions, Start
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings
from swinclf.training.batches import FeatureBatches
from swinclf.training.checkpoint import Checkpoint
from swinclf.training.defaults import Regime, choose_distillation
from swinclf.training.feature_extraction import (
    MIRROR,
    PLAIN,
    Known,
    Look,
    Looker,
    ViewsOf,
    open_known,
)
from swinclf.training.logistic_regression import fit_baseline
from swinclf.training.loop import Schedule
from swinclf.training.resume_guard import check_teacher
from swinclf.training.teacher import Teacher, check_classes, locate_teacher, open_teacher, own_head
from swinclf.training.teacher_features import CompactTable, OnlineFeatures

PLAIN_LOSS = Schedule(  # of a teacher's head: nothing but its class weights and smoothing is used
    epochs=1,
    lrf=1.0,
    warmup=0.0,
    clip_norm=0.0,
    label_smoothing=0.0,
    class_weights=None,
    patience=0,
)


def find_teacher(
    settings: Settings, classes: Sequence[str], saved: Checkpoint | None, context: Context
) -> tuple[Settings, Teacher | None]:
    """Builds the teacher, before an image is looked at.

    Args:
        settings: As asked for.
        classes: Of the dataset, as far as they are known.
        saved: What a resumed run goes on from.
        context: Where it runs.

    Returns:
        The settings with where the teacher and the unlabelled images are, and the teacher; None
        without one.

    Raises:
        SwinclfError: If there is no such teacher, its classes are others, or it is not the one that
            the resumed run was begun with.
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
            f"the teacher that '{run}' was begun with, '{named}'",
            found=error.found,
            hint=f"swinclf train --resume '{run}' --teacher RUN, with where it is now",
        ) from error
    if saved is not None:
        check_teacher(saved.origin, teacher.digest, saved.path.parent)
    unknown = set(teacher.classes or ()) - set(classes)
    if unknown:  # better known now than after all images have been read
        check_classes(teacher, classes)
    config = replace(settings.config, teacher=named, unlabelled=folder)
    return replace(settings, config=config), teacher


def teach(
    settings: Settings,
    teacher: Teacher | None,
    start: Start,
    dataset: Dataset,
    look: Look,
    context: Context,
    resumed: RunFolder | None,
) -> tuple[Settings, Dataset, Teaching | None]:
    """Shows the teacher, once, the images that its answers are wanted for.

    Args:
        settings: With what was chosen by machine and network.
        teacher: From `find_teacher`.
        start: The student.
        dataset: The labelled images.
        look: At them, by the student.
        context: Where it runs.
        resumed: The run that is gone on with.

    Returns:
        The settings with all about the teacher chosen; the dataset, with what of the unlabelled
        images had to be skipped; what there is to learn. None, and both as they are, without a
        teacher.

    Raises:
        SwinclfError: If the teacher has other classes, or an image has gone.
        Interrupted: If a signal asked to stop; what is known so far is kept in the cache.
    """
    if teacher is None:
        return settings, dataset, None
    check_classes(teacher, dataset.classes)
    settings, terms, teacher_views = choose_distillation(settings, start.regime)
    listed = _listed(settings.config.unlabelled, resumed)
    if teacher.classes is None:
        ranges = start.preprocess.ranges
        teacher = replace(teacher, preprocess=replace(teacher.preprocess, ranges=ranges))
    computer = Computer(teacher.network, context.hardware)
    online = teacher_views is TeacherViews.ONLINE
    seen, table = _look_as_teacher(
        start.extraction, teacher, computer, dataset, listed, context, is_cached=not online
    )
    unlabelled, skipped = _unlabelled(listed, dataset, look, seen, context, resumed)
    _check_seen(dataset, look, seen, table)
    head = _head(teacher, dataset, look, table, settings.config.seed, context)
    student: Look | None = None
    if unlabelled is not None and start.regime is Regime.HEAD:
        student = _look_as_student(start, unlabelled, context)
    teaching = Teaching(
        name=teacher.name,
        digest=teacher.digest,
        head=head,
        table=table,
        online=OnlineFeatures(computer, start.preprocess, teacher.preprocess) if online else None,
        unlabelled=unlabelled,
        student=student.features if student else None,
        terms=terms,
    )
    return settings, replace(dataset, skipped=(*dataset.skipped, *skipped)), teaching


def _listed(folder: str | None, resumed: RunFolder | None) -> UnlabelledImages | None:
    """The unlabelled images, of a new run without their digests."""
    if folder is None:
        return None
    root = Path(folder)
    if resumed is not None:
        return read_unlabelled(resumed.unlabelled, root)
    return UnlabelledImages(root, tuple(scan_unlabelled(root)), ())


def _look_as_teacher(
    options: ExtractionOptions,
    teacher: Teacher,
    computer: Computer,
    dataset: Dataset,
    listed: UnlabelledImages | None,
    context: Context,
    *,
    is_cached: bool,
) -> tuple[Look, CompactTable]:
    """Computes the teacher's features of every image that is scored or learned from them."""
    both = (PLAIN, MIRROR) if is_cached and options.mirror else (PLAIN,)
    views: dict[str, tuple[bytes, ...]] = {
        one.path: both if one.split == TRAIN else (PLAIN,)
        for one in dataset.images
        if one.split != TEST
    }
    if listed is not None:
        views |= {str(file): both if is_cached else () for file in listed.files}
    table = CompactTable(sum(map(len, views.values())))
    known = open_known(
        teacher.network,
        teacher.described,
        teacher.preprocess,
        context.hardware,
        limit_bytes=options.cache_bytes,
        say=context.report.note,
        dtype=torch.float16,
    )
    seen = _looked(
        list(views),
        lambda file, _: views[file],
        Looker(
            dataset.root,
            teacher.preprocess,
            computer,
            context.hardware,
            workers=options.workers,
            report=context.report,
            stop=context.stop,
            known=known if options.is_cached else Known(),
            table=table,
        ),
        context,
        "features of the teacher",
    )
    return seen, table


def _look_as_student(start: Start, images: UnlabelledImages, context: Context) -> Look:
    """Computes what the frozen student sees in the unlabelled images."""
    options = start.extraction
    views = (PLAIN, MIRROR) if options.mirror else (PLAIN,)
    looker = Looker(
        images.root,
        start.preprocess,
        Computer(start.network, context.hardware),
        context.hardware,
        workers=options.workers,
        report=context.report,
        stop=context.stop,
        known=known_features(start, context),
    )
    task = "features of unlabelled images"
    seen = _looked(images.paths, lambda *_: views, looker, context, task)
    for path, digest in zip(images.paths, images.digests, strict=True):
        if seen.digests.get(path) != digest:
            raise _gone(images.root / path, seen.errors.get(path))
    return seen


def _looked(
    files: Sequence[str],
    views_of: ViewsOf,
    looker: Looker,
    context: Context,
    task: str,
) -> Look:
    """Looks at files; what was computed is kept on disk whatever ends it."""
    with closing(looker), translate_out_of_memory(fixed_batch_size(context.hardware.device)):
        looker.look(files, views_of, task)
        if context.stop:
            raise Interrupted(context.stop.exit_code or ExitCode.INTERRUPTED)
    return looker.seen


def _unlabelled(
    listed: UnlabelledImages | None,
    dataset: Dataset,
    look: Look,
    seen: Look,
    context: Context,
    resumed: RunFolder | None,
) -> tuple[UnlabelledImages | None, list[SkippedFile]]:
    """The unlabelled images to train on, and those that cannot be read.

    An image that the run is scored on is none to train on, under whatever name it lies there.
    """
    if listed is None:
        return None, []
    digests = [seen.digests.get(str(file)) for file in listed.files]
    if resumed is not None:
        for file, digest, wanted in zip(listed.files, digests, listed.digests, strict=True):
            if digest != wanted:
                raise _gone(file, seen.errors.get(str(file)), resumed)
        return listed, []
    skipped = [
        SkippedFile(str(file), seen.errors.get(str(file), "not read"))
        for file, digest in zip(listed.files, digests, strict=True)
        if digest is None
    ]
    scored = {look.digests[one.path] for one in dataset.images if one.split in (VAL, TEST)}
    kept = [
        (path, digest)
        for path, digest in zip(listed.paths, digests, strict=True)
        if digest is not None and digest not in scored
    ]
    leaks = len(digests) - len(skipped) - len(kept)
    if leaks:
        context.report.note(
            f"{leaks:,} unlabelled images left out: the same files are among the images to check "
            "or to test with"
        )
    if not kept:
        raise DataError(
            f"images in '{listed.root}' that can be trained on",
            found=f"{len(skipped):,} unreadable, {leaks:,} among those to check or to test with",
            hint="another --unlabelled DIR, or none",
        )
    context.report.note(f"{len(kept):,} unlabelled images to train on, in '{listed.root}'")
    paths, contents = zip(*kept, strict=True)
    return UnlabelledImages(listed.root, paths, contents), skipped


def _check_seen(dataset: Dataset, look: Look, seen: Look, table: CompactTable) -> None:
    """Refuses to go on where the teacher could not see what the student saw."""
    for image in dataset.images:
        if image.split != TEST and look.digests[image.path] + PLAIN not in table:
            raise _gone(dataset.root / image.path, seen.errors.get(image.path))


def _head(
    teacher: Teacher,
    dataset: Dataset,
    look: Look,
    table: CompactTable,
    seed: int,
    context: Context,
) -> nn.Linear:
    """The teacher's head: its own, or a linear probe on its features of the training images."""
    report, count = context.report, len(dataset.classes)
    if teacher.classes is not None:
        report.note(f"teacher: {teacher.name}, with its own head of {count} classes")
        return own_head(teacher, dataset.classes)

    def seen(images: Sequence[ImageFile]) -> torch.Tensor:
        return table.gather([look.digests[one.path] + PLAIN for one in images])

    features = FeatureBatches(
        train_features=seen(dataset.of(TRAIN))[None],
        train_targets=torch.tensor(dataset.targets(TRAIN)),
        val_features=seen(dataset.of(VAL)),
        val_targets=torch.tensor(dataset.targets(VAL), dtype=torch.int64),
        batch_size=1,
        seed=seed,
    )
    fitted = fit_baseline(features, count, PLAIN_LOSS, seed=seed, stop=context.stop)
    right = f", {fitted.accuracy:.1%} of held-out images right" if features.val_count else ""
    report.note(f"teacher: {teacher.name}, with a linear probe as its head{right}")
    probe = fitted.probe
    head = nn.Linear(probe.linear.in_features, count).requires_grad_(False)
    head.weight.copy_(probe.linear.weight / probe.std)
    head.bias.copy_(probe.linear.bias - head.weight @ probe.mean)
    return head


def _gone(file: Path, why: str | None, run: RunFolder | None = None) -> SwinclfError:
    """The error for an image that is not what it was."""
    found = why or "its content is another one now"
    if run is None:
        return DataError(f"to read '{file}', as before", found=found, hint="the same command again")
    return RunError(
        f"the unlabelled images that '{run.path}' was begun with",
        found=f"{file}: {found}",
        hint=f"put it back, or say where they are: swinclf train --resume '{run.path}' "
        "--unlabelled DIR",
    )
