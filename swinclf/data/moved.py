"""Where the images of a run are now: its dataset may have moved, alone or together with the run.

Images are known by their content; a path is only the first place to look at.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swinclf.data.digests import digest_files
from swinclf.data.folder import ImageFile
from swinclf.data.walk import walk_images
from swinclf.files import read_json
from swinclf.run_folder import RunFolder

SAMPLED = 200  # images by whose content a dataset is recognised under another path
FROM_RUN = "data_from_run"  # in config.json: the dataset's folder, relative to the run's


def path_from_run(data: Path, run: RunFolder) -> str:
    """Return a dataset's folder relative to a run's; empty on another drive."""
    try:
        return os.path.relpath(data.resolve(), run.path.resolve())
    except ValueError:
        return ""


def recorded_folders(run: RunFolder) -> list[Path]:
    """Return where the dataset of a run should be: where it was, or as far from the run as it was.

    Raises:
        RunError: If the run's settings cannot be read.
    """
    config = read_json(run.config)
    data, from_run = config.get("data"), config.get(FROM_RUN)
    found = [Path(data)] if isinstance(data, str) and data else []
    if isinstance(from_run, str) and from_run:
        moved = Path(os.path.normpath(run.path.resolve() / from_run))
        found += [moved] if moved not in found else []
    return found


def sampled(images: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """Return about 200 images, at equal distances in the list."""
    return images[:: max(1, len(images) // SAMPLED)]


def content_sample(images: Sequence[ImageFile], digests: Mapping[str, bytes]) -> list[str]:
    """Return the first digits of the content digests of the images that `sampled` selects.

    Args:
        images: The dataset, in the order of split.csv.
        digests: The content digest of each, by path.
    """
    return [digests[image.path].hex()[:8] for image in sampled(images)]


def missing_by_name(root: Path, images: Iterable[ImageFile]) -> list[ImageFile]:
    """Return the images whose paths are no files."""
    return [image for image in images if not (root / image.path).is_file()]


def find_by_content(
    root: Path, others: Sequence[Path], images: Sequence[ImageFile], digests: Sequence[bytes]
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Look for images by their content, whatever the files are called now.

    Args:
        root: The dataset's folder now; paths are relative to it.
        others: Further folders that may hold images.
        images: The images, by the paths that they had.
        digests: The content digest of each.

    Returns:
        The images in their order, each with its path now, and those that are not found.
    """
    files = {
        os.path.relpath(path, root).replace(os.sep, "/")
        for folder in (root, *others)
        for path in walk_images(str(folder))
    }
    now, _ = digest_files(root, sorted(files))
    places: dict[bytes, list[str]] = defaultdict(list)
    for path, digest in now.items():
        places[digest].append(path)
    found, missing = [], []
    free = {digest: set(paths) for digest, paths in places.items()}
    for image, digest in zip(images, digests, strict=True):
        if digest not in places:
            missing.append(image)
            continue
        # Of copies each takes one of its own, as long as there are enough of them.
        among = free[digest] or set(places[digest])
        path = min(among, key=lambda path: (_unlikeness(path, image), path))
        free[digest].discard(path)
        found.append(replace(image, path=path))
    return found, missing


def _unlikeness(path: str, image: ImageFile) -> int:
    """Return how little a path is like the one that an image had: 0 for the same."""
    if path == image.path:
        return 0
    is_same_class = image.label in path.split("/")[:-1]
    is_same_name = path.rpartition("/")[2] == image.path.rpartition("/")[2]
    return 3 - 2 * is_same_class - is_same_name + (not is_same_class and not is_same_name)
