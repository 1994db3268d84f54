"""Suggestion of the model that a weights file fits by its shapes, verified."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from swinclf.config import Impl
from swinclf.errors import SwinclfError, WeightsMismatchError
from swinclf.models.names import Architecture, build_native, default_impl, registry
from swinclf.models.timm_networks import create_timm_network
from swinclf.models.weights.adapt import adapt_first, is_classifier_name
from swinclf.models.weights.match import is_training_only, prefixes
from swinclf.models.weights.select import WeightsCheckpoint

_NEAR = 0.02  # position tables for other image sizes are within this share of the parameters
_TRIED = 8  # networks that are built for comparison, the nearest in size
_SHOWN = 4
_STATISTICS = re.compile(r".*(running_mean|running_var|num_batches_tracked)")


def add_suggestion(
    error: WeightsMismatchError, checkpoints: Sequence[WeightsCheckpoint], model: str
) -> WeightsMismatchError:
    """Return the error of a model, with the one that the file certainly fits, if any."""
    fitting = [name for name in fitting_models(checkpoints) if name != model.partition(".")[0]]
    if not fitting:
        return error
    best, *others = fitting[:_SHOWN]
    also = f" ({', '.join(others)} have the same shapes)" if others else ""
    return WeightsMismatchError(
        error.expected,
        found=f"{error.found}. The file fits {best}{also}",
        hint=f"--model {best}" + (f", or {' or '.join(others)}" if others else ""),
    )


def fitting_models(checkpoints: Sequence[WeightsCheckpoint]) -> list[str]:
    """Return the names of the models that a file fits completely, the shortest name first."""
    sizes = {arch: entry.parameters for arch, entry in registry().items()}
    for checkpoint in checkpoints[:2]:
        tensors = {name: value.to("meta") for name, value in checkpoint.tensors.items()}
        tried = {name: _fits(name, tensors) for name in _near(tensors, sizes)}
        exact = [name for name, is_exact in tried.items() if is_exact]
        resized = [name for name, is_exact in tried.items() if is_exact is not None]
        if resized:
            return sorted(exact or resized, key=lambda name: (len(name), name))
    return []


def _near(tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> list[str]:
    """Return the models whose number of parameters is close to that of a part of a file."""
    distances: dict[str, float] = {}
    for prefix in prefixes(tensors, len(tensors) // 4):
        count = sum(
            value.numel()
            for name, value in tensors.items()
            if name.startswith(prefix) and not _is_no_body(name.removeprefix(prefix))
        )
        for arch, size in sizes.items():
            distance = abs(count / size - 1)
            if distance < _NEAR:
                distances[arch] = min(distance, distances.get(arch, 1.0))
    return sorted(distances, key=lambda arch: (distances[arch], len(arch), arch))[:_TRIED]


def _is_no_body(name: str) -> bool:
    """Return whether a tensor is not a parameter of a network without its head."""
    is_statistic = _STATISTICS.fullmatch(name) is not None
    return is_classifier_name(name) or is_training_only(name) or is_statistic


def _fits(arch: str, tensors: Mapping[str, Tensor]) -> bool | None:
    """Return whether a file fits a model; False: with resized tables, None: not at all."""
    try:
        network = _blank(arch)
        adapted, _ = adapt_first([tensors], network)
    except (SwinclfError, RuntimeError, NotImplementedError):
        return None
    windows = _windows(dict(network.named_buffers()))
    stored = _windows(tensors)
    return not adapted.resized and (not stored or not windows or stored == windows)


def _windows(tensors: Mapping[str, Tensor]) -> set[torch.Size]:
    """Return the window sizes, which Swin V2 stores in a computed table."""
    return {
        value.shape for name, value in tensors.items() if name.endswith("relative_position_index")
    }


def _blank(arch: str) -> nn.Module:
    with torch.device("meta"):
        architecture = Architecture(arch, default_impl(arch), num_classes=2)
        build = build_native if architecture.impl is Impl.NATIVE else create_timm_network
        return build(architecture)
