"""The images of an interrupted run, wherever they are now."""

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
from swinclf.data.split_file import read_split
from swinclf.errors import RunError
from swinclf.files import read_csv, read_json, write_json
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings, command_of
from swinclf.training.feature_extraction import Look
from swinclf.training.resume_guard import Origin, image_digests


def find_run_images(
    run: RunFolder, settings: Settings, origin: Origin
) -> tuple[Settings, FolderIndex]:
    """Return the images of an interrupted run, each in its split, and what it does without.

    They are looked for in the folder that the settings name, which may be a new one, or as far from
    the run as they were: by their paths, and where these are none, by their content.

    Args:
        run: The run.
        settings: Its own, with the folder that was named.
        origin: What the run was begun with.

    Returns:
        The settings with the folder where the images are, and the images.

    Raises:
        DataError: If there is no folder of the name that was given.
        RunError: If the run's tables cannot be read, or not all images are there.
    """
    images = read_split(run.split)
    named, recorded = Path(settings.config.data), recorded_folders(run)
    is_given = named.resolve() not in [folder.resolve() for folder in recorded[:1]]
    if is_given:
        list_folder(named)
    folders = [named.resolve()] if is_given else [one for one in recorded if one.is_dir()]
    for root in folders:
        if not missing_paths(root, images):
            return _found(run, settings, root, images)
    best: list[ImageFile] | None = None
    for root in folders:
        found, missing = find_by_content(root, _val_of(settings), images, digests_of(origin))
        if not missing:
            return _found(run, settings, root, tuple(found))
        best = missing if best is None or len(missing) < len(best) else best
    raise _not_found(run, named, recorded if is_given else [], best, len(images))


def images_by_content(
    settings: Settings, index: FolderIndex, origin: Origin, look: Look
) -> FolderIndex:
    """Return the images under the paths that their content has now, where files changed names.

    Args:
        settings: With the folder where the images are.
        index: The images, by their paths.
        origin: What the run was begun with.
        look: What became of the files.

    Returns:
        The same index if all contents are as they were, or not all can be found.
    """
    dataset = Dataset(index.root, index.classes, index.images, index.skipped)
    if not look.errors and bool((image_digests(dataset, look.digests) == origin.images).all()):
        return index
    found, missing = find_by_content(
        index.root, _val_of(settings), index.images, digests_of(origin)
    )
    return index if missing else replace(index, images=tuple(found))


def digests_of(origin: Origin) -> list[bytes]:
    """Return the content digest of each of a run's images."""
    return [row.tobytes() for row in origin.images.numpy()]


def renamed_in_words(before: tuple[ImageFile, ...], now: tuple[ImageFile, ...]) -> list[str]:
    """Return what has changed of the images' paths, a line, or none."""
    changed = [
        (one.path, other) for one, other in zip(before, now, strict=True) if one.path != other.path
    ]
    if not changed:
        return []
    first = f"{changed[0][0]} -> {changed[0][1].path}"
    notes = [f"{len(changed):,} images have other paths, e.g. {first} (changes no bit)"]
    others = [image for _, image in changed if image.label not in image.path.split("/")[:-1]]
    if others:
        notes.append(
            f"{len(others):,} of these are in another class folder, e.g. {others[0].path}: "
            f"{others[0].label!r} for this run, as when it began"
        )
    return notes


def record_folder(run: RunFolder, settings: Settings) -> None:
    """Write into a run's settings where its images and weights are, to find them from now on.

    Raises:
        RunError: If the file cannot be written.
    """
    config, now = read_json(run.config), settings.config
    new = {name: getattr(now, name) for name in ("data", "val", "weights", "teacher", "unlabelled")}
    new[FROM_RUN] = path_from_run(Path(now.data), run)
    if any(config.get(name) != value for name, value in new.items()):
        write_json(run.config, {**config, **new, "command": command_of(settings)})


def _found(
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


def _val_of(settings: Settings) -> list[Path]:
    val = settings.config.val
    return [Path(val).resolve()] if val and Path(val).is_dir() else []


def _not_found(
    run: RunFolder,
    named: Path,
    recorded: list[Path],
    missing: list[ImageFile] | None,
    count: int,
) -> RunError:
    """Return the error for images that are not all there.

    Args:
        run: The run.
        named: The folder that was looked into.
        recorded: Where they should be, if another folder was named.
        missing: The images that are not there; None if there is no folder.
        count: Of all images.
    """
    images = read_split(run.split)
    where_they_are = next((one for one in recorded if not missing_paths(one, images)), None)
    if missing is None:
        found = f"no folder '{named}' any more"
    else:
        first = missing[0].path
        folder = (named / first).parent
        why = "" if folder.is_dir() else f": no folder '{folder}' any more"
        found = f"{len(missing):,} of them not in '{named}', by name or content, e.g. {first}{why}"
    if where_they_are is not None:
        hint = f"swinclf train --resume '{run.path}', which finds them in '{where_they_are}'"
    else:
        hint = (
            f"swinclf train DATA --resume '{run.path}', with the folder that holds all of them now "
            "as DATA; or a new run: swinclf train DATA"
        )
    return RunError(
        f"the {count:,} images that '{run.path}' was begun with", found=found, hint=hint
    )
