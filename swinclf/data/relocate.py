"""Locating the images of a run whose dataset has moved, alone or together with the run.

Images are identified by their content; the path is only a first guess.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swinclf.data.cifar import is_image_file
from swinclf.data.folder import ImageFile
from swinclf.data.loader import digest_files
from swinclf.data.walk import relative_path, walk_images
from swinclf.files import read_json
from swinclf.run_folder import RunFolder

SAMPLED = 200  # images by whose content a dataset is recognised under another path
FROM_RUN = "data_from_run"  # in config.json: the dataset's folder, relative to the run's


def path_from_run(data: Path, run: RunFolder) -> str:
    """Return a dataset's folder relative to a run's; empty on another drive."""
    try:
        return os.path.relpath(data.resolve(), run.path.resolve()).replace(os.sep, "/")
    except ValueError:
        return ""


def recorded_folders(run: RunFolder) -> list[Path]:
    """Return candidates for the dataset of a run: its old path, or the same relative path."""
    config = read_json(run.config)
    data, from_run = config.get("data"), config.get(FROM_RUN)
    found = [Path(data)] if isinstance(data, str) and data else []
    if isinstance(from_run, str) and from_run:
        for way in (from_run, from_run.replace("\\", "/")):  # earlier versions, on Windows: "\"
            moved = Path(os.path.normpath(run.path.resolve() / way))
            found += [moved] if moved not in found else []
    return found


def sampled(images: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """Return about 200 images, at equal distances in the list."""
    return images[:: max(1, len(images) // SAMPLED)]


def content_sample(images: Sequence[ImageFile], digests: Mapping[str, bytes]) -> list[str]:
    """Return the first digits of the content digests of the images that `sampled` selects."""
    return [digests[image.path].hex()[:8] for image in sampled(images)]


def missing_paths(root: Path, images: Iterable[ImageFile]) -> list[ImageFile]:
    """Return the images whose paths do not exist."""
    return [image for image in images if not is_image_file(root / image.path)]


def find_by_content(
    root: Path, others: Sequence[Path], images: Sequence[ImageFile], digests: Sequence[bytes]
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Find images by content, in `root` and other folders, under whatever names they have now.

    Returns:
        The images in their order with their present paths, relative to `root`, and the images
        that were not found.
    """
    files = {
        relative_path(path, root) for folder in (root, *others) for path in walk_images(str(folder))
    }
    now = digest_files(root, sorted(files))
    paths: dict[bytes, list[str]] = defaultdict(list)
    for path, digest in now.items():
        paths[digest].append(path)
    found, missing = [], []
    free = {digest: set(same) for digest, same in paths.items()}
    for image, digest in zip(images, digests, strict=True):
        if digest not in paths:
            missing.append(image)
            continue
        # Duplicates get distinct files as long as there are enough of them.
        among = free[digest] or set(paths[digest])
        path = min(among, key=lambda path: (_path_distance(path, image), path))
        free[digest].discard(path)
        found.append(replace(image, path=path))
    return found, missing


def _path_distance(path: str, image: ImageFile) -> int:
    """Return how much a path differs from the old one of an image: 0 for the same."""
    if path == image.path:
        return 0
    is_same_class = image.label in path.split("/")[:-1]
    is_same_name = path.rpartition("/")[2] == image.path.rpartition("/")[2]
    return 3 - 2 * is_same_class - is_same_name + (not is_same_class and not is_same_name)
