"""Optimizers, AdamW's parameter groups, and the learning rate over time."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from swinclf.config import OptimizerName
from swinclf.errors import ConfigError


class _UnwrappedOptimizer(torch.optim.Optimizer):
    """A torch optimizer without the wrappers for torch.compile.

    They import the compiler at their first call, which takes as long as importing torch.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(_UnwrappedOptimizer, torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class LBFGS(_UnwrappedOptimizer, torch.optim.LBFGS):
    """L-BFGS (Nocedal & Wright 2006, ch. 7)."""


def lr_scale(step: int, *, total_steps: int, warmup_steps: int, final: float) -> float:
    """Return the learning-rate factor at `step`: a linear ramp, then half a cosine down to `final`.

    Args:
        step: Optimizer steps already taken, 0 <= step < total_steps.
        total_steps: Steps of the whole training.
        warmup_steps: Steps of the ramp; 0 means none. Must be < total_steps.
        final: Last factor, a fraction of the peak in [0, 1] (the command line's --lrf).

    Returns:
        Factor in [0, 1] of the peak rate. The last step has `final` itself.

    Raises:
        ConfigError: If warmup_steps >= total_steps.

    Source: SGDR, Loshchilov & Hutter 2017, eq. 5; warmup as in Goyal et al. 2017, sec. 2.2.
    """
    if warmup_steps >= total_steps:
        raise ConfigError(
            f"fewer warmup steps than the {total_steps} steps of the training",
            found=str(warmup_steps),
            hint="a smaller --warmup or more --epochs",
        )
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
    no_decay: Collection[str] = (),
    name: OptimizerName = OptimizerName.ADAMW,
) -> torch.optim.Optimizer:
    """Build the optimizer of the trainable parameters.

    Args:
        named_parameters: All parameters; frozen ones are skipped.
        lr: Peak rate, of the last layer.
        weight_decay: For matrices only: norms, biases and position embeddings are not decayed.
        layers: The layer of each parameter; None for the same rate everywhere.
        layer_decay: Each layer's rate is this times the rate of the layer above it, in (0, 1].
        no_decay: Names of further parameters that are not decayed.
        name: Muon orthogonalises the steps of the matrices between the first and the last layer,
            scaled to the size of AdamW's, which takes the other parameters. Needs `layers`.

    Returns:
        An optimizer whose groups carry `peak`, the rate that `lr_scale` multiplies.

    Source: layer decay, Clark et al. 2020 (ELECTRA), sec. 3.1; Muon, Jordan et al. 2024, with the
    rates of Liu et al. 2025 (Muon is scalable for LLM training), sec. 2.2.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    top = max(layers.values()) if layers else 0
    for parameter_name, parameter in named_parameters:
        if parameter.requires_grad:
            layer = layers[parameter_name] if layers else top
            decays = parameter.ndim > 1 and parameter_name not in no_decay
            is_matrix = decays and min(parameter.shape[:2]) > 1  # not a depthwise kernel
            by_muon = name is OptimizerName.MUON and is_matrix and 0 < layer < top
            peak = lr * layer_decay ** (top - layer)
            groups[peak, weight_decay if decays else 0.0, by_muon].append(parameter)
    options = [
        {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay, "use_muon": by_muon}
        for (peak, decay, by_muon), parameters in groups.items()
    ]
    if name is OptimizerName.MUON:
        import timm.optim

        muon: torch.optim.Optimizer = timm.optim.Muon(options, betas=(0.9, 0.999))
        return muon
    return AdamW(options, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's rate to its peak times `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
