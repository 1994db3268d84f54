"""Batch norm folded into convolutions: the same answers, and only where that holds."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from swinclf.config import Impl
from swinclf.device import Hardware, Precision
from swinclf.models.build import build_pretrained
from swinclf.models.compute import Computer
from swinclf.models.folding import fold_batch_norms
from swinclf.models.names import Architecture


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights that change what passes through it."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return network.eval()


def embedded() -> nn.Module:
    return build_pretrained(Architecture("embedded", Impl.TIMM, 5)).eval()


def random_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_random_statistics(timm.create_model(name, num_classes=5))


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


NETWORKS = {
    "embedded": (embedded, 49, 0),
    "resnet18": (lambda: random_network("resnet18"), 20, 0),
    # Norms before activations and convolutions: those that follow an addition stay.
    "densenet121": (lambda: random_network("densenet121"), 59, 62),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_folded_network_gives_the_same_answers(name):
    build, folded, left = NETWORKS[name]
    network = build()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    copied = copy.deepcopy(network)
    assert fold_batch_norms(copied) == folded
    assert norms(copied) == left
    found = copied(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_a_computer_leaves_the_network_as_it_is():
    network = embedded()
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    computer = Computer(network, Hardware("cpu", Precision.FP32, ""))
    assert norms(computer.trunk) == 0
    found = computer.logits(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert torch.equal(network(images), expected)


@torch.no_grad()
def test_bfloat16_weights_are_rounded_after_they_were_folded():
    network = embedded()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    found = Computer(network, Hardware("cpu", Precision.BF16, "")).logits(images)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_random_numbers_that_follow_do_not_change():
    torch.manual_seed(3)
    expected = torch.rand(1)
    network = random_network("resnet18")
    torch.manual_seed(3)
    fold_batch_norms(network)
    assert torch.equal(torch.rand(1), expected)


class Small(nn.Module):
    """A network of a convolution and a norm, in the way that a test asks for."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = norm or nn.BatchNorm2d(4)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(images))


class ReadsTwice(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        middle = self.convolution(images)
        return middle + self.norm(middle)


class RunsTwice(Small):
    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(3))
        self.convolution = nn.Conv2d(3, 3, 3)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.norm(self.convolution(images)))


class TooLargeForTheTrial(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != 224:
            raise ValueError("224 px")
        return super().forward_features(images)


class AsksItsNorm(Small):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward_features(images) * self.norm.weight.mean()


def batch_statistics() -> Small:
    return Small(nn.BatchNorm2d(4, track_running_stats=False))


def in_training() -> Small:
    network = with_random_statistics(Small())
    network.norm.train()
    return network


def with_a_hook() -> Small:
    network = with_random_statistics(Small())
    network.convolution.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return network


def with_computed_weights() -> Small:
    network = with_random_statistics(Small())
    nn.utils.parametrizations.weight_norm(network.convolution)
    return network


def of_another_kind() -> Small:
    class Doubling(nn.BatchNorm2d):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(values)

    return with_random_statistics(Small(Doubling(4)))


@pytest.mark.parametrize(
    "build",
    [
        *(lambda kind=kind: with_random_statistics(kind()) for kind in (ReadsTwice, RunsTwice)),
        *(
            lambda kind=kind: with_random_statistics(kind())
            for kind in (TooLargeForTheTrial, AsksItsNorm)
        ),
        *(batch_statistics, in_training, with_a_hook, with_computed_weights, of_another_kind),
    ],
)
@torch.no_grad()
def test_what_cannot_be_folded_is_left_alone(build):
    network = build()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(network).forward_features(images)
    assert fold_batch_norms(network) == 0
    assert norms(network) == 1
    torch.testing.assert_close(network.forward_features(images), expected, rtol=0, atol=0)


def test_a_norm_without_weights_is_folded():
    network = with_random_statistics(Small())
    network.norm = nn.BatchNorm2d(4, affine=False).eval()
    network.norm.running_var.fill_(4)
    images = torch.randn(1, 3, 16, 16)
    expected = network.forward_features(images)
    assert fold_batch_norms(network) == 1
    torch.testing.assert_close(network.forward_features(images), expected)
