"""Weight files of every container: what is read out of them, before any name is understood.

Nothing in a file is ever executed: safetensors, PyTorch files with tensors only, NumPy archives
without objects.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from swinclf.errors import WeightsError
from swinclf.models.weights.layouts.layout import State

_WRAPPERS = ("model", "state_dict", "model_state_dict", "state_dict_ema", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "vision_encoder.")


def read_state_dict(path: str | Path) -> State:
    """Read the tensors of a weights file under the names they have there.

    Args:
        path: A .safetensors or .npz file, or one that torch.save wrote (.pth, .pt, .bin, ...), bare
            or wrapped ({"model": ...}).

    Raises:
        WeightsError: If it cannot be read, holds code, or has no tensors.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Any]] = {".safetensors": load_file, ".npz": _read_npz}
    try:
        content = readers.get(path.suffix.lower(), _read_torch)(path)
    except FileNotFoundError:
        raise WeightsError("a weights file", found=f"no file {path}", hint="another path") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} to hold tensors and nothing else",
            found=str(error).splitlines()[0],
            hint="save its state dict alone, as .safetensors; code in a file is never executed",
        ) from error
    except Exception as e:  # the readers raise anything on a broken file
        raise WeightsError(
            "a .safetensors, .npz or PyTorch weights file",
            found=f"{path.name}: {str(e).splitlines()[0] if str(e) else type(e).__name__}",
            hint="download or copy it again",
        ) from e
    state = _unwrap(content)
    if not state:
        raise WeightsError("tensors", found=f"none in {path.name}", hint="another file")
    return state


def _read_torch(path: Path) -> Any:
    """Read what torch.save wrote; of other objects only plain command-line settings are let in."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_npz(path: Path) -> State:
    """Read a NumPy archive without objects."""
    # Opened here, since NumPy leaves a broken archive open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}


def _unwrap(content: Any) -> State:
    """Take a state dict out of its wrappers, and from its names what they all begin with."""
    while isinstance(content, Mapping):
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), 0
        )
        if not inner:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
