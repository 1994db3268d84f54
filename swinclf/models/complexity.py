"""Complexity of a network, part by part: output shapes, parameters, multiply-adds.

Of the package's networks by formula, of any other as counted by torch. One multiply-add is two of
the operations that `torch.utils.flop_counter` counts, and the sums agree with it exactly:
convolutions and matrix products are counted, norms, activations, softmax and additions are not.

Shape letters: h x w tokens or positions, C channels, M the side of a window.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from swinclf.models.layers import Mlp, PatchEmbed
from swinclf.models.swin import PatchMerging, Swin, SwinBlock
from swinclf.models.vit import ViT

OTHER = "other"  # costs outside the listed modules


@dataclass(frozen=True)
class Part:
    """A part of a network, with its costs for one image."""

    name: str  # its name in the state dict, e.g. layers.0.blocks.1
    stage: str  # the stage that it belongs to: patch_embed, layers.0, blocks, head
    shape: tuple[int, ...]  # output for one image: (h, w, C), (tokens, C) or (classes,)
    parameters: int  # number of learned parameters
    macs: int  # multiply-adds
    attention_macs: int = 0  # those of the attention, by the paper's formula
    formula: str = ""  # that formula with its numbers


def network_parts(network: ViT | Swin) -> list[Part]:
    """Return the parts of a network, on any device (`meta` too), in execution order.

    Their parameters and multiply-adds sum up to the network's.
    """
    return _vit_parts(network) if isinstance(network, ViT) else _swin_parts(network)


def sum_stages(leaves: Iterable[Part]) -> list[Part]:
    """Sum parts by stage, in order; a stage has the shape of its last part."""
    sums: dict[str, Part] = {}
    for leaf in leaves:
        total = sums.get(leaf.stage, Part(leaf.stage, leaf.stage, (), 0, 0))
        sums[leaf.stage] = Part(
            leaf.stage,
            leaf.stage,
            leaf.shape,
            total.parameters + leaf.parameters,
            total.macs + leaf.macs,
            total.attention_macs + leaf.attention_macs,
        )
    return list(sums.values())


def count_torch_flops(compute: Callable[[], object]) -> int:
    """Return the operations that torch's counter finds in a computation; two per multiply-add.

    On `meta` nothing is actually computed.
    """
    with _flop_counter() as counter:
        compute()
    return int(counter.get_total_flops())


@torch.no_grad()
def count_macs(network: nn.Module, image_px: tuple[int, int]) -> int:
    """Return the multiply-adds for one image of (height, width), without computing anything."""
    on_meta = copy.deepcopy(network).to("meta").eval().requires_grad_(False)
    image = torch.zeros(1, 3, *image_px, device="meta")
    return count_torch_flops(lambda: on_meta(image)) // 2


@contextmanager
def _flop_counter() -> Iterator[FlopCounterMode]:
    """Count operations, with attention as two matrix products.

    torch has no formula for the fused operator on a CPU
    (`aten._scaled_dot_product_flash_attention_for_cpu`), so depending on the version its counter
    ignores it or counts its decomposition.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def _count(*modules: nn.Module) -> int:
    """Return the number of learned parameters of modules."""
    return sum(value.numel() for module in modules for value in module.parameters())


def _linear(module: nn.Module) -> int:
    """Return the multiply-adds of all linear layers of a module for one token."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(layer.in_features * layer.out_features for layer in layers)


def _mlp(mlp: nn.Module, tokens: int) -> int:
    assert isinstance(mlp, Mlp)
    return tokens * _linear(mlp)


def _patches(embed: PatchEmbed) -> int:
    """Return the multiply-adds of the patch embedding."""
    return embed.num_patches * embed.proj.weight.numel()


def _vit_parts(network: ViT) -> list[Part]:
    config, width = network.config, network.config.embed_dim
    tokens = config.prefix_tokens + network.patch_embed.num_patches
    inside = _count(network.blocks, network.norm, network.fc_norm, network.pre_logits, network.head)
    inside += _count(network.head_dist) if config.distilled else 0
    stem = _count(network) - inside
    shape: tuple[int, ...] = (*network.patch_embed.grid_size, width)
    rows = [Part("patch_embed", "patch_embed", shape, stem, _patches(network.patch_embed))]
    inner = config.num_heads * (config.head_dim or width // config.num_heads)
    attention = 4 * tokens * width * inner + 2 * tokens**2 * inner
    area = f"{width}^2" if inner == width else f"{width} * {inner}"
    formula = f"4 * {tokens} * {area} + 2 * {tokens}^2 * {inner} = {attention:,}"
    for index, block in enumerate(network.blocks):
        assert isinstance(block.mlp, nn.Module)
        macs = attention + _mlp(block.mlp, tokens)
        name = f"blocks.{index}"
        size = _count(block)
        rows.append(Part(name, "blocks", (tokens, width), size, macs, attention, formula))
    head = _linear(network.pre_logits) + _linear(network.head)
    head += _linear(network.head_dist) if config.distilled else 0
    shape = (network.num_classes or network.head_hidden_size,)
    size = inside - _count(network.blocks)
    return [*rows, Part("head", "head", shape, size, head)]


def _swin_parts(network: Swin) -> list[Part]:
    embed = network.patch_embed
    shape: tuple[int, ...] = (*embed.grid_size, network.config.embed_dim)
    rows = [Part("patch_embed", "patch_embed", shape, _count(embed), _patches(embed))]
    for index, stage in enumerate(network.layers):
        name, width = f"layers.{index}", network.config.embed_dim * 2**index
        assert isinstance(stage.blocks, nn.Sequential)
        blocks = [block for block in stage.blocks if isinstance(block, SwinBlock)]
        shape = (*blocks[0].grid, width)
        if isinstance(stage.downsample, PatchMerging):
            macs = shape[0] * shape[1] * stage.downsample.reduction.weight.numel()
            size = _count(stage.downsample)
            rows.append(Part(f"{name}.downsample", name, shape, size, macs))
        rows += [
            _swin_block(f"{name}.blocks.{number}", name, block, shape)
            for number, block in enumerate(blocks)
        ]
    size = _count(network.norm, network.head)
    shape = (network.num_classes or network.num_features,)
    return [*rows, Part("head", "head", shape, size, _linear(network.head))]


def _swin_block(name: str, stage: str, block: SwinBlock, shape: tuple[int, ...]) -> Part:
    """Return a block; its attention runs on the padded grid, its MLP on the grid itself.

    Source: Swin Transformer, Liu et al. 2021, sec. 3.2, eq. 2.
    """
    height, columns, width = shape
    tokens = (height + block.padding[0]) * (columns + block.padding[1])
    area = block.window[0] * block.window[1]
    attention = 4 * tokens * width**2 + 2 * area * tokens * width
    window = f"{block.window[0]} * {block.window[1]}"
    formula = f"4 * {tokens} * {width}^2 + 2 * {window} * {tokens} * {width} = {attention:,}"
    macs = attention + _mlp(block.mlp, height * columns)
    return Part(name, stage, shape, _count(block), macs, attention, formula)


def module_parts(network: nn.Module, image: Tensor) -> list[Part]:
    """Run a network on one image and return its modules in execution order.

    Their parameters and multiply-adds sum up to the network's.

    Modules without parameters and multiply-adds that keep the shape, such as activations, are
    omitted.

    The image is (1, 3, H, W). The network is in evaluation mode; on `meta` nothing is computed. Its
    parameters are frozen: torch's counter fails where one with a gradient is a module's input.
    """
    network.requires_grad_(False)
    watched = dict(_modules(network))
    operations = dict.fromkeys(watched, 0)
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []
    with torch.no_grad(), _flop_counter() as counter:
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
