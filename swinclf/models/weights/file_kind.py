"""Detection of a weights file's format by its content; its name decides only in doubt."""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from swinclf.models.weights.torch_files import begins_as_pickle

_HEAD_BYTES = 4096
_HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, the library's own limit


class WeightsFileKind(StrEnum):
    """Kinds of files; the first ones are supported, each other is refused with its own hint."""

    SAFETENSORS = "safetensors"
    TORCH = "a PyTorch file"
    NUMPY = "a NumPy archive"
    INDEX = "an index of shards"

    EMPTY = "empty"
    CUT_SAFETENSORS = "a safetensors file that is cut off"
    CUT_ZIP = "a zip archive that is cut off"
    GIT_LFS = "a git-lfs pointer"
    HTML = "a web page"
    CONFIG = "a configuration"
    HDF5 = "HDF5"
    KERAS = "Keras"
    TENSORFLOW = "TensorFlow"
    FLAX = "Flax"
    ONNX = "ONNX"
    TFLITE = "TensorFlow Lite"
    GGUF = "GGUF"
    ARRAY = "a single NumPy array"
    DISTRIBUTED = "a part of a distributed checkpoint"
    ZIP = "a zip archive"
    TAR = "a tar archive"
    COMPRESSED = "a compressed file"
    TEXT = "text"
    UNKNOWN = "unknown"


READABLE = (
    WeightsFileKind.SAFETENSORS,
    WeightsFileKind.TORCH,
    WeightsFileKind.NUMPY,
    WeightsFileKind.INDEX,
)
_MAGICS = (
    (b"\x89HDF\r\n\x1a\n", WeightsFileKind.HDF5),
    (b"version https://git-lfs", WeightsFileKind.GIT_LFS),
    (b"\x93NUMPY", WeightsFileKind.ARRAY),
    (b"GGUF", WeightsFileKind.GGUF),
    (b"\x1f\x8b", WeightsFileKind.COMPRESSED),
    (b"BZh", WeightsFileKind.COMPRESSED),
    (b"\xfd7zXZ\x00", WeightsFileKind.COMPRESSED),
    (b"\x28\xb5\x2f\xfd", WeightsFileKind.COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", WeightsFileKind.COMPRESSED),
    (b"Rar!", WeightsFileKind.COMPRESSED),
)
_SUFFIXES = {
    ".onnx": WeightsFileKind.ONNX,
    ".msgpack": WeightsFileKind.FLAX,
    ".index": WeightsFileKind.TENSORFLOW,
    ".pb": WeightsFileKind.TENSORFLOW,
    ".distcp": WeightsFileKind.DISTRIBUTED,
}


def detect_kind(path: Path) -> WeightsFileKind:
    """Return the kind of a file.

    Raises:
        OSError: If it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return WeightsFileKind.EMPTY
    suffix = path.suffix.lower()
    if suffix == ".distcp":  # concatenated archives, which appear as the last of them
        return WeightsFileKind.DISTRIBUTED
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= _HEADER_LIMIT:
        return _safetensors(path, length, size)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(path)
    if head[4:8] == b"TFL3":
        return WeightsFileKind.TFLITE
    if head[257:262] == b"ustar":
        return WeightsFileKind.TAR
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", head, re.IGNORECASE):
        return WeightsFileKind.HTML
    if head.lstrip()[:1] in (b"{", b"["):
        with suppress(ValueError, OSError, RecursionError):
            content = json.loads(path.read_bytes())
            is_index = isinstance(content, dict) and "weight_map" in content
            return WeightsFileKind.INDEX if is_index else WeightsFileKind.CONFIG
    if suffix in _SUFFIXES or re.search(r"\.ckpt(-\d+)?\.(data|index)", path.name):
        return _SUFFIXES.get(suffix, WeightsFileKind.TENSORFLOW)
    if begins_as_pickle(head):
        return WeightsFileKind.TORCH
    with suppress(UnicodeDecodeError):
        head[: len(head) // 2].decode("utf-8")
        if b"\x00" not in head:
            return WeightsFileKind.TEXT
    return WeightsFileKind.UNKNOWN


def _safetensors(path: Path, length: int, size: int) -> WeightsFileKind:
    """Return whether a safetensors file has all the bytes that its header declares."""
    if 8 + length > size:
        return WeightsFileKind.CUT_SAFETENSORS
    with path.open("rb") as file, suppress(ValueError, KeyError, TypeError, AttributeError):
        file.seek(8)
        header = json.loads(file.read(length))
        ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
        if 8 + length + max(ends, default=0) > size:
            return WeightsFileKind.CUT_SAFETENSORS
    return WeightsFileKind.SAFETENSORS


def _zip(path: Path) -> WeightsFileKind:
    """Distinguish the archives of torch, NumPy and Keras from archives of other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises anything on a damaged archive
        return WeightsFileKind.CUT_ZIP
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return WeightsFileKind.TORCH
    if names and all(name.endswith(".npy") for name in names):
        return WeightsFileKind.NUMPY
    if any(name.endswith(".weights.h5") for name in names) and "config.json" in names:
        return WeightsFileKind.KERAS
    return WeightsFileKind.ZIP
