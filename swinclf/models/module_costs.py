"""Complexity of any network, module by module, as counted by torch.

Shape letters: h x w positions, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from swinclf.models.complexity import Part

OTHER = "other"  # costs outside the listed modules


def module_parts(network: nn.Module, image: Tensor) -> list[Part]:
    """Run a network on one image and return its modules in execution order.

    Their parameters and multiply-adds sum up to the network's.

    Modules without parameters and multiply-adds that keep the shape, such as activations, are
    omitted.

    The image is (1, 3, H, W). The network is in evaluation mode; on `meta` nothing is computed.
    """
    watched = dict(_modules(network))
    operations = dict.fromkeys(watched, 0)
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []
    # As in `complexity.count_torch_flops`: the fused attention is not counted on every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for name, module in watched.items():

            def enter(_module: nn.Module, _args: object, name: str = name) -> None:
                operations[name] -= counter.get_total_flops()

            def leave(_module: nn.Module, _args: object, out: object, name: str = name) -> None:
                operations[name] += counter.get_total_flops()
                shapes[name] = _shape(out)

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        try:
            network(image)
        finally:
            for handle in handles:
                handle.remove()
        total = counter.get_total_flops()
    rows: list[Part] = []
    for name, shape in shapes.items():
        part = Part(
            name, name.partition(".")[0], shape, _count(watched[name]), operations[name] // 2
        )
        if part.parameters or part.macs or not rows or shape != rows[-1].shape:
            rows.append(part)
    parameters = _count(network) - sum(row.parameters for row in rows)
    macs = total // 2 - sum(row.macs for row in rows)
    return rows + ([Part(OTHER, OTHER, (), parameters, macs)] if parameters or macs else [])


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the listed modules: children, and the children of sequences."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child):
            for inner, module in child.named_children():
                yield f"{name}.{inner}", module
        else:
            yield name, child


def _shape(output: object) -> tuple[int, ...]:
    """Return the output shape for one image: (h, w, C) if two equal sides identify the channels."""
    if not isinstance(output, Tensor):
        return ()
    shape = tuple(output.shape[1:])
    if len(shape) == 3 and shape[1] == shape[2]:
        return (*shape[1:], shape[0])
    return shape


def _count(module: nn.Module) -> int:
    """Return the number of learned parameters of a module."""
    return sum(value.numel() for value in module.parameters())
