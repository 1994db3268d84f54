"""Depthwise convolutions in bfloat16 on a CPU: the derivatives of slow ones are in float32."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from conftest import SMALL_SETTINGS
from torch import nn

import swinclf
from swinclf.models import depthwise
from swinclf.models.depthwise import differentiate_depthwise_in_float32
from swinclf.models.freeze import train_mode

REPLACED = "_DepthwiseConvolutionBackward"


def gradients(network, images, *, in_float32, autocast=True):
    """The output of a network and the gradients of its sum of squares, by name."""
    network = copy.deepcopy(network)
    context = differentiate_depthwise_in_float32(network) if in_float32 else torch.enable_grad()
    with context:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = network(images)
        output.float().square().sum().backward()
    return output.detach(), {name: one.grad for name, one in network.named_parameters()}


@pytest.mark.parametrize(
    ("options", "is_replaced"),
    [
        ({"kernel_size": 3, "padding": 1, "groups": 8}, False),
        ({"kernel_size": 3, "padding": 1, "groups": 8, "stride": 2}, True),
        ({"kernel_size": 5, "padding": 2, "groups": 8}, True),
        ({"kernel_size": 5, "padding": 2, "groups": 8, "bias": False}, True),
        ({"kernel_size": (3, 5), "padding": (1, 2), "groups": 8, "dilation": 2}, True),
        ({"kernel_size": 5, "padding": "same", "groups": 8}, False),
        ({"kernel_size": 5, "padding": 2, "groups": 4}, False),
        ({"kernel_size": 5, "padding": 2}, False),
    ],
)
def test_the_slow_ones_are_replaced_and_give_the_same(options, is_replaced):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, **options)
    images = torch.randn(2, 8, 12, 12)
    with differentiate_depthwise_in_float32(nn.Conv2d(8, 8, 5, groups=8)):
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(images)
        names, waiting = set(), [output.grad_fn]
        while waiting:
            node = waiting.pop()
            names.add(node.name())
            waiting += [one for one, _ in node.next_functions if one is not None]
    assert (REPLACED in names) == is_replaced
    exact, exact_by = gradients(layer, images, in_float32=False, autocast=False)
    plain, plain_by = gradients(layer, images, in_float32=False)
    found, found_by = gradients(layer, images, in_float32=True)
    assert found.dtype is plain.dtype
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)
    for name, one in found_by.items():
        assert one.dtype is plain_by[name].dtype
        limit = 0.02 * float(exact_by[name].norm())
        assert float((one - exact_by[name]).norm()) < limit, name


def test_a_whole_network_learns_the_same():
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    train_mode(network, frozen_statistics=True)
    images = torch.randn(2, 3, 64, 64)
    plain, plain_by = gradients(network, images, in_float32=False)
    found, found_by = gradients(network, images, in_float32=True)
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05 * float(plain.abs().max()))
    for name, one in found_by.items():
        norm = float(plain_by[name].norm())
        assert float((one - plain_by[name]).norm()) <= 0.25 * norm + 1e-6, name


def test_inputs_that_need_no_gradient_get_none():
    layer = nn.Conv2d(4, 4, 5, groups=4)
    images = torch.randn(1, 4, 8, 8)
    with differentiate_depthwise_in_float32(layer), torch.autocast("cpu", torch.bfloat16):
        layer(images).float().sum().backward()
        assert layer.weight.grad is not None
        frozen = copy.deepcopy(layer).requires_grad_(False)
        images.requires_grad_()
        frozen(images).float().sum().backward()
    assert images.grad is not None
    assert frozen.weight.grad is None


def test_float32_and_inference_stay_as_they_are(monkeypatch):
    def never(*_, **__):
        raise AssertionError("replaced")

    monkeypatch.setattr(depthwise, "_conv2d", never)
    layer = nn.Conv2d(4, 4, 5, groups=4)
    images = torch.randn(1, 4, 8, 8)
    with differentiate_depthwise_in_float32(layer):
        layer(images)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            layer(images)
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(AssertionError, match="replaced"):
            layer(images)


def test_other_networks_pay_nothing():
    before = torch.conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    with differentiate_depthwise_in_float32(dense):
        assert torch.overrides._len_torch_function_stack() == 0
    assert torch.equal(before, torch.zeros(1, 1, 1, 1))
    elsewhere = nn.Conv2d(4, 4, 5, groups=4, device="meta")
    with differentiate_depthwise_in_float32(elsewhere):
        assert torch.overrides._len_torch_function_stack() == 0


def test_a_training_in_bfloat16_uses_it(trained, tmp_path, monkeypatch):
    calls = []
    original = depthwise._DepthwiseConvolution.backward

    def counting(ctx, *grads):
        calls.append(len(grads))
        return original(ctx, *grads)

    monkeypatch.setattr(depthwise._DepthwiseConvolution, "backward", staticmethod(counting))
    settings = {**SMALL_SETTINGS, "model": "embedded", "img_size": 64, "precision": "bf16"}
    del settings["pretrained"]
    swinclf.train(trained.data, out=str(tmp_path), freeze_layers=False, **{**settings, "epochs": 1})
    assert len(calls) == 11 * 4  # slow convolutions, steps
