"""Errors for files without readable weights: what each kind of file is, and a hint."""

from __future__ import annotations

import re
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

from swinclf.errors import WeightsError
from swinclf.models.weights.file_kind import WeightsFileKind

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".th", ".pth.tar")
_EXPECTED = "a .safetensors, .npz or PyTorch weights file"
_CONVERT = (
    "save its arrays as .npz or .safetensors under timm's names for them, with the library that "
    "wrote it; or the same model in PyTorch"
)
_AGAIN = "copy or download it again: it is truncated"

# By kind: description and hint.
_MESSAGES: dict[WeightsFileKind, tuple[str, str]] = {
    WeightsFileKind.EMPTY: ("an empty file", _AGAIN),
    WeightsFileKind.CUT_SAFETENSORS: ("a safetensors file that is cut off", _AGAIN),
    WeightsFileKind.CUT_ZIP: ("a PyTorch, NumPy or zip file that is cut off", _AGAIN),
    WeightsFileKind.HTML: (
        "a web page, such as a download page or a login",
        "the link of the file itself (on the Hub: /resolve/ instead of /blob/)",
    ),
    WeightsFileKind.CONFIG: (
        "settings in JSON, without tensors",
        "--weights with the weights file or the folder that it came with",
    ),
    WeightsFileKind.HDF5: ("an HDF5 file of Keras or TensorFlow", _CONVERT),
    WeightsFileKind.KERAS: ("a Keras model", _CONVERT),
    WeightsFileKind.TENSORFLOW: ("a TensorFlow checkpoint", _CONVERT),
    WeightsFileKind.FLAX: ("a Flax checkpoint (msgpack)", _CONVERT),
    WeightsFileKind.TFLITE: ("a TensorFlow Lite model", "the weights that it was converted from"),
    WeightsFileKind.ONNX: ("an exported network (ONNX)", "the weights that it was exported from"),
    WeightsFileKind.GGUF: (
        "a GGUF file, quantised for language models",
        "its weights as .safetensors",
    ),
    WeightsFileKind.ARRAY: ("a single NumPy array", "all tensors by name in one file: numpy.savez"),
    WeightsFileKind.DISTRIBUTED: (
        "one part of a distributed checkpoint",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth, "
        "then --weights weights.pth",
    ),
    WeightsFileKind.TEXT: ("a text file", "--weights FILE, a weights file"),
    WeightsFileKind.UNKNOWN: (
        "none of these, by its first bytes",
        "--weights FILE, a weights file",
    ),
}


def unreadable_error(path: Path, kind: WeightsFileKind) -> WeightsError:
    """Return the error for a file of an unsupported kind."""
    if kind is WeightsFileKind.GIT_LFS:
        size = re.search(r"^size (\d+)$", path.read_text("utf-8", "replace"), re.MULTILINE)
        of = f" of a file of {int(size[1]):,} bytes" if size else ""
        return WeightsError(
            _EXPECTED,
            found=f"{path.name} is a git-lfs pointer{of}, not the file",
            hint=f"git lfs pull --include {path.name}, in the repository that it is from",
        )
    if kind in (WeightsFileKind.ZIP, WeightsFileKind.TAR, WeightsFileKind.COMPRESSED):
        return _packed(path, kind)
    what, hint = _MESSAGES[kind]
    return WeightsError(_EXPECTED, found=f"{path.name} is {what}", hint=hint)


def _packed(path: Path, kind: WeightsFileKind) -> WeightsError:
    """Return the error for an archive, with the weights in it."""
    first, is_tar = None, kind is WeightsFileKind.TAR
    with suppress(Exception):  # damaged archives raise anything
        if kind is WeightsFileKind.ZIP:
            with zipfile.ZipFile(path) as archive:
                first = next(filter(is_weights_name, archive.namelist()), None)
        else:
            with tarfile.open(path) as packed:
                is_tar = True
                names = (member.name for member in packed if member.isfile())
                first = next(filter(is_weights_name, names), None)
    what = "a tar archive" if is_tar else kind.value
    command = {True: f"tar -xf '{path}'", False: f"unzip '{path}'"}[is_tar]
    if kind is WeightsFileKind.COMPRESSED and not is_tar:
        command = f"gunzip '{path}'" if path.suffix == ".gz" else "unpack it"
    holds = f" with {first} in it" if first else ""
    return WeightsError(
        _EXPECTED,
        found=f"{path.name} is {what}{holds}",
        hint=f"{command}, then --weights {first or 'FILE'}",
    )


def is_weights_name(name: str) -> bool:
    """Return whether a file is named like weights."""
    return name.lower().endswith(WEIGHT_SUFFIXES)


def missing_file_error(path: Path) -> WeightsError:
    """Return the error for a file that does not exist."""
    return WeightsError("a weights file", found=f"no file {path}", hint="another path")
