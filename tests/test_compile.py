"""--compile: the same training, or three lines that say what is missing."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL_FLAGS, SMALL_SETTINGS, error_lines, same_weights, weights_of
from torch import nn

import swinclf
from swinclf.errors import DeviceError
from swinclf.training import compiling

pytestmark = pytest.mark.usefixtures("no_plots")


def test_a_compiled_training_ends_as_another(dataset, tmp_path, monkeypatch):
    compiled, compile_ = [], nn.Module.compile

    def spy(network, *arguments, **options):
        compiled.append(network)
        compile_(network, *arguments, **options)

    monkeypatch.setattr(compiling, "BACKEND", "eager")  # a real one takes a minute
    monkeypatch.setattr(nn.Module, "compile", spy)
    settings = {**SMALL_SETTINGS, "epochs": 1, "drop_path": 0.0, "out": str(tmp_path / "runs")}
    runs = [swinclf.train(dataset, compile=wanted, **settings) for wanted in (False, True)]
    assert len(compiled) == 1
    assert same_weights(*(weights_of(run.folder.path) for run in runs))


def test_the_real_backend_computes_the_same():
    try:
        compiling.require_compiler("cpu")
    except DeviceError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    expected = network(x)
    expected.sum().backward()
    gradient = network[0].weight.grad.clone()
    network.zero_grad()
    compiling.compile_network(network)
    found = network(x)
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network[0].weight.grad, gradient)


def test_without_a_compiler_it_ends_before_anything_is_read(cli, dataset, tmp_path, monkeypatch):
    def missing(*_):
        raise RuntimeError("No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(compiling, "BACKEND", missing)
    done = cli("train", dataset, *SMALL_FLAGS, "--compile")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "a compiler that torch.compile can use on cpu" in expected
    assert "No working C++ compiler found" in found
    assert hint.startswith("--no-compile")
    assert not (tmp_path / "runs").exists()
