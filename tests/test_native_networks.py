"""Both networks compile as one graph and export with any batch size, the Swin accelerated."""

from __future__ import annotations

import io
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from network_cases import FLOAT32_TOLERANCE, difference, images
from test_native_swin import tiny as tiny_swin
from test_native_vit import tiny as tiny_vit
from torch import nn

from swinclf.models.accelerated import accelerate


def accelerated_swin() -> nn.Module:
    network = tiny_swin()
    accelerate(network)
    return network


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.parametrize(
    "build", [lambda: tiny_vit(distilled=True), accelerated_swin], ids=["vit", "swin"]
)
def test_compiles_whole(build: Callable[[], nn.Module]) -> None:
    network = build()
    x = images(network)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert difference(compiled(x), network(x)) < FLOAT32_TOLERANCE
    compiled(x).sum().backward()
    assert all(one.grad is not None for one in network.parameters())


@pytest.mark.parametrize(
    "build",
    [lambda: tiny_vit(reg_tokens=1, no_embed_class=True), accelerated_swin],
    ids=["vit", "swin"],
)
def test_exports_with_any_batch(build: Callable[[], nn.Module]) -> None:
    network = build()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    example = images(network, 2)
    exported = torch.export.export(network, (example,), dynamic_shapes=(batch,))
    stream = io.BytesIO()
    torch.onnx.export(exported, dynamo=True, verbose=False).save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for count in (1, 2, 7):
        x = images(network, count)
        with torch.no_grad():
            expected = network(x)
            assert difference(exported.module()(x), expected) < FLOAT32_TOLERANCE
        (found,) = session.run(None, {name: x.numpy()})
        assert difference(torch.from_numpy(found), expected) < FLOAT32_TOLERANCE
