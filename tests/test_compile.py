"""--compile: the same training, or three lines that say what is missing; where it is chosen."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from conftest import SMALL_FLAGS, SMALL_SETTINGS, error_lines, same_weights, weights_of
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import swinclf
from swinclf.data.folder import scan_folder
from swinclf.device import Hardware, Precision, choose_hardware
from swinclf.pipeline.forecast import rough_dataset
from swinclf.pipeline.plan import resolve_plan
from swinclf.pipeline.starting_model import build_starting_model, resolve_machine
from swinclf.reporter import SILENT
from swinclf.settings import gather_settings
from swinclf.training import compilation, defaults
from swinclf.training.defaults import Regime, TrainingFacts, choose_schedule
from swinclf.training.feature_extraction import ExtractedFeatures


def test_a_compiled_training_ends_as_another(dataset, tmp_path, monkeypatch):
    compiled, compile_ = [], nn.Module.compile

    def spy(network, *arguments, **options):
        compiled.append(network)
        compile_(network, *arguments, **options)

    monkeypatch.setattr(compilation, "BACKEND", "eager")  # a real one takes a minute
    monkeypatch.setattr(nn.Module, "compile", spy)
    settings = {**SMALL_SETTINGS, "epochs": 1, "drop_path": 0.0, "out": str(tmp_path / "runs")}
    runs = [swinclf.train(dataset, compile=wanted, **settings) for wanted in ("off", "on")]
    assert len(compiled) == 1
    assert same_weights(*(weights_of(run.folder.path) for run in runs))


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler for C++")
def test_the_real_backend_computes_the_same():
    from torch._inductor import config

    # What makes later compilations quick takes half a minute before the first.
    quick = {"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": True}
    torch.manual_seed(0)
    network, x = nn.GELU().eval(), torch.randn(4, 6)
    with config.patch(quick), torch.no_grad():
        expected = network(x)
        compilation.compile_network(network)
        torch.testing.assert_close(network(x), expected)
    assert compilation.BACKEND == "inductor"
    assert network._compiled_call_impl is not None


class Doubled(nn.Module):
    """A small network that is not one of torch's own modules, which may be left uncompiled."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return 2 * self.linear(x)


@pytest.mark.parametrize("failing", ["forward", "backward"])
def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, failing):
    failed = []

    def fail(*_):
        failed.append(failing)
        raise RuntimeError("no such kernel")

    def succeed(graph, _):
        return make_boxed_func(graph.forward)

    compilers = {"fw_compiler": succeed, "bw_compiler": succeed}
    compilers[{"forward": "fw_compiler", "backward": "bw_compiler"}[failing]] = fail
    monkeypatch.setattr(compilation, "BACKEND", aot_autograd(**compilers))
    network, x = Doubled(), torch.ones(4, 3)
    network(x).square().sum().backward()
    expected = network.linear.weight.grad.clone()
    network.zero_grad()
    torch._dynamo.reset()
    compilation.compile_network(network)
    network(x).square().sum().backward()
    assert failed
    torch.testing.assert_close(network.linear.weight.grad, expected)


def test_the_one_warning_about_python_3_13_0_is_ignored_and_no_other():
    compilation.compile_network(nn.Linear(2, 2))
    text = "Guards may run slower on Python 3.13.0. Consider upgrading to Python 3.13.1+."
    warnings.warn(text, RuntimeWarning, stacklevel=1)
    with pytest.raises(RuntimeWarning, match="another"):
        warnings.warn("another", RuntimeWarning, stacklevel=1)


def test_without_a_compiler_it_ends_before_anything_is_read(cli, dataset, tmp_path, monkeypatch):
    def missing(*_):
        raise RuntimeError("No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(compilation, "BACKEND", missing)
    done = cli("train", dataset, *SMALL_FLAGS, "--compile", "on")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    device = choose_hardware().device
    assert f"a compiler that torch.compile can use on {device}" in expected
    assert "No working C++ compiler found" in found
    assert hint.startswith("--compile off")
    assert not (tmp_path / "runs").exists()


SHORT = "about 3 min of training, and compiling pays from 4 min on"


@pytest.mark.parametrize(
    ("given", "regime", "missing", "chosen", "reason"),
    [
        ({}, Regime.FULL, "", "on", "about 9 min of training on an NVIDIA GPU"),
        ({"compile": "auto"}, Regime.PART, "", "on", "about 9 min of training on an NVIDIA GPU"),
        ({"compile": "off"}, Regime.FULL, "", "off", None),
        ({}, Regime.HEAD, "", "off", "the network does not train"),
        ({"device": "mps"}, Regime.FULL, "", "off", "only an NVIDIA GPU gains from it"),
        ({"device": "cpu"}, Regime.FULL, "", "off", "only an NVIDIA GPU gains from it"),
        ({"compile": "on", "device": "cpu"}, Regime.FULL, "", "on", None),
        ({"epochs": 3}, Regime.FULL, "", "off", SHORT),
        ({}, Regime.FULL, "no triton", "off", "no triton"),
    ],
)
def test_it_is_chosen_where_it_saves_more_than_it_takes(
    given, regime, missing, chosen, reason, monkeypatch
):
    monkeypatch.setattr(defaults, "why_no_compiler", lambda _device: missing)
    settings = gather_settings({"device": "cuda:0", "batch_size": 64, "epochs": 10, **given})
    facts = TrainingFacts(
        regime=regime,
        trained_weights=True,
        train_count=30_030,
        class_counts={"a": 20_000, "b": 10_030},
        img_size=224,
        is_vit=True,
        is_convolutional=False,
        macs=17_600_000_000,  # of ViT-B/16
    )
    resolved = choose_schedule(settings, facts)
    assert resolved.config.compile == chosen
    assert resolved.reasons.get("compile") == reason


def test_the_time_is_that_of_the_networks_multiply_adds(dataset, monkeypatch):
    """Here of a GPU that computes one in a second: a training takes long enough."""
    monkeypatch.setattr(defaults, "why_no_compiler", lambda _device: "")
    monkeypatch.setattr(defaults, "MACS_PER_S", 1.0)
    index = scan_folder(dataset)
    chosen = []
    for device in ("cuda:0", "cpu"):
        settings = gather_settings({"data": dataset, "device": device, **SMALL_SETTINGS})
        hardware = Hardware(device, Precision.FP32, "")
        settings = resolve_machine(settings, hardware, dataset)
        settings, start = build_starting_model(settings, index, None, SILENT)
        start.network.train()
        rough = rough_dataset(index, start.split_rule(index))
        plan = resolve_plan(settings, start, rough, ExtractedFeatures(), None)
        chosen.append(plan.config.compile)
        assert start.network.training
        assert next(start.network.parameters()).device.type == "cpu"
    assert chosen == ["on", "off"]


def test_the_value_auto_is_as_if_it_was_not_given(cli, dataset, tmp_path):
    words = ("--compile", "auto", "--precision", "auto", "--device", "auto")
    done = cli("train", dataset, *SMALL_FLAGS, *words)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / done.out.strip() / "config.json").read_text("utf-8"))
    for name in ("compile", "precision", "device"):
        assert config[name] != "auto"
        assert config["sources"][name] == "auto"
        assert config["reasons"][name]
