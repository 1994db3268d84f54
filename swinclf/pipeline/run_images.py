"""The images of an interrupted run, located by path or by content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from swinclf.data.dataset import Dataset
from swinclf.data.dataset_layout import list_folder
from swinclf.data.folder import FolderIndex, ImageFile, SkippedFile
from swinclf.data.relocate import (
    FROM_RUN,
    find_by_content,
    missing_paths,
    path_from_run,
    recorded_folders,
)
from swinclf.data.split import read_split
from swinclf.errors import RunError
from swinclf.files import read_csv, read_json, write_json
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings, command_of
from swinclf.training.feature_extraction import ExtractedFeatures
from swinclf.training.resume_guard import RunFingerprint, image_digests


def find_run_images(
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
        if not missing_paths(root, images):
            return _located_index(run, settings, root, images)
    best: list[ImageFile] | None = None
    for root in folders:
        found, missing = find_by_content(
            root, _val_folders(settings), images, stored_digests(fingerprint)
        )
        if not missing:
            return _located_index(run, settings, root, tuple(found))
        best = missing if best is None or len(missing) < len(best) else best
    raise _not_found(run, named, recorded if is_given else [], best, len(images))


def images_by_content(
    settings: Settings,
    index: FolderIndex,
    fingerprint: RunFingerprint,
    extracted: ExtractedFeatures,
) -> FolderIndex:
    """Return the images with the current paths of their content, for renamed files.

    The same index if no content has changed, or not all contents are found.
    """
    dataset = Dataset(index.root, index.classes, index.images, index.skipped)
    if not extracted.errors and bool(
        (image_digests(dataset, extracted.digests) == fingerprint.images).all()
    ):
        return index
    found, missing = find_by_content(
        index.root, _val_folders(settings), index.images, stored_digests(fingerprint)
    )
    return index if missing else replace(index, images=tuple(found))


def stored_digests(fingerprint: RunFingerprint) -> list[bytes]:
    """Return the content digest of each of a run's images."""
    return [row.tobytes() for row in fingerprint.images.numpy()]


def describe_renames(before: tuple[ImageFile, ...], now: tuple[ImageFile, ...]) -> list[str]:
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


def record_folder(run: RunFolder, settings: Settings) -> None:
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
    run: RunFolder,
    named: Path,
    recorded: list[Path],
    missing: list[ImageFile] | None,
    count: int,
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
        hint = f"swinclf train --resume '{run.path}', which finds them in '{complete}'"
    else:
        hint = (
            f"swinclf train DATA --resume '{run.path}', with DATA as their folder; or start a "
            "new run: swinclf train DATA"
        )
    return RunError(f"the {count:,} images that '{run.path}' started with", found=found, hint=hint)
