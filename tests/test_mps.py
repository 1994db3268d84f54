"""Apple silicon: all that runs on the network's device runs on one that is as strict as MPS."""

from __future__ import annotations

from collections import Counter

import mps_device
import pytest
import torch
from conftest import read_rows, write_dataset
from mps_device import OnDevice, standing_in
from torch import nn

from swinclf.device import Precision, choose_hardware
from swinclf.errors import DeviceError
from swinclf.training import checkpoint
from swinclf.training.loop import TrainingLoop


@pytest.fixture
def mps(monkeypatch):
    with standing_in(monkeypatch):
        yield


@pytest.mark.usefixtures("mps")
def test_the_stand_in_is_as_strict_as_the_device():
    x = torch.ones(2, 3).to("mps")
    assert (x.device, (x + 1).sum().item()) == (torch.device("mps:0"), 12.0)
    assert isinstance(torch.zeros(2, device="mps"), OnDevice)
    with pytest.raises(TypeError, match="float64"):
        x.double()
    with pytest.raises(TypeError, match="float64"):
        x.sum(dtype=torch.float64)
    with pytest.raises(TypeError, match="float64"):
        torch.zeros((), dtype=torch.float64, device="mps")
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64).to("mps")
    with pytest.raises(TypeError, match="complex"):
        torch.view_as_complex(torch.ones(3, 2).to("mps"))
    with pytest.raises(NotImplementedError, match="linalg_eig"):
        torch.linalg.eig(x.T @ x)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    with pytest.raises(RuntimeError, match="found one on the CPU"):
        x @ torch.ones(3, 2)
    assert x.cpu().double().sum() == 6


FLAGS = ("--no-pretrained", "--img-size", "32", "--epochs", "1", "--batch-size", "8")
SHAPE = ("depths=1-1", "embed_dim=12", "num_heads=1-2", "window_size=4", "patch_size=8")
SWIN = ("--model", "swin", *(word for one in SHAPE for word in ("--model-arg", one)))
WAYS = {
    "frozen": ("--freeze-layers", *SWIN),
    "whole": ("--no-freeze-layers", "--class-weights", "sqrt", *SWIN),
    "upper": ("--freeze-stages", "1", "--model", "test_vit"),
}


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_trained_scored_and_used(cli, tmp_path, way):
    data = write_dataset(tmp_path / "colours", per_class=3)
    done = cli("--debug", "train", data, *FLAGS, *WAYS[way])
    assert done.code == 0, done.err
    assert "on mps in fp32" in done.err
    run = tmp_path / "runs" / "colours-1"
    assert len(read_rows(run / "history.csv")) == 1
    uses = {
        "frozen": [("predict", data, "--format", "jsonl"), ("check", data, "--weights", run)],
        "whole": [("eval", data, "--output", tmp_path / "scores")],
        "upper": [("predict", data, "--format", "jsonl")],
    }
    for words in uses[way]:
        used = cli("--debug", *words)
        assert used.code == 0 or (words[0], used.code) == ("check", 3), used.err
        assert words[0] != "predict" or len(used.out.splitlines()) == 9


@pytest.mark.usefixtures("mps")
def test_an_epoch_waits_for_the_device_once(cli, tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "colours", per_class=5)
    compute, take_steps = mps_device.compute, TrainingLoop._take_steps
    waits, is_counted = Counter[str](), False

    def counting(func, args, kwargs):
        name = func._schema.name
        to_host = name.endswith("copy_") and not isinstance(args[0], OnDevice)
        to_host |= name.endswith("_to_copy") and str(kwargs.get("device")) == "cpu"
        has_tensor = any(isinstance(one, OnDevice) for one in args)
        if is_counted and has_tensor and (to_host or name.endswith(("dense", "nonzero"))):
            waits[name] += 1
        return compute(func, args, kwargs)

    def counted(self):
        nonlocal is_counted
        is_counted = True
        take_steps(self)
        is_counted = False

    monkeypatch.setattr(mps_device, "compute", counting)
    monkeypatch.setattr(TrainingLoop, "_take_steps", counted)
    monkeypatch.setattr(checkpoint.CheckpointSaver, "is_due", lambda _: False)  # as in a minute
    found = []
    for batch_size in (6, 2):
        words = ("--augment", "trivial", "--random-erasing", "0.5", "--mixup", "0.4")
        words += ("--ema", "0.9", "--batch-size", batch_size)
        done = cli("train", data, *FLAGS, *WAYS["upper"], *words)
        assert done.code == 0, done.err
        found.append(dict(waits))
        waits.clear()
    at_its_end = {"aten::_to_copy": 2, "aten::_local_scalar_dense": 1}  # losses, hits, labels
    assert found == [at_its_end, at_its_end]


@pytest.mark.usefixtures("mps")
def test_its_random_numbers_are_in_a_checkpoint(monkeypatch):
    state = torch.arange(5, dtype=torch.uint8)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    here, there = nn.Linear(1, 1), nn.Linear(1, 1, device="mps")
    assert torch.equal(checkpoint._random_states(there)["random/mps"], state)
    assert checkpoint._random_states(here).keys() == {"random/cpu"}, "of a device that is not used"


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("is_new", [True, False])
def test_bf16_takes_a_new_macos(monkeypatch, is_new):
    asked = []
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda *version: asked.append(version) or is_new
    )
    assert choose_hardware().precision is Precision.FP32
    if is_new:
        assert choose_hardware("mps", "bf16").precision is Precision.BF16
    else:
        with pytest.raises(DeviceError, match="macOS 14 or newer for --precision bf16 on mps"):
            choose_hardware("auto", "bf16")
    assert asked == [(14, 0)]
