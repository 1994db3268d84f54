"""Depthwise convolutions in bfloat16 on a CPU, with the backward pass in float32.

PyTorch's CPU library has a fast bfloat16 backward pass only for 3 x 3 kernels with stride 1. Others
take up to 20 times as long as in float32, and most of a training step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FAST_KERNEL, _FAST_STRIDE = (3, 3), (1, 1)


def differentiate_depthwise_in_float32(
    network: nn.Module,
) -> contextlib.AbstractContextManager[object]:
    """Return a context in which slow depthwise convolutions are differentiated in float32.

    Affects only bfloat16 autocast on a CPU, and no network without such a convolution or that is
    compiled.
    """
    is_compiled = getattr(network, "_compiled_call_impl", None) is not None
    convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    slow = any(
        one.weight.device.type == "cpu" and _is_slow(one.weight, one.stride) for one in convolutions
    )
    if is_compiled or not slow:  # the mode itself slows down every call a little
        return contextlib.nullcontext()
    return _Float32Derivatives()


def _is_slow(weight: Tensor, stride: Sequence[int] | int) -> bool:
    """Return whether the bfloat16 derivative of a convolution with this (C, 1, h, w) is slow."""
    pair = (stride, stride) if isinstance(stride, int) else tuple(stride)
    is_depthwise = weight.ndim == 4 and weight.shape[0] > 1 and weight.shape[1] == 1
    return is_depthwise and (tuple(weight.shape[2:]) != _FAST_KERNEL or pair != _FAST_STRIDE)


class _Float32Derivatives(TorchFunctionMode):
    """A mode that replaces the calls of `conv2d` whose backward pass is slow."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002 - part of the interface
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` or its replacement."""
        kwargs = kwargs or {}
        if func is torch.conv2d and _is_bfloat16_training(args[0]):
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


def _is_bfloat16_training(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    )


def _conv2d(
    input: Tensor,  # noqa: A002 - the names of torch.conv2d
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Compute `torch.conv2d`, (N, C, H, W) -> (N, D, H', W')."""
    if groups != input.shape[1] or isinstance(padding, str) or not _is_slow(weight, stride):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        low, small = input.to(torch.bfloat16), weight.to(torch.bfloat16)
        result: Tensor = _DepthwiseConvolution.apply(
            low, small, _pair(stride), _pair(padding), _pair(dilation), groups
        )
        return result if bias is None else result + bias.to(torch.bfloat16).view(-1, 1, 1)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _DepthwiseConvolution(torch.autograd.Function):
    """A convolution in bfloat16 with its backward pass in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        """Convolve, (N, C, H, W), (D, 1, h, w) -> (N, D, H', W')."""
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding, dilation, groups
        return torch.conv2d(x, weight, None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both tensors."""
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        by_x, by_weight, _ = torch.ops.aten.convolution_backward(
            *(one.float() for one in (*grads, x, weight)),
            *(None, stride, padding, dilation, False, [0, 0], groups, wanted),
        )
        low = (one if one is None else one.to(torch.bfloat16) for one in (by_x, by_weight))
        return (*low, None, None, None, None)
