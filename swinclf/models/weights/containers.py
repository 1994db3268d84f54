"""Readers of weight files and folders, chosen by content rather than suffix.

Nothing in a file is ever executed: safetensors, PyTorch files whose other objects stay inert, NumPy
archives without objects.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from swinclf.errors import WeightsError
from swinclf.models.weights.file_kind import WeightsFileKind, detect_readable_kind, unreadable_error
from swinclf.models.weights.layouts.weight_layout import State
from swinclf.models.weights.select import WeightsCheckpoint, select
from swinclf.models.weights.torch_files import INFLATION, read_torch


def read_checkpoints(path: str | Path) -> list[WeightsCheckpoint]:
    """Read all state dicts of a weights file, the preferred first (`select.select`).

    `path` is a safetensors or .npz file, a file of torch.save or torch.jit.save, an index of shards
    or one of the shards.

    Raises:
        WeightsError: If it cannot be read, or has no tensors; the message names the kind of file.
    """
    path = Path(path)
    is_index = detect_readable_kind(path) is WeightsFileKind.INDEX
    files = read_shard_index(path) if is_index else find_sibling_shards(path)
    parts = [_read(file) for file in files]
    states = parts[0]
    if len(parts) > 1:  # shards of one state dict
        whole: State = {}
        for (state, _), *_others in filter(None, parts):
            whole |= state
        states = [(whole, ())] if whole else []
    if not states:
        raise WeightsError(
            f"tensors in '{path.name}'",
            found="none",
            hint="its state dict alone, saved as .safetensors (code in a file is never executed)",
        )
    return [WeightsCheckpoint(state, path, notes, tuple(files)) for state, notes in states]


def _read(path: Path) -> list[tuple[State, tuple[str, ...]]]:
    """Return the state dicts of one file, or raise that it is damaged."""
    kind = detect_readable_kind(path)
    try:
        if kind is WeightsFileKind.SAFETENSORS:
            return select(load_file(path))
        if kind is WeightsFileKind.NUMPY:
            return select(_read_npz(path))
        if kind is WeightsFileKind.TORCH:
            return select(read_torch(path))
    except Exception as error:  # the readers raise anything on a damaged file
        first = str(error).strip().partition("\n")[0][:200]
        reason = "".join(letter for letter in first if letter.isprintable()) or "it is damaged"
        hint = "copy or download it again; or save its state dict as .safetensors"
        if "allow_pickle" in reason:
            reason = "an array of objects; code in a file is never executed"
            hint = "its arrays of numbers alone, saved as .npz"
        raise WeightsError(
            f"whole tensors in '{path.name}' ({kind})", found=reason, hint=hint
        ) from error
    raise unreadable_error(path, kind)


def _read_npz(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as members:  # one array may be of zeros, but not all
        size = sum(member.file_size for member in members.infolist())
    if size > INFLATION * path.stat().st_size + 1024:
        raise ValueError("it is compressed more than weights can be")
    # Opened here, since NumPy does not close a broken archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: _from_numpy(np.array(archive[name])) for name in archive.files}


def _from_numpy(array: np.ndarray) -> Tensor:
    """Convert an array to a tensor; NumPy has no bfloat16 and stores JAX's as two raw bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[^.]+)")


def read_shard_index(path: Path) -> list[Path]:
    """Return the files listed in an index (`model.safetensors.index.json`)."""
    weight_map = json.loads(path.read_bytes())["weight_map"]
    named = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not named or not all(isinstance(name, str) and name for name in named):
        raise WeightsError(
            f"the name of a shard for each tensor in '{path.name}'",
            found="a weight_map that is empty or damaged",
            hint="an index as transformers writes it",
        )
    names = sorted(set(named))
    if any(Path(name).name != name for name in names):
        raise WeightsError(
            f"the shards that '{path.name}' names in its own folder",
            found="a path that leads elsewhere",
            hint="an index as transformers writes it",
        )
    return _all_there([path.with_name(name) for name in names], path.name)


def find_sibling_shards(path: Path) -> list[Path]:
    """Return all shards of a file such as `model-00001-of-00003.safetensors`, else it alone."""
    match = _SHARD.fullmatch(path.name)
    if not match:
        return [path]
    count = int(match["count"])
    names = (
        f"{match['stem']}-{number:05d}-of-{count:05d}{match['suffix']}"
        for number in range(1, count + 1)
    )
    return _all_there([path.with_name(name) for name in names], path.name)


def _all_there(shards: list[Path], name: str) -> list[Path]:
    missing = [shard.name for shard in shards if not os.path.isfile(shard)]  # noqa: PTH113 - never raises
    if missing or not shards:
        raise WeightsError(
            f"the {len(shards)} shards that '{name}' belongs to, in one folder",
            found=f"no {missing[0]}" if missing else "none",
            hint="the missing files, copied next to the others",
        )
    return shards
