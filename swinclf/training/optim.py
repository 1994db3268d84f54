"""Optimizers and their parameter groups."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from swinclf.config import OptimizerName


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


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
    no_decay: Collection[str] = (),
    name: OptimizerName = OptimizerName.ADAMW,
    is_fused: bool = True,
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
        is_fused: Compute a step of AdamW by one kernel.

    Returns:
        An optimizer whose groups carry `peak`, the rate that `set_lr` multiplies.

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
    return AdamW(options, fused=is_fused)


def set_lr(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's rate to its peak times `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
