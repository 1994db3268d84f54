"""Errors for weights that do not fit a network, with a likely explanation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from swinclf.errors import WeightsMismatchError
from swinclf.models.weights.match import Match

_SHOWN = 4  # differences that an error lists
_HINT = "the model, image size and classes that the file was made for"


def tensor_mismatch_error(
    match: Match,
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    reason: str | None = None,
) -> WeightsMismatchError:
    """Return the error with the first differences and the number of the others.

    `found` has the file's tensors, and the network's `own` for those that are not loaded. A
    `reason` is what failed at one tensor before all were compared.
    """
    lines = [reason] if reason else _differences(found, wanted)
    why, hint = _explanation({n: v for n, v in found.items() if n not in own}, wanted)
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return WeightsMismatchError(
        "weights with exactly the tensors of the network",
        found=_origin(match, wanted)
        + "; ".join(lines[:_SHOWN])
        + more
        + (f". {why}" if why else ""),
        hint=hint or _HINT,
    )


def _origin(match: Match, wanted: Mapping[str, Tensor]) -> str:
    """Return the tool that wrote a file or, if unknown, the first tensor names."""
    if match.layout is not None:
        return f"this is probably a {match.layout.name} checkpoint: "
    if match.named > len(wanted) // 4:
        return ""
    names = [*match.outside, *(match.prefix + name for name in match.state)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"a file of an unknown tool with {', '.join(names[:_SHOWN])}{more}: " if names else ""


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor that differs, with both sides."""
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
    """Format a shape as 3 x 4."""
    return " x ".join(map(str, value.shape)) or "a single number"


def _explanation(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[str | None, str | None]:
    """Return a likely reason for the mismatch, and a hint."""
    registers = next((n for n in ("reg_token", "register_tokens") if n in found), None)
    if "dist_token" in found and "dist_token" not in wanted:
        return (
            "The file is of a distilled network: it has a distillation token",
            "a distilled model, as --model deit_tiny_distilled_patch16_224",
        )
    if "dist_token" in wanted and "dist_token" not in found:
        return (
            "The network is a distilled one, the file has no distillation token",
            "the same model without 'distilled' in its name",
        )
    if registers and "reg_token" not in wanted:
        count = found[registers].shape[-2]
        return (
            f"The file has {count} register tokens, the network none",
            f"a model with registers, as --model vit_base_patch14_reg{count}_dinov2",
        )
    if "reg_token" in wanted and not registers:
        return (
            "The network has register tokens, the file none",
            "the same model without 'reg' in its name",
        )
    if "fc_norm.weight" in found and "norm.weight" in wanted and "norm.weight" not in found:
        return (
            "The file averages the patches and has its norm after that",
            "--model vit with the same shape and --model-arg pool=avg",
        )
    return _positions_explained(found, wanted)


def _positions_explained(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[str | None, str | None]:
    theirs, ours = found.get("pos_embed"), wanted.get("pos_embed")
    if theirs is None or ours is None or theirs.dim() != 3 or "cls_token" not in wanted:
        return None, None
    if math.isqrt(theirs.shape[1]) ** 2 == theirs.shape[1] and theirs.shape != ours.shape:
        return (
            "The file has a position for each patch and none for the class token",
            "--model vit with the same shape and --model-arg no_embed_class=true",
        )
    return None, None
