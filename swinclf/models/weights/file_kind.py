"""Detection of a weights file's format by its content, and errors for unreadable formats.

The name decides only in doubt.
"""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from swinclf.errors import WeightsError
from swinclf.models.weights.torch_files import begins_as_pickle
from swinclf.shell_quoting import quoted

_HEAD_BYTES = 4096
_HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, the library's own limit
_AGAIN = "copy or download it again: it is truncated"
_CONVERT = (
    "save its arrays as .npz or .safetensors under timm's names for them, with the library that "
    "wrote it; or the same model in PyTorch"
)
_ANOTHER = "--weights FILE, a weights file"


class WeightsFileKind(StrEnum):
    """Kinds of files; those without a hint are supported, the others are refused with it."""

    hint: str

    def __new__(cls, text: str, hint: str = "") -> WeightsFileKind:
        """Create a member: its text in messages, and what to type instead of such a file."""
        member = str.__new__(cls, text)
        member._value_, member.hint = text, hint
        return member

    SAFETENSORS = "safetensors"
    TORCH = "a PyTorch file"
    NUMPY = "a NumPy archive"
    INDEX = "an index of shards"

    EMPTY = "an empty file", _AGAIN
    CUT_SAFETENSORS = "a safetensors file that is cut off", _AGAIN
    CUT_ZIP = "a PyTorch, NumPy or zip file that is cut off", _AGAIN
    GIT_LFS = "a git-lfs pointer", "git lfs pull, in the repository that it is from"
    HTML = (
        "a web page, such as a download page or a login",
        "the link of the file itself (on the Hub: /resolve/ instead of /blob/)",
    )
    CONFIG = (
        "settings in JSON, without tensors",
        "--weights with the weights file or the folder that it came with",
    )
    HDF5 = "an HDF5 file of Keras or TensorFlow", _CONVERT
    KERAS = "a Keras model", _CONVERT
    TENSORFLOW = "a TensorFlow checkpoint", _CONVERT
    FLAX = "a Flax checkpoint (msgpack)", _CONVERT
    ONNX = "an exported network (ONNX)", "the weights that it was exported from"
    TFLITE = "a TensorFlow Lite model", "the weights that it was converted from"
    GGUF = "a GGUF file, quantised for language models", "its weights as .safetensors"
    ARRAY = "a single NumPy array", "all tensors by name in one file: numpy.savez"
    DISTRIBUTED = (
        "one part of a distributed checkpoint",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth, "
        "then --weights weights.pth",
    )
    ZIP = "a zip archive", "unzip it, then --weights FILE, of those in it"
    TAR = "a tar archive", "tar -xf it, then --weights FILE, of those in it"
    COMPRESSED = "a compressed file", "unpack it (gunzip, tar -xf), then --weights FILE"
    TEXT = "a text file", _ANOTHER
    UNKNOWN = "none of these, by its first bytes", _ANOTHER


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


def detect_readable_kind(path: Path) -> WeightsFileKind:
    """Return the kind of a file that can be read.

    Raises:
        WeightsError: If it is missing, not permitted or of an unsupported kind.
    """
    try:
        kind = detect_kind(path)
    except FileNotFoundError:
        raise WeightsError("a weights file", found=f"no file {path}", hint="another path") from None
    except OSError as error:
        raise WeightsError(
            f"to read '{path}'", found=error.strerror or str(error), hint="--weights FILE"
        ) from error
    if kind.hint:
        raise unreadable_error(path, kind)
    return kind


def _safetensors(path: Path, length: int, size: int) -> WeightsFileKind:
    """Return whether a safetensors file has all the bytes that its header declares."""
    if 8 + length > size:
        return WeightsFileKind.CUT_SAFETENSORS
    damage = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
    with path.open("rb") as file, suppress(*damage):
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


def unreadable_error(path: Path, kind: WeightsFileKind) -> WeightsError:
    """Return the error for a file of an unsupported kind."""
    found, hint = f"{path.name} is {kind}", kind.hint or _ANOTHER
    if kind is WeightsFileKind.GIT_LFS:
        size = re.search(r"^size (\d+)$", path.read_text("utf-8", "replace"), re.MULTILINE)
        found += (f" of a file of {int(size[1]):,} bytes" if size else "") + ", not the file"
        hint = hint.replace("pull", f"pull --include {quoted(path.name)}")
    expected = "a .safetensors, .npz or PyTorch weights file"
    return WeightsError(expected, found=found, hint=hint)


def is_weights_name(name: str) -> bool:
    """Return whether a file is named like weights."""
    suffixes = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".th", ".pth.tar")
    return name.lower().endswith(suffixes)
