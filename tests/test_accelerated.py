"""Accelerated networks give the reference's answers and gradients, in every precision and mode."""

from __future__ import annotations

import copy
import pickle
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from network_cases import FLOAT32_TOLERANCE, Network, difference, images, randomise
from torch import Tensor, nn

from swinclf.config import Impl
from swinclf.device import Precision, multiplies_natively
from swinclf.models.accelerated import accelerate, linear, mlp, stage
from swinclf.models.accelerated.linear import (
    FastLinear,
    TrainedLinear,
    has_fused_linear,
    is_fused,
    product,
)
from swinclf.models.accelerated.mlp import FastMlp, PortionedMlp
from swinclf.models.accelerated.window_attention import FastWindowAttention
from swinclf.models.build import create_network
from swinclf.models.names import Architecture
from swinclf.models.swin import Swin, SwinConfig
from swinclf.models.vit import ViT, ViTConfig


def swin(**changes: Any) -> Swin:
    shape: dict[str, Any] = {"img_size": (64, 48), "embed_dim": 32, "window_size": 5}
    return Swin(SwinConfig(depths=(2, 2), num_heads=(2, 4), num_classes=3, **{**shape, **changes}))


def vit(**changes: Any) -> ViT:
    shape = {"img_size": (48, 32), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return ViT(ViTConfig(**{**shape, "num_classes": 3, **changes}))


NETWORKS: dict[str, Callable[[], Network]] = {
    "swin, padded to windows": swin,
    "swin, whole windows": lambda: swin(img_size=(64, 64), window_size=4),
    "swin, no bias, wide": lambda: swin(img_size=(56, 56), qkv_bias=False, mlp_ratio=3.0),
    "swin, drop path": lambda: swin(drop_path=0.5, head_dropout=0.5),
    "vit": vit,
    "vit, drop path": lambda: vit(drop_path=0.5, head_dropout=0.2, head_dim=10),
    "vit, layer scale": lambda: vit(no_embed_class=True, layer_scale=0.5),
    "vit, swiglu": lambda: vit(activation="swiglu", pool="avg", qkv_bias=False),
}
EXACT = {"float64": torch.float64, "float32": torch.float32}
ROUNDED = {"bfloat16": torch.bfloat16, "autocast": torch.float32}
MODES = {"train": torch.enable_grad, "eval": torch.no_grad, "inference": torch.inference_mode}


@pytest.fixture(params=["fused", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute: a CPU without bfloat16 has only the plain one."""
    if request.param == "plain":
        monkeypatch.setattr(linear, "has_fused_linear", lambda: False)
    elif not has_fused_linear():
        pytest.skip("this CPU, or this PyTorch, has no fused linear layer in bfloat16")
    return str(request.param)


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions so small that these small networks are cut into several."""
    monkeypatch.setattr(mlp, "PORTIONED_VALUES", 0)
    monkeypatch.setattr(mlp, "_portion", lambda _x, _hidden: 100)
    monkeypatch.setattr(stage, "PORTION_TOKENS", 2 * 16 * 12)
    monkeypatch.setattr(linear, "TRAINED_TOKENS", 0)


@pytest.fixture(params=["as measured", "small portions"])
def portions(request: pytest.FixtureRequest) -> None:
    """Portions as they are, and small ones."""
    if request.param == "small portions":
        request.getfixturevalue("small_portions")


def pair(build: Callable[[], Network], dtype: torch.dtype, mode: str) -> tuple[Network, Network]:
    """Return the reference and the same network accelerated."""
    reference = build()
    randomise(reference)
    reference.to(dtype).train(mode == "train")
    fast = copy.deepcopy(reference)
    accelerate(fast)
    return reference, fast


def answers(network: Network, x: Tensor, mode: str, *, amp: bool = False) -> list[Tensor]:
    """Return the logits and, where the mode has them, the gradients of all parameters and of x."""
    torch.manual_seed(7)  # of what drop path and dropout draw
    x = x.clone().requires_grad_(mode == "train")
    manager: AbstractContextManager[object] = MODES[mode]()
    with manager, torch.autocast("cpu", torch.bfloat16) if amp else nullcontext():
        logits = network(x)
    if mode != "train":
        return [logits]
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weights.to(logits)).sum().backward()
    return [logits, *(value.grad for value in (x, *network.parameters()) if value.grad is not None)]


@pytest.mark.usefixtures("portions")
@pytest.mark.parametrize("mode", ["train", "inference"])
@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("name", NETWORKS)
def test_answers_and_gradients_are_the_references(name: str, dtype: str, mode: str) -> None:
    reference, fast = pair(NETWORKS[name], EXACT[dtype], mode)
    x = images(reference, 5).to(EXACT[dtype])
    expected, found = answers(reference, x, mode), answers(fast, x, mode)
    assert (
        len(found) == len(expected) == (2 + len(list(fast.parameters())) if mode == "train" else 1)
    )
    for mine, its in zip(found, expected, strict=True):
        assert mine.dtype is its.dtype
        assert difference(mine, its) < FLOAT32_TOLERANCE


PLAIN = ("swin, padded to windows", "vit", "vit, swiglu")


@pytest.mark.usefixtures("small_portions", "kernels")
@pytest.mark.parametrize("mode", ["train", "inference"])
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(
    ("name", "kernels"),
    [(one, "fused") for one in NETWORKS] + [(one, "plain") for one in PLAIN],
    indirect=["kernels"],
)
def test_in_bfloat16_they_are_as_near_the_exact_ones(name: str, dtype: str, mode: str) -> None:
    reference, fast = pair(NETWORKS[name], torch.float32, mode)
    x = images(reference, 5)
    if "drop" in name and mode == "train":
        reference.eval(), fast.eval()  # what is drawn depends on the precision
    exact = answers(copy.deepcopy(reference), x, mode)
    for network in (reference, fast):
        network.to(ROUNDED[dtype])
    rounded = {"amp": dtype == "autocast"}
    its = answers(reference, x.to(ROUNDED[dtype]), mode, **rounded)
    mine = answers(fast, x.to(ROUNDED[dtype]), mode, **rounded)
    for ours, theirs, true in zip(mine, its, exact, strict=True):
        assert ours.dtype is theirs.dtype
        assert difference(ours, true) < 2 * difference(theirs, true) + 0.02


def test_a_cpu_with_bfloat16_has_the_fused_layer(kernels: str) -> None:
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if is_x86 and multiplies_natively("cpu", Precision.BF16)[0]:
        assert torch.ops.mkldnn._is_mkldnn_bf16_supported()
    x = torch.zeros(2, 2, dtype=torch.bfloat16)
    with torch.no_grad():
        assert is_fused(x, x) is (kernels == "fused")
        assert not is_fused(x, x.float())
        assert not is_fused(x.float(), x.float())
        assert not is_fused(x.to("meta"), x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert is_fused(x.float(), x.float()) is (kernels == "fused")
            assert not is_fused(x.double(), x.double())
        with torch.autocast("cpu", torch.float16):
            assert not is_fused(x.float(), x.float())


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 4, 32), (600, 32), (0, 32)])
def test_products_take_any_shape_and_layout(shape: tuple[int, ...], activation: str) -> None:
    if not has_fused_linear():
        pytest.skip("this CPU, or this PyTorch, has no fused linear layer in bfloat16")
    layer = nn.Linear(32, 48).bfloat16().requires_grad_(False)
    layer.weight.data = torch.randn(32, 48).bfloat16().t()
    layer.bias.data = torch.randn(96).bfloat16()[::2]
    x = torch.randn(shape[::-1]).bfloat16().permute(*reversed(range(len(shape))))
    act = nn.functional.gelu if activation == "gelu" else nn.Identity()
    expected = act(copy.deepcopy(layer).double()(x.double()))
    out = product(x, layer.weight, layer.bias, activation)
    assert out.shape == expected.shape
    assert out.dtype is torch.bfloat16
    if out.numel():
        assert difference(out, expected) < 2**-7


def test_faster_parts_are_used_where_they_are_meant() -> None:
    network = swin(img_size=(64, 64), window_size=4)
    accelerate(network)
    x = images(network, 5)
    with (
        mock.patch.object(mlp, "PORTIONED_VALUES", 0),
        mock.patch.object(mlp._MlpInPortions, "apply", side_effect=mlp._MlpInPortions.apply) as own,
    ):
        network(x)
        assert own.call_count == 4
        with torch.no_grad():
            network(x)
        vit_network = vit()
        accelerate(vit_network)
        vit_network(images(vit_network))
    assert own.call_count == 4
    if has_fused_linear():
        with mock.patch.object(mlp, "product", side_effect=product) as fused, torch.no_grad():
            network.bfloat16()(x.bfloat16())
        assert fused.call_count == 8
        x = x.bfloat16()
        with mock.patch.object(linear, "TRAINED_TOKENS", 0):
            one = mock.patch.object(linear, "product", side_effect=product)
            with one as fused:
                network(x).sum().backward()
        assert fused.call_count == 4 * 4 + 1  # of each block, and of the patch merging


def test_classes_change_and_nothing_else() -> None:
    reference, fast = pair(swin, torch.float32, "eval")
    assert list(fast.state_dict()) == list(reference.state_dict())
    assert [name for name, _ in fast.named_modules()] == [
        name for name, _ in reference.named_modules()
    ]
    assert [name for name, _ in fast.named_buffers()] == [
        name for name, _ in reference.named_buffers()
    ]
    kinds = {type(module) for module in fast.modules()}
    assert {TrainedLinear, PortionedMlp, FastWindowAttention} <= kinds
    assert type(fast.get_classifier()) is nn.Linear
    for module, its in zip(fast.modules(), reference.modules(), strict=True):
        assert isinstance(module, type(its))
    before = dict(vars(fast))
    accelerate(fast)  # once more changes nothing
    assert vars(fast) == before
    other = nn.Linear(2, 2)
    accelerate(other)
    assert type(other) is nn.Linear
    transformer = vit()
    accelerate(transformer)
    assert {type(one) for one in transformer.modules()} >= {FastLinear, FastMlp}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_are_built_accelerated(name: str) -> None:
    network = create_network(Architecture(name, Impl.NATIVE, 2, 32))
    assert any(isinstance(module, FastMlp) for module in network.modules())


def test_copies_and_files_of_a_network_compute_the_same() -> None:
    _, fast = pair(swin, torch.bfloat16, "eval")
    x = images(fast).bfloat16()
    with torch.no_grad():
        expected = fast(x)
        assert torch.equal(copy.deepcopy(fast)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(fast))(x), expected)
        for value in fast.parameters():
            value.data.mul_(0.9)  # changed weights are used at once
        assert torch.equal(copy.deepcopy(fast)(x), fast(x))
        assert not torch.equal(fast(x), expected)


@pytest.mark.usefixtures("portions")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["swin, whole windows", "vit"])
def test_hooks_see_what_they_see_in_the_reference(name: str, mode: str) -> None:
    seen: list[list[tuple[str, Tensor]]] = []
    x = images(NETWORKS[name](), 5).bfloat16()
    for network in pair(NETWORKS[name], torch.bfloat16, mode):
        outputs: list[tuple[str, Tensor]] = []

        def keep(part: str, into: list[tuple[str, Tensor]] = outputs) -> Callable[..., None]:
            return lambda _module, _inputs, out: into.append((part, out))

        for part, module in network.named_modules():
            module.register_forward_hook(keep(part))
        answers(network, x, mode)
        seen.append(outputs)
    reference, fast = seen
    assert [part for part, _ in fast] == [part for part, _ in reference]
    for (part, mine), (_, its) in zip(fast, reference, strict=True):
        assert mine.shape == its.shape, part
        assert difference(mine, its) < 0.05, part


@pytest.mark.usefixtures("portions")
@pytest.mark.parametrize("frozen", ["layers.0", "bias_table", "norm", "mlp.fc1", "qkv.weight"])
def test_frozen_parts_get_no_gradients_and_change_no_others(frozen: str) -> None:
    reference, fast = pair(swin, torch.float32, "train")
    for network in (reference, fast):
        for name, value in network.named_parameters():
            value.requires_grad_(frozen not in name)
        network(images(network)).square().sum().backward()
    for (name, mine), its in zip(fast.named_parameters(), reference.parameters(), strict=True):
        assert (mine.grad is None) == (its.grad is None) == (frozen in name), name
        if mine.grad is not None:
            assert difference(mine.grad, its.grad) < FLOAT32_TOLERANCE, name
