"""Weight files in every layout that is around, read into what a network's own state dict holds.

Knows nothing of where files come from or of runs. Nothing in a file is ever executed: safetensors,
PyTorch files with tensors only, NumPy archives without objects. The networks may be this package's
or timm's; both call their parameters alike.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from swinclf.errors import WeightsError
from swinclf.models.resize import resize_bias_table, resize_positions

State = dict[str, Tensor]

# The classification head; all of it is taken or none. `attn_pool` is a pooling that some published
# weights bring for a network without it.
_HEAD = ("head.", "head_dist.", "pre_logits.", "attn_pool.")
_WRAPPERS = ("model", "state_dict", "model_state_dict", "state_dict_ema", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "vision_encoder.")
# Computed from the window, stored by some: never read.
_COMPUTED = ("relative_position_index", "attn_mask", "relative_coords_table")
_SHOWN = 4  # differences that an error names one by one


@dataclass(frozen=True)
class AdaptedWeights:
    """Weights that fit a network exactly."""

    state: State
    """Every entry of the network's state dict: `load_state_dict(state, strict=True)` succeeds."""
    head_loaded: bool
    """Whether the head is the file's; otherwise it is the network's as it was."""
    resized: list[str] = field(default_factory=list)
    """Position tables that were resized to the network's image size or window."""


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


def adapt(
    state: Mapping[str, Tensor],
    model: nn.Module,
    *,
    allow_other_head: bool,
    grid: tuple[int, int] | None = None,
) -> AdaptedWeights:
    """Fit the tensors of a file to a network, or say what does not fit.

    Args:
        state: What read_state_dict returned, in any of the layouts.
        model: A network of this package or of timm.
        allow_other_head: Whether a head of other classes, or none, is left out instead of refused.
        grid: Patches down and across that the file's position table is for; None: the network's
            where the count agrees, otherwise as many down as across.

    Raises:
        WeightsError: If a tensor is missing, left over or of another shape; both sides are named.
    """
    wanted = dict(model.state_dict())
    google = any(name.endswith("embedding/kernel") for name in state)
    try:
        found = _from_google(state) if google else _from_torch(state, wanted)
    except (KeyError, IndexError, RuntimeError, TypeError) as error:
        raise _refusal([f"{type(error).__name__}: {error}"]) from error
    head_loaded = _same(found, wanted, head=True)
    if allow_other_head and not head_loaded:
        found = {name: value for name, value in found.items() if not name.startswith(_HEAD)}
        found |= {name: value for name, value in wanted.items() if name.startswith(_HEAD)}
    resized = []
    for name in sorted(found.keys() & wanted.keys()):
        try:
            value = _resized(name, found[name], wanted[name], model, grid, smooth=not google)
        except (ValueError, IndexError, RuntimeError) as error:
            raise _refusal([f"{name}: {error}"]) from error
        if value is not found[name]:
            resized.append(name)
        found[name] = value
    if not _same(found, wanted):
        raise _refusal(_differences(found, wanted))
    return AdaptedWeights({name: found[name] for name in wanted}, head_loaded, resized)


def _same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, head: bool = False) -> bool:
    """Return whether both sides have the same names and shapes, in their heads only or in all."""
    shapes = (
        {name: value.shape for name, value in side.items() if name.startswith(_HEAD) or not head}
        for side in (found, wanted)
    )
    return next(shapes) == next(shapes)


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Say of each tensor that differs what either side has."""
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        if name not in found:
            lines.append(f"{name}: the network has {_shape(wanted[name])}, the file has none")
        elif name not in wanted:
            lines.append(f"{name}: the file has {_shape(found[name])}, the network has none")
        elif found[name].shape != wanted[name].shape:
            sides = f"the network has {_shape(wanted[name])}, the file {_shape(found[name])}"
            lines.append(f"{name}: {sides}")
    return lines


def _shape(value: Tensor) -> str:
    """Write a shape as 3 x 4."""
    return " x ".join(map(str, value.shape)) or "a single number"


def _refusal(lines: list[str]) -> WeightsError:
    """Return the error that names the first differences and counts the others."""
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return WeightsError(
        "weights with exactly the tensors of the network",
        found="; ".join(lines[:_SHOWN]) + more,
        hint="the model, image size and classes that the file was made for",
    )


def _resized(
    name: str,
    value: Tensor,
    wanted: Tensor,
    model: nn.Module,
    grid: tuple[int, int] | None,
    *,
    smooth: bool,
) -> Tensor:
    """Return a position table in the network's size; every other tensor as it is."""
    if name == "pos_embed":
        embed: Any = model.get_submodule("patch_embed")
        own = tuple(embed.grid_size)
        if value.shape == wanted.shape and grid in (None, own) or value.dim() != 3:
            return value
        prefix = 0 if getattr(model, "no_embed_class", False) else _prefix_tokens(model)
        return resize_positions(value, own, prefix, old_grid=grid, smooth=smooth)
    if name.endswith("relative_position_bias_table") and value.shape[0] != wanted.shape[0]:
        attention: Any = model.get_submodule(name.rpartition(".")[0])
        return resize_bias_table(value, tuple(attention.window_size), wanted.shape[0])
    return value


def _prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens the network has before the patches."""
    return int(getattr(model, "num_prefix_tokens", 0))


def _from_torch(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Rename what other PyTorch code calls otherwise.

    Microsoft's Swin counts patch merging to the stage before it; DeiT III names its factors gamma_1
    and gamma_2; DINOv2 has a mask token, calls the MLP's layers w12 and w3 and gives its class
    token, not its registers, a position.
    """
    found = {name: value for name, value in state.items() if not name.endswith(_COMPUTED)}
    microsoft = any(name.startswith("layers.0.downsample.") for name in found)
    if found.pop("mask_token", None) is not None and "register_tokens" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    renamed = {}
    for name, value in found.items():
        if microsoft:
            name = re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name)
        if "head.fc.weight" in wanted or microsoft:
            name = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)
        name = re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name)
        name = name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        renamed[name] = value
    return renamed


def _next_stage(match: re.Match[str]) -> str:
    """Return the name of patch merging as part of the stage after it."""
    return f"layers.{int(match[1]) + 1}.downsample"


# Google's name to ours. A block's parts are numbered in the order of a list that has grown, so the
# numbers differ between releases: the attention is 0 or 1, the second norm 1 or 2, the MLP 0 or 3.
_GOOGLE = (
    (r"embedding/", "patch_embed.proj."),
    (r"cls", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
    (r"Transformer/encoder_norm/", "norm."),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/", r"blocks.\1.norm1."),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_[12]/", r"blocks.\1.norm2."),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_0/", r"blocks.\1.mlp.fc1."),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_1/", r"blocks.\1.mlp.fc2."),
    (
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_\d/out/",
        r"blocks.\1.attn.proj.",
    ),
    (
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_\d/(query|key|value)/",
        r"blocks.\1.attn.\2.",
    ),
    (r"pre_logits/", "pre_logits.fc."),
    (r"head/", "head."),
)


def _from_google(state: Mapping[str, Tensor]) -> State:
    """Rename and transpose a JAX ViT: kernels are (in, out), heads are an axis of their own."""
    found: State = {}
    for name, value in state.items():
        name = re.sub(r"^(opt/target/|params/)", "", name)
        for theirs, ours in _GOOGLE:
            name, done = re.subn(f"^{theirs}", ours, name)
            if done:
                break
        name, kernel = re.subn("kernel$", "weight", name)
        name = re.sub("scale$", "weight", name)
        found[name] = _torch_layout(name, value) if kernel or ".attn." in name else value
    for name in [name for name in found if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in found for part in parts):
            joined = torch.cat([found.pop(part) for part in parts])
            found[name.replace(".query.", ".qkv.")] = joined
    return found


def _torch_layout(name: str, value: Tensor) -> Tensor:
    """Return a kernel as PyTorch lays it out, and a bias with its heads side by side."""
    if name == "patch_embed.proj.weight" and value.dim() == 4:
        return value.permute(3, 2, 0, 1)  # (H, W, 3, C) -> (C, 3, H, W)
    if name.endswith(".bias"):
        return value.flatten()  # (A, E) -> (C,)
    if ".attn.proj." in name:
        return value.flatten(0, -2).t()  # (A, E, C) -> (C, A * E)
    return value.flatten(1).t()  # (C, D) or (C, A, E) -> (D, C) or (A * E, C)
