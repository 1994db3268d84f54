"""CIFAR-10 and CIFAR-100 as published: thousands of images in a file, binary or pickled.

An image has the path that it would have in class folders, `train/cat/00042.ppm`, and is read as the
content of that file, so that everything else is the same as for such folders.

Source: Learning Multiple Layers of Features from Tiny Images, Krizhevsky 2009; the formats are
described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from swinclf.data.split_names import TEST, TRAIN
from swinclf.errors import DataError

SIDE_PX = 32
_VALUES = 3 * SIDE_PX**2  # of an image: its red, green and blue planes
_PPM_HEADER = f"P6\n{SIDE_PX} {SIDE_PX}\n255\n".encode()


@dataclass(frozen=True)
class _Format:
    """The files of one of the four published archives."""

    title: str
    train: str  # a pattern of file names
    test: str
    names: str  # the file of the class names
    label: str = ""  # in pickles: the key of the labels; empty in binary files
    name_key: str = ""  # in pickles: the key of the class names
    label_bytes: int = 0  # in binary files: bytes before the pixels; the last is the label


_FORMATS = (
    _Format("CIFAR-10", "data_batch_?.bin", "test_batch.bin", "batches.meta.txt", label_bytes=1),
    _Format("CIFAR-100", "train.bin", "test.bin", "fine_label_names.txt", label_bytes=2),
    _Format("CIFAR-10", "data_batch_?", "test_batch", "batches.meta", "labels", "label_names"),
    _Format("CIFAR-100", "train", "test", "meta", "fine_labels", "fine_label_names"),
)


@dataclass(frozen=True)
class CifarArchive:
    """The content of an archive."""

    title: str  # CIFAR-10 or CIFAR-100
    classes: tuple[str, ...]  # names by label
    pixels: dict[str, list[np.ndarray]]  # (N, 3072) uint8 of each batch file, by split
    labels: dict[str, np.ndarray]  # (N,) of all images, by split

    def paths(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, label and split of every image."""
        for split, labels in self.labels.items():
            for number, label in enumerate(labels.tolist()):
                yield self.path(split, number), self.classes[label], split

    def path(self, split: str, number: int) -> str:
        """Return the path of an image."""
        return f"{split}/{self.classes[self.labels[split][number]]}/{number:05d}.ppm"

    def read(self, split: str, number: int) -> bytes:
        """Return an image as a PPM file.

        Raises:
            IndexError, KeyError: If there is none of this number and split.
        """
        for batch in self.pixels[split]:
            if number < len(batch):
                planes = np.asarray(batch[number]).reshape(3, SIDE_PX, SIDE_PX)
                return _PPM_HEADER + planes.transpose(1, 2, 0).tobytes()
            number -= len(batch)
        raise IndexError(number)


def open_cifar(root: Path) -> CifarArchive | None:
    """Return the archive whose files are in a folder; None if it holds none.

    Raises:
        DataError: If a file of it is damaged.
    """
    for form in _FORMATS:
        if not all((root / name).is_file() for name in (form.test, form.names)):
            continue
        train = sorted(path for path in root.glob(form.train) if path.is_file())
        if train:
            files = [*train, root / form.test, root / form.names]
            changed = tuple(path.stat().st_mtime_ns for path in files)
            return _open(form, tuple(files), changed)
    return None


def read_packed(path: Path) -> bytes | None:
    """Return the content of an image of an archive by its path; None if it is no such path."""
    with suppress(DataError, OSError, ValueError, LookupError):
        archive, inner, number = open_cifar(path.parents[2]), path.parts[-3:], int(path.stem)
        if archive and number >= 0 and "/".join(inner) == archive.path(inner[0], number):
            return archive.read(inner[0], number)
    return None


def is_image_file(path: Path) -> bool:
    """Return whether there is a file at a path, or an image of an archive."""
    return path.is_file() or read_packed(path) is not None


@lru_cache(maxsize=2)
def _open(form: _Format, files: tuple[Path, ...], _changed: tuple[int, ...]) -> CifarArchive:
    *batches, names = files
    if form.label:
        classes = tuple(_value(_unpickled(names), form.name_key, names))
    else:
        lines = names.read_text(encoding="utf-8").splitlines()
        classes = tuple(line.strip() for line in lines if line.strip())
    read = _read_pickle if form.label else _read_binary
    parts = [read(path, form) for path in batches]
    for path, (pixels, labels) in zip(batches, parts, strict=True):
        if len(pixels) != len(labels) or not len(labels) or labels.max() >= len(classes):
            raise _damaged(path, f"{len(pixels):,} images of {len(classes)} classes")
    return CifarArchive(
        form.title,
        classes,
        {TRAIN: [pixels for pixels, _ in parts[:-1]], TEST: [parts[-1][0]]},
        {TRAIN: np.concatenate([labels for _, labels in parts[:-1]]), TEST: parts[-1][1]},
    )


def _read_binary(path: Path, form: _Format) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 3072) pixels, mapped into memory, and (N,) labels."""
    size, record = path.stat().st_size, form.label_bytes + _VALUES
    if not size or size % record:
        raise _damaged(path, f"{size:,} bytes, which is no multiple of {record:,}")
    records = np.memmap(path, np.uint8, mode="r").reshape(-1, record)
    return records[:, form.label_bytes :], np.array(records[:, form.label_bytes - 1])


def _read_pickle(path: Path, form: _Format) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 3072) pixels and (N,) labels; nothing in the file is executed."""
    from swinclf.unpickle import Placeholder, array_of  # imports torch

    content = _unpickled(path)
    data, labels = _value(content, "data", path), _value(content, form.label, path)
    pixels = array_of(data) if isinstance(data, Placeholder) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[1:] != (_VALUES,):
        raise _damaged(path, "no array of images")
    if not isinstance(labels, list) or not all(type(one) is int and one >= 0 for one in labels):
        raise _damaged(path, "no list of labels")
    return pixels, np.array(labels, dtype=np.int64)


def _unpickled(path: Path) -> Any:
    from swinclf.unpickle import UnreadablePickleError, interpret

    try:
        with path.open("rb") as file:
            return interpret(file, lambda _: None)
    except (UnreadablePickleError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _value(content: Any, key: str, path: Path) -> Any:
    """Return a value of a pickled dict, whose keys are texts or bytes."""
    values = content if isinstance(content, dict) else {}
    found: Any = values.get(key, values.get(key.encode()))
    if found is None:
        raise _damaged(path, f"no {key!r}")
    if isinstance(found, list):
        return [one.decode() if isinstance(one, bytes) else one for one in found]
    return found


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"a file of CIFAR-10 or CIFAR-100 as published at '{path}'",
        found=found,
        hint="download and unpack the archive again",
    )
