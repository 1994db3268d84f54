"""Inference: a network on a device, in a precision, without gradients."""

from __future__ import annotations

import copy

import torch
from torch import nn

from swinclf.device import Hardware, Precision, fixed_batch_size
from swinclf.models.folding import fold_batch_norms

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


REVISION = 3  # raised when the rounding of results changes: 2, batch norm is folded


class Computer:
    """A network prepared for inference.

    The network, in float32, is moved to the device and set to evaluation mode; its weights are not
    changed.

    In bf16 or fp16 only the trunk uses that precision; pooling and head stay in float32, where
    rounding matters most: a logit of 5 has only 8 bits in bf16, while the rounding errors of many
    tokens average out. The trunk of a convolutional network is a copy in channels-last format with
    batch norm folded into the convolutions.
    """

    def __init__(self, network: nn.Module, hardware: Hardware) -> None:
        self.dtype = DTYPES[hardware.precision]
        self.network = network.eval().to(hardware.device)
        self.trunk = self.network
        self._format = torch.contiguous_format
        if is_convolutional(network):  # about twice as fast on a CPU in channels-last format
            self._format = torch.channels_last
            self.trunk = _copy_in(self.network, torch.float32)
            fold_batch_norms(self.trunk)
            self.trunk.to(self.dtype).to(memory_format=self._format)
        elif self.dtype is not torch.float32:
            self.trunk = _copy_in(self.network, self.dtype)

    def to(self, device: str) -> None:
        """Move the network to another device."""
        self.network.to(device)
        self.trunk.to(device)

    @torch.inference_mode()
    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute logits: (N, 3, H, W) float32 on the device -> (N, K) float32."""
        logits: torch.Tensor = self.network.forward_head(self._trunk(inputs))  # type: ignore[operator]
        return logits

    @torch.inference_mode()
    def outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits (N, K) and features (N, D), float32, of (N, 3, H, W) float32."""
        tokens = self._trunk(inputs)
        logits: torch.Tensor = self.network.forward_head(tokens)  # type: ignore[operator]
        features: torch.Tensor = self.network.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return logits, features

    @torch.inference_mode()
    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the classifier's input: (N, 3, H, W) float32 on the device -> (N, D) float32."""
        features: torch.Tensor = self.network.forward_head(  # type: ignore[operator]
            self._trunk(inputs), pre_logits=True
        )
        return features

    def _trunk(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.to(self.dtype, memory_format=self._format)
        tokens: torch.Tensor = self.trunk.forward_features(inputs)  # type: ignore[operator]
        return tokens.float()


def _copy_in(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a network in another precision, converting each tensor without an extra copy."""
    converted: dict[int, torch.Tensor] = {}
    for parameter in network.parameters():
        converted[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            converted[id(buffer)] = buffer.to(dtype)
    return copy.deepcopy(network, converted)


def is_convolutional(network: nn.Module) -> bool:
    """Return whether most weights of a network are in convolutions: neither a Swin nor a ViT."""
    convolutions = {id(one.weight) for one in network.modules() if isinstance(one, nn.Conv2d)}
    weights = [(one.numel(), id(one) in convolutions) for one in network.parameters()]
    return 2 * sum(count for count, within in weights if within) > sum(
        count for count, _ in weights
    )


def has_linear_head(network: nn.Module) -> bool:
    """Return whether the head is one linear layer, as `head_logits` requires."""
    return isinstance(network.get_classifier(), nn.Linear)  # type: ignore[operator]


@torch.inference_mode()
def head_logits(network: nn.Module, features: torch.Tensor, device: str) -> torch.Tensor:
    """Compute logits, (N, K), from cached features of `Computer.features`, (N, D), N > 0.

    Both are float32. The network has a linear head, which is on `device`. The logits are on the CPU
    and bit-identical to those of full batches of images.
    """
    head = copy.deepcopy(network.get_classifier()).to(device)  # type: ignore[operator]
    logits, size = [], fixed_batch_size(device)
    for rows in features.split(size):
        whole = torch.cat([rows, rows[-1:].expand(size - len(rows), -1)])
        logits.append(head(whole.to(device))[: len(rows)].cpu())
    return torch.cat(logits)
