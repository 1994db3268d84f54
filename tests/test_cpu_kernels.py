"""Linear layers for bfloat16 on CPUs give the plain formula's answers, whatever changed before."""

from __future__ import annotations

import copy
import pickle
import platform
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from network_cases import difference, images, randomise
from torch import Tensor, nn
from torch.nn import functional as F

from swinclf.models import cpu_kernels
from swinclf.models.cpu_kernels import bias_gradient, is_fused, linear, weight_gradient
from swinclf.models.layers import gelu_mlp
from swinclf.models.swin import Swin, SwinConfig
from swinclf.runtime import multiplies_bf16


@pytest.fixture(autouse=True, params=["fused", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute, and that it is this one: a CPU without bfloat16 has only the plain."""
    if request.param == "plain":
        monkeypatch.setattr(cpu_kernels, "_has_fused_linear", lambda: False)
    elif not cpu_kernels._has_fused_linear():
        pytest.skip("this CPU, or this PyTorch, has no fused linear layer in bfloat16")
    assert is_fused(torch.zeros(2, 2, dtype=torch.bfloat16)) is (request.param == "fused")


def test_a_cpu_with_bfloat16_has_the_fused_layer() -> None:
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if is_x86 and multiplies_bf16("cpu")[0]:
        assert torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not is_fused(torch.zeros(2, 2))
    assert not is_fused(torch.zeros(2, 2, dtype=torch.bfloat16, device="meta"))


ROUNDING = 2**-7  # of the largest value: two roundings to bfloat16


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def tiny() -> Swin:
    shape: dict[str, Any] = {"img_size": (64, 48), "embed_dim": 32, "window_size": 5}
    network = Swin(SwinConfig(depths=(2, 2), num_heads=(2, 4), num_classes=3, **shape))
    randomise(network)
    return network.bfloat16().eval()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 4, 32), (99, 32), (600, 32), (0, 32)])
def test_linear_layer_and_its_derivative(shape: tuple[int, ...], with_bias: bool) -> None:
    values = [random(*shape), random(48, 32, seed=1), *([random(48, seed=2)] * with_bias)]
    mine = [value.clone().requires_grad_() for value in values]
    exact = [value.double().requires_grad_() for value in values]
    out = linear(*mine[:2], mine[2] if with_bias else None)
    expected = F.linear(*exact)
    with torch.no_grad():
        plain = linear(*values[:2], values[2] if with_bias else None)
    assert out.shape == expected.shape
    assert out.dtype is torch.bfloat16
    if not out.numel():
        return
    weights = random(*out.shape, seed=3)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert difference(out, expected) < ROUNDING
    assert difference(plain, expected) < ROUNDING
    for a, b in zip(mine, exact, strict=True):
        assert difference(a.grad, b.grad) < ROUNDING


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [5, 99, 600])
def test_what_a_layer_is_added_to_is_part_of_the_product(tokens: int, dtype: torch.dtype) -> None:
    x, weight, bias = random(tokens, 32), random(48, 32, seed=1), random(48, seed=2)
    residual = random(48, tokens, seed=3).t().to(dtype)
    values = [value.clone().requires_grad_() for value in (x, weight, bias, residual)]
    expected = residual.double() + F.linear(x.double(), weight.double(), bias.double())
    out = linear(*values)
    with torch.no_grad():
        plain = linear(x, weight, bias, residual)
    assert out.dtype is plain.dtype is dtype
    assert difference(out, expected) < ROUNDING
    assert difference(plain, expected) < ROUNDING
    weights = random(*out.shape, seed=4)
    (out * weights).sum().backward()
    assert difference(values[3].grad, weights) == 0
    exact = weights.double().t() @ x.double()
    assert difference(values[1].grad, exact) < ROUNDING


def test_linear_layer_takes_any_layout() -> None:
    x, weight, bias = random(32, 7).t(), random(32, 48, seed=1).t(), random(96, seed=2)[::2]
    expected = F.linear(x.double(), weight.double(), bias.double())
    assert difference(linear(x, weight, bias), expected) < ROUNDING


def test_linear_layer_in_autocast() -> None:
    layer = nn.Linear(8, 4)
    x = random(3, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = linear(x, layer.weight, layer.bias), layer(x)
    assert out.dtype is expected.dtype is torch.bfloat16
    assert difference(out, expected) < ROUNDING
    out.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype is torch.float32


@pytest.mark.parametrize("tokens", [9, 300, 1100, 8192])
@pytest.mark.parametrize("sizes", [(288, 272), (272, 288), (8, 24), (24, 8)])
def test_weight_gradient_whichever_way_it_is_computed(tokens: int, sizes: tuple[int, int]) -> None:
    grad, x = random(tokens, sizes[0]), random(tokens, sizes[1], seed=1)
    expected = grad.double().t() @ x.double()
    assert difference(weight_gradient(grad, x), expected) < ROUNDING
    assert difference(bias_gradient(grad), grad.double().sum(0)) < ROUNDING


def test_mlp_without_gradients_is_the_mlp() -> None:
    x, w1, b1, w2, b2 = (
        random(*shape, seed=seed) * 0.3
        for seed, shape in enumerate([(6, 32), (64, 32), (64,), (32, 64), (32,)])
    )
    exact = [value.double() for value in (x, w1, b1, w2, b2)]
    expected = F.linear(F.gelu(F.linear(*exact[:3])), *exact[3:])
    assert difference(gelu_mlp(x, w1, b1, w2, b2), expected) < ROUNDING


def change_in_place(network: Swin) -> None:
    for value in network.parameters():
        value.mul_(0.9)


def change_behind_the_back(network: Swin) -> None:
    for value in network.parameters():
        value.data.mul_(0.9)


def change_one_number(network: Swin) -> None:
    for name, value in network.named_parameters():
        if name.endswith("bias_table"):
            value.data[3] += 2.0


def load(network: Swin) -> None:
    network.load_state_dict({name: value * 0.9 for name, value in network.state_dict().items()})


def cast(network: Swin) -> None:
    network.float()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "change", [change_in_place, change_behind_the_back, change_one_number, load, cast]
)
def test_changed_weights_are_seen_at_once(change: Any, mode: Any) -> None:
    network = tiny()
    x = images(network)
    manager: AbstractContextManager[object] = mode()
    with manager:
        before = network(x.bfloat16())
        change(network)
        dtype = next(network.parameters()).dtype
        after, fresh = network(x.to(dtype)), copy.deepcopy(network)(x.to(dtype))
    assert torch.equal(after, fresh)
    assert not torch.equal(after, before)


def test_what_is_kept_between_answers_stays_out_of_files_and_of_training() -> None:
    network = tiny()
    x = images(network).bfloat16()
    size = len(pickle.dumps(network))
    with torch.inference_mode():
        expected = network(x)
    assert len(pickle.dumps(network)) == size
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    for value in network.parameters():
        value.requires_grad_(False)
    x.requires_grad_()
    network(x).float().sum().backward()
    assert x.grad is not None
    assert difference(network.train()(x), expected) < 0.05
