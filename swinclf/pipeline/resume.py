"""Resumable runs: create a run, load an interrupted one and locate its images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swinclf.config import SETTINGS
from swinclf.data.dataset_layout import list_folder
from swinclf.data.folder import FolderIndex, ImageFile, SkippedFile
from swinclf.data.relocate import (
    FROM_RUN,
    find_by_content,
    missing_paths,
    path_from_run,
    recorded_folders,
    sampled,
)
from swinclf.data.split import read_split, write_split
from swinclf.data.unlabelled import write_unlabelled
from swinclf.device import default_workers, versions
from swinclf.errors import Interrupted, RunError
from swinclf.files import cannot_write, file_digest, read_csv, read_json, write_json
from swinclf.inference.results import write_skipped
from swinclf.pipeline.extract_features import extract_features
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.starting_model import StartingModel
from swinclf.reporting.report_data import FindingSummary
from swinclf.run_folder import RunClaim, RunFolder
from swinclf.settings import Settings, Source, command_of, gather_settings
from swinclf.shell_quoting import command_line, quoted
from swinclf.training.checkpoint import (
    Checkpoint,
    read_checkpoint,
    save_checkpoint,
    use_previous_checkpoint,
)
from swinclf.training.feature_extraction import ExtractedFeatures
from swinclf.training.logistic_regression import Baseline
from swinclf.training.resume_guard import (
    RunFingerprint,
    check_images,
    check_settings,
    image_digests,
    machine_record,
    settings_record,
)
from swinclf.training.state import TrainState


def create_run(
    plan: Plan,
    claim: RunClaim,
    baseline: Baseline | None,
    state: TrainState,
    findings: Sequence[FindingSummary],
) -> RunFingerprint:
    """Write the run's files and its first checkpoint, and publish the folder as a run.

    `claim` is a draft of its folder, `state` that before the first step, `baseline` None without
    features.

    Raises:
        RunError: If a file cannot be written; then no run is created.
    """
    run, dataset = claim.run, plan.dataset
    record: dict[str, Any] = {
        "command": command_of(plan.settings),
        "versions": versions(),
        FROM_RUN: path_from_run(dataset.root, run),
    }
    if plan.start.loaded is not None:
        record["weights_loaded"] = plan.start.loaded.to_dict()
    teacher_data = plan.teacher_data
    if teacher_data is not None:
        record["teacher_digest"] = teacher_data.digest
    write_json(run.config, {**plan.settings.to_dict(), **record})
    write_json(run.class_indices, {str(n): name for n, name in enumerate(dataset.classes)})
    write_split(run.split, dataset.images)
    if teacher_data is not None and teacher_data.unlabelled is not None:
        write_unlabelled(run.unlabelled, teacher_data.unlabelled)
    if dataset.skipped:
        write_skipped(run.skipped, [(one.path, one.reason) for one in dataset.skipped])
    if baseline is not None:
        write_json(run.baseline, baseline.to_dict())
    files = [path for path in (run.split, run.class_indices, run.unlabelled) if path.is_file()]
    fingerprint = RunFingerprint(
        settings=settings_record(plan.settings),
        versions=record["versions"],
        machine=machine_record(plan.config.device),
        files={path.name: file_digest(path) for path in files},
        network=plan.start.frozen_digest,
        images=image_digests(dataset, plan.extracted.digests),
        findings=findings,
        ranges=plan.start.preprocess.to_dict().get("ranges", {}),
        teacher=record.get("teacher_digest", ""),
    )
    save_checkpoint(run, state, fingerprint)
    claim.publish()
    return fingerprint


def resume_settings(run: RunFolder, given: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of an interrupted run, exactly as they were resolved.

    `given` has new values of `MOVABLE` settings, by name; these do not change the result.

    Raises:
        RunError: If there is nothing to resume.
    """
    has_state = run.checkpoint.is_file() or run.previous_checkpoint.is_file()
    if run.is_finished and not has_state:  # with a checkpoint, the end was interrupted
        raise RunError(
            f"an interrupted run at '{run.path}'",
            found="a finished one",
            hint="to start a new run from its weights: "
            f"swinclf train DATA --weights {quoted(run.path)}",
        )
    if not has_state:
        raise RunError(
            f"a checkpoint of the run, '{run.checkpoint}'",
            found="none: the run stopped before the first checkpoint",
            hint="swinclf train DATA",
        )
    try:
        saved: Mapping[str, Any] = json.loads(run.config.read_text(encoding="utf-8"))
        values = {name: saved[name] for name in SETTINGS}
        sources = {name: Source(saved["sources"][name]) for name in SETTINGS}
        reasons = dict(saved["reasons"])
        if sources["workers"] is Source.AUTO:
            values["workers"] = default_workers()  # of this machine and number of processes
        values |= given or {}
        sources |= dict.fromkeys(given or {}, Source.FLAG)
    except KeyError as error:
        raise RunError(
            f"every setting of the run in '{run.config}'",
            found=f"no {error}: the run was started by another version of swinclf",
            hint="resume it with that version, or start a new run: swinclf train DATA",
        ) from error
    except (OSError, TypeError, ValueError) as error:
        raise RunError(
            f"the settings of a run in '{run.config}'",
            found=f"{type(error).__name__}: {error}",
            hint="swinclf train DATA",
        ) from error
    # Recorded values that cannot be given: --freeze-layers with --freeze-stages, 0 epochs, and
    # --folds with the default of --val-split.
    recorded = {}
    if values["freeze_stages"] is not None:
        recorded = {"freeze_layers": values.pop("freeze_layers")}
    elif values["epochs"] == 0:
        recorded = {name: values.pop(name) for name in ("epochs", "lr")}
    if values["folds"]:
        recorded["folds"] = values.pop("folds")
    return Settings(replace(gather_settings(values).config, **recorded), sources, reasons)


@dataclass(frozen=True)
class ResumedRun:
    """An interrupted run, loaded to be resumed."""

    saved: Checkpoint
    settings: Settings  # its settings, with the current folder of its images
    index: FolderIndex  # its images, each in its split, and its skipped files
    changes: list[str]  # harmless changes since it began, a line each


def resume_state(run: RunFolder, settings: Settings, context: Context) -> ResumedRun:
    """Load an interrupted run, which is claimed; warn if its newest checkpoint cannot be read.

    Raises:
        RunError, WeightsError: If no checkpoint can be read, or the run has been changed.
        DataError: If a given folder does not exist.
    """
    saved = read_checkpoint(run)
    settings, index = _find_run_images(run, settings, saved.fingerprint)
    changes = check_settings(saved.fingerprint, settings, run, context.hardware.device)
    if saved.newer_error:
        context.report.warn(
            f"{run.checkpoint} cannot be read ({saved.newer_error}): "
            "resuming from the previous checkpoint"
        )
        use_previous_checkpoint(run)
    return ResumedRun(saved, settings, index, changes)


def extract_run_features(
    run: RunFolder, settings: Settings, resumed: ResumedRun, start: StartingModel, context: Context
) -> tuple[ExtractedFeatures, FolderIndex, list[str]]:
    """Extract the features of a run's images, also of renamed ones.

    The settings, with the defaults of machine and network, are written again if the images have
    moved. Returned last are the harmless changes since the run began, a line each.

    Raises:
        RunError: If an image of the run is missing or has changed.
        Interrupted: If a signal asked to stop.
    """
    fingerprint, index = resumed.saved.fingerprint, resumed.index
    extracted, dataset = extract_features(index, start, context, is_resumed=True)
    now = _images_by_content(settings, index, fingerprint, extracted)
    if now is not index:
        extracted, dataset = extract_features(now, start, context, is_resumed=True)
    renamed = _describe_renames(read_split(run.split), dataset.images)
    others = check_images(fingerprint, dataset, extracted.digests, extracted.errors, run)
    _record_folder(run, settings)
    return extracted, dataset, [*resumed.changes, *renamed, *others]


def resume_command(run: RunFolder) -> str:
    """Return the command that resumes a run."""
    return f"swinclf train --resume {command_line([str(run.path)])}"


@contextmanager
def add_resume_hint(run: RunFolder) -> Iterator[None]:
    """Add the command to resume a run to any error or interruption inside the block."""
    try:
        yield
    except Interrupted as interrupted:
        raise Interrupted(interrupted.exit_code, resume_command(run)) from None
    except (RunError, OSError) as error:
        named = Path(getattr(error, "filename", None) or run.path / "a file")
        cause = error if isinstance(error, RunError) else cannot_write(named, error)
        hint = f"fix that, then: {resume_command(run)}"
        if not run.checkpoint.is_file():  # the folder itself is gone
            hint = "start again: swinclf train DATA"
        raise RunError(cause.expected, found=cause.found, hint=hint) from error


def _find_run_images(
    run: RunFolder, settings: Settings, fingerprint: RunFingerprint
) -> tuple[Settings, FolderIndex]:
    """Locate the images of an interrupted run, by path, else by content.

    They are searched in the folder of the settings, which may be a new one, and at the recorded
    path relative to the run.

    The returned settings have the images' folder; each image is in its split.

    Raises:
        DataError: If a given folder does not exist.
        RunError: If the run's tables cannot be read, or images are missing.
    """
    images = read_split(run.split)
    named, recorded = Path(settings.config.data), recorded_folders(run)
    is_given = named.resolve() not in [folder.resolve() for folder in recorded[:1]]
    if is_given:
        list_folder(named)
    folders = [named.resolve()] if is_given else [one for one in recorded if one.is_dir()]
    for root in folders:
        # Each image is read later anyway; then one that is missing is searched by its content.
        if not missing_paths(root, sampled(images)):
            return _located_index(run, settings, root, images)
    best: list[ImageFile] | None = None
    for root in folders:
        found, missing = find_by_content(
            root, _val_folders(settings), images, _stored_digests(fingerprint)
        )
        if not missing:
            return _located_index(run, settings, root, tuple(found))
        best = missing if best is None or len(missing) < len(best) else best
    raise _not_found(run, named, recorded if is_given else [], best, len(images))


def _images_by_content(
    settings: Settings,
    index: FolderIndex,
    fingerprint: RunFingerprint,
    extracted: ExtractedFeatures,
) -> FolderIndex:
    """Return the images with the current paths of their content, for renamed files.

    The same index if no content has changed, or not all contents are found.
    """
    if not extracted.errors and bool(
        (image_digests(index, extracted.digests) == fingerprint.images).all()
    ):
        return index
    found, missing = find_by_content(
        index.root, _val_folders(settings), index.images, _stored_digests(fingerprint)
    )
    return index if missing else replace(index, images=tuple(found))


def _stored_digests(fingerprint: RunFingerprint) -> list[bytes]:
    """Return the content digest of each of a run's images."""
    return [row.tobytes() for row in fingerprint.images.numpy()]


def _describe_renames(before: tuple[ImageFile, ...], now: tuple[ImageFile, ...]) -> list[str]:
    """Return lines that describe renamed images; none without any."""
    changed = [
        (one.path, other) for one, other in zip(before, now, strict=True) if one.path != other.path
    ]
    if not changed:
        return []
    first = f"{changed[0][0]} -> {changed[0][1].path}"
    notes = [f"{len(changed):,} images have new paths, e.g. {first} (same result)"]
    others = [image for _, image in changed if image.label not in image.path.split("/")[:-1]]
    if others:
        notes.append(
            f"{len(others):,} of these are in another class folder, e.g. {others[0].path}: "
            f"still labelled {others[0].label!r} in this run"
        )
    return notes


def _record_folder(run: RunFolder, settings: Settings) -> None:
    """Record the current paths of images and weights in a run's settings.

    Raises:
        RunError: If the file cannot be written.
    """
    config, now = read_json(run.config), settings.config
    new = {name: getattr(now, name) for name in ("data", "val", "weights", "teacher", "unlabelled")}
    new[FROM_RUN] = path_from_run(Path(now.data), run)
    if any(config.get(name) != value for name, value in new.items()):
        write_json(run.config, {**config, **new, "command": command_of(settings)})


def _located_index(
    run: RunFolder, settings: Settings, root: Path, images: tuple[ImageFile, ...]
) -> tuple[Settings, FolderIndex]:
    skipped = read_csv(run.skipped) if run.skipped.is_file() else []
    index = FolderIndex(
        root=root,
        classes=tuple(map(str, read_json(run.class_indices).values())),
        images=images,
        skipped=tuple(SkippedFile(row["path"], row["reason"]) for row in skipped),
        has_val=True,
    )
    return replace(settings, config=replace(settings.config, data=str(root))), index


def _val_folders(settings: Settings) -> list[Path]:
    val = settings.config.val
    return [Path(val).resolve()] if val and Path(val).is_dir() else []


def _not_found(
    run: RunFolder, named: Path, recorded: list[Path], missing: list[ImageFile] | None, count: int
) -> RunError:
    """Return the error for missing images, of `count` in the run.

    `missing` is None if the folder `named`, which was searched, does not exist; `recorded` are the
    recorded folders if another one was given.
    """
    images = read_split(run.split)
    complete = next((one for one in recorded if not missing_paths(one, images)), None)
    if missing is None:
        found = f"the folder '{named}' is gone"
    else:
        first = missing[0].path
        folder = (named / first).parent
        why = "" if folder.is_dir() else f": the folder '{folder}' is gone"
        found = f"{len(missing):,} missing in '{named}', by path and content, e.g. {first}{why}"
    if complete is not None:
        hint = f"swinclf train --resume {quoted(run.path)}, which finds them in '{complete}'"
    else:
        hint = (
            f"swinclf train DATA --resume {quoted(run.path)}, with DATA as their folder; or start "
            "a new run: swinclf train DATA"
        )
    return RunError(f"the {count:,} images that '{run.path}' started with", found=found, hint=hint)
