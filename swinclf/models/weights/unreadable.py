"""The error for each kind of file that holds no weights to read: what it is, and the next step."""

from __future__ import annotations

import re
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

from swinclf.errors import WeightsError
from swinclf.models.weights.sniff import Kind

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".th", ".pth.tar")
_EXPECTED = "a .safetensors, .npz or PyTorch weights file"
_CONVERT = (
    "save its arrays as .npz or .safetensors under timm's names for them, with the library that "
    "wrote it; or the same model in PyTorch"
)
_AGAIN = "copy or download it again: it is shorter than it was written"

# Kind: what it is, what to do. {name} is the file.
_MESSAGES: dict[Kind, tuple[str, str]] = {
    Kind.EMPTY: ("an empty file", _AGAIN),
    Kind.CUT_SAFETENSORS: ("a safetensors file that is cut off", _AGAIN),
    Kind.CUT_ZIP: ("a PyTorch, NumPy or zip file that is cut off", _AGAIN),
    Kind.HTML: (
        "a web page, which is what a link to a page gives, or one that needs a login",
        "the link of the file itself (on the Hub: /resolve/ instead of /blob/)",
    ),
    Kind.CONFIG: (
        "settings in JSON, without tensors",
        "--weights with the weights file or the folder that it came with",
    ),
    Kind.HDF5: ("an HDF5 file of Keras or TensorFlow", _CONVERT),
    Kind.KERAS: ("a Keras model", _CONVERT),
    Kind.TENSORFLOW: ("a TensorFlow checkpoint", _CONVERT),
    Kind.FLAX: ("a Flax checkpoint (msgpack)", _CONVERT),
    Kind.TFLITE: ("a TensorFlow Lite model", "the weights that it was converted from"),
    Kind.ONNX: ("an exported network (ONNX)", "the weights that it was exported from"),
    Kind.GGUF: ("a GGUF file, quantised for language models", "its weights as .safetensors"),
    Kind.ARRAY: ("a single NumPy array", "all tensors by name in one file: numpy.savez"),
    Kind.DISTRIBUTED: (
        "one part of a distributed checkpoint",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth, "
        "then --weights weights.pth",
    ),
    Kind.TEXT: ("a text file", "--weights FILE, a weights file"),
    Kind.UNKNOWN: ("none of these, by its first bytes", "--weights FILE, a weights file"),
}


def unreadable(path: Path, kind: Kind) -> WeightsError:
    """Return the error for a file of a kind that holds no weights to read."""
    if kind is Kind.GIT_LFS:
        size = re.search(r"^size (\d+)$", path.read_text("utf-8", "replace"), re.MULTILINE)
        of = f" of a file of {int(size[1]):,} bytes" if size else ""
        return WeightsError(
            _EXPECTED,
            found=f"{path.name} is a git-lfs pointer{of}, not the file",
            hint=f"git lfs pull --include {path.name}, in the repository that it is from",
        )
    if kind in (Kind.ZIP, Kind.TAR, Kind.COMPRESSED):
        return _packed(path, kind)
    what, hint = _MESSAGES[kind]
    return WeightsError(_EXPECTED, found=f"{path.name} is {what}", hint=hint)


def _packed(path: Path, kind: Kind) -> WeightsError:
    """Return the error for an archive, which names the weights in it."""
    first, is_tar = None, kind is Kind.TAR
    with suppress(Exception):  # damaged archives raise anything
        if kind is Kind.ZIP:
            with zipfile.ZipFile(path) as archive:
                first = next(filter(is_weights_name, archive.namelist()), None)
        else:
            with tarfile.open(path) as packed:
                is_tar = True
                names = (member.name for member in packed if member.isfile())
                first = next(filter(is_weights_name, names), None)
    what = "a tar archive" if is_tar else kind.value
    command = {True: f"tar -xf '{path}'", False: f"unzip '{path}'"}[is_tar]
    if kind is Kind.COMPRESSED and not is_tar:
        command = f"gunzip '{path}'" if path.suffix == ".gz" else "unpack it"
    holds = f" with {first} in it" if first else ""
    return WeightsError(
        _EXPECTED,
        found=f"{path.name} is {what}{holds}",
        hint=f"{command}, then --weights {first or 'FILE'}",
    )


def is_weights_name(name: str) -> bool:
    """Whether a file is, by its name, one of weights."""
    return name.lower().endswith(WEIGHT_SUFFIXES)


def no_such_file(path: Path) -> WeightsError:
    """Return the error for a file that is not there."""
    return WeightsError("a weights file", found=f"no file {path}", hint="another path")
