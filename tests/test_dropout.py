"""Dropout by random bits, of values and of attention weights: its distribution and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from network_cases import difference, images, randomise
from torch import Tensor

from swinclf.models.accelerated import accelerate, linear, vit_attention
from swinclf.models.accelerated.dropout import RandomBits, drop
from swinclf.models.accelerated.vit_attention import FastAttention, _Attention
from swinclf.models.vit import ViT, ViTConfig

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
SHAPE = {"img_size": (48, 32), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def network(**changes: float) -> ViT:
    built = ViT(ViTConfig(**SHAPE, num_classes=3, **changes))
    randomise(built)
    return built.train()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropped_values_are_as_many_as_they_should_and_the_others_scaled(rate, dtype):
    torch.manual_seed(0)
    x = torch.full((40, 3, 1001), 2.0, dtype=dtype, requires_grad=True)
    out = drop(x, rate, True)
    assert out.dtype is dtype
    scale = torch.tensor(2 / (1 - rate), dtype=dtype)
    assert set(out.unique().tolist()) == {0.0, scale.item()}
    deviation = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs((out == 0).double().mean().item() - rate) < 4 * deviation
    out.backward(torch.full_like(out, 3.0))
    torch.testing.assert_close(x.grad, out * 1.5)
    neighbours = ((out[..., 1:] == 0) & (out[..., :-1] == 0)).double().mean().item()
    assert abs(neighbours - rate**2) < 8 * deviation, "independent of each other"


def test_a_seed_repeats_the_mask_and_evaluation_has_none():
    x = torch.randn(100, 10)
    torch.manual_seed(3)
    first, second = drop(x, 0.3, True), drop(x, 0.3, True)
    torch.manual_seed(3)
    assert torch.equal(drop(x, 0.3, True), first)
    assert not torch.equal(second, first)
    assert drop(x, 0.3, False) is x
    assert drop(x, 0.0, True) is x


@pytest.mark.parametrize("portion", [1, 2 * 3 * 20 * 20, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_the_formula_with_some_weights_dropped(monkeypatch, portion, dtype):
    monkeypatch.setattr(vit_attention, "PORTION_SCORES", portion)
    n, heads, tokens, each, rate = 5, 3, 20, 8, 0.2
    qkv = torch.randn(n, tokens, 3 * heads * each, dtype=dtype, requires_grad=True)
    found = _Attention.apply(qkv, heads, RandomBits(rate, 7))
    masks, bits = [], RandomBits(rate, 7)
    for part in vit_attention._portions(n, heads * tokens**2):
        count = len(range(*part.indices(n)))
        masks.append(torch.ones(count, heads, tokens, tokens, dtype=dtype))
        bits.set_signs(masks[-1])
    kept = torch.cat(masks) > 0
    assert abs(kept.double().mean().item() - 0.8) < 0.02

    def formula(values: Tensor) -> Tensor:
        q, k, v = values.view(n, tokens, 3, heads, each).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT * each**-0.5, -1) * kept / (1 - rate)
        return (weights @ v).transpose(1, 2).flatten(2)

    expected = formula(qkv)
    grad = torch.randn_like(expected)
    (its,) = torch.autograd.grad(expected, qkv, grad)
    for _ in range(2):  # the stored weights are not used up
        (mine,) = torch.autograd.grad(found, qkv, grad, retain_graph=True)
        assert difference(mine, its) < 1e-5
    assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("changes", [{"attn_dropout": 0.3}, {"mlp_dropout": 0.3}])
def test_a_network_drops_as_often_as_its_reference(changes):
    """The mean over many masks is that of torch's masks, and a step repeats under a seed."""
    reference = network(**changes)
    fast = copy.deepcopy(reference)
    accelerate(fast)
    kinds = {type(module) for module in fast.modules()}
    assert FastAttention in kinds
    x = images(reference, 4)
    answers = []
    for one in (reference, fast):
        torch.manual_seed(0)
        logits = torch.stack([one(x).detach() for _ in range(120)])
        answers.append((logits.mean(0), logits.std(0)))
    (mean, deviation), (fast_mean, fast_deviation) = answers
    assert ((mean - fast_mean).abs() < 5 * (2 / 120) ** 0.5 * deviation).all()
    assert (fast_deviation / deviation - 1).abs().max() < 0.3
    gradients = []
    for _ in range(2):
        torch.manual_seed(5)
        fast.zero_grad()
        fast(x).sum().backward()
        gradients.append([value.grad.clone() for value in fast.parameters()])
    assert all(map(torch.equal, *gradients))
    assert torch.equal(fast.eval()(x), fast(x))


def test_in_bfloat16_the_gradients_are_near_the_exact_ones():
    qkv = torch.randn(4, 144, 3 * 2 * 16)
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        values = qkv.to(dtype).requires_grad_()
        out = _Attention.apply(values, 2, None)
        out.square().sum().backward()
        results.append((out.detach(), values.grad))
    for exact, rounded in zip(*results, strict=True):
        assert difference(rounded, exact) < 0.03


def test_without_dropout_the_attention_is_torchs():
    qkv = torch.randn(3, 20, 3 * 2 * 8, dtype=torch.float64, requires_grad=True)
    q, k, v = qkv.view(3, 20, 3, 2, 8).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    found, grad = _Attention.apply(qkv, 2, None), torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    pairs = [torch.autograd.grad(one, qkv, grad)[0] for one in (found, expected)]
    torch.testing.assert_close(*pairs)


@pytest.mark.parametrize(
    ("changes", "dtype", "limit", "used"),
    [
        ({}, torch.bfloat16, 24, True),
        ({}, torch.bfloat16, 23, False),  # tokens: 6 x 4 patches
        ({}, torch.float32, 24, False),
        ({"attn_dropout": 0.1}, torch.float32, 0, True),
    ],
)
def test_weights_are_stored_where_that_is_faster(monkeypatch, changes, dtype, limit, used):
    monkeypatch.setattr(vit_attention, "BF16_TOKENS", limit)
    monkeypatch.setattr(linear, "has_fused_linear", lambda: True)
    built = network(class_token=False, pool="avg", **changes).to(dtype)
    accelerate(built)
    attention = built.blocks[0].attn
    assert attention._pays(torch.zeros(1, 24, 32, dtype=dtype)) is used
    assert not attention.eval()._pays(torch.zeros(1, 24, 32, dtype=dtype))
