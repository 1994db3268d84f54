"""When memory runs out in a training step: smaller parts, the same step, said once, kept."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from conftest import SMALL_SETTINGS, error_lines, resume_run, same_weights, stop_after, weights_of
from torch import nn

import swinclf
from swinclf.device import Hardware, Precision, free_memory
from swinclf.errors import Interrupted
from swinclf.out_of_memory import is_out_of_memory
from swinclf.run_folder import RunFolder
from swinclf.training import gradient, loop
from swinclf.training.checkpoint import read_checkpoint, restore, save_checkpoint
from swinclf.training.gradient import LocalGradient
from swinclf.training.optim import build_optimizer
from swinclf.training.resume_guard import RunFingerprint
from swinclf.training.schedule import Schedule
from swinclf.training.state import BestEpoch, build_state

CPU = Hardware("cpu", Precision.FP32, "")
WAYS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]
SCHEDULE = Schedule(
    epochs=1,
    lrf=1,
    warmup=0,
    clip_norm=1.0,
    label_smoothing=0.1,
    class_weights=torch.tensor([0.5, 1.0, 2.0]),
    patience=0,
)


class Network(nn.Module):
    """Two layers on a device that holds no more than `most` images at once."""

    def __init__(self, most=10**9, error=WAYS[0]):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
        self.most, self.error, self.seen = most, error, []

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        self.seen.append(len(x))
        return self.body(x)


def state_of(network):
    optimizer = build_optimizer(network.named_parameters(), lr=1e-2, weight_decay=0.05)
    return build_state(network, optimizer, CPU)


def batch_of(count):
    generator = torch.Generator().manual_seed(count)
    return loop.Batch(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


def train_step(state, batch):
    loop._train_step(state, batch, SCHEDULE, LocalGradient(state, SCHEDULE, CPU))


@pytest.mark.parametrize("error", WAYS, ids=lambda error: type(error).__name__)
def test_every_way_to_run_out_of_memory_is_known(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(("most", "parts"), [(7, [7, 6]), (4, [4, 4, 4, 1]), (1, [1] * 13)])
@pytest.mark.parametrize("error", WAYS, ids=lambda error: type(error).__name__)
def test_a_step_in_parts_is_the_same_step(most, parts, error):
    torch.manual_seed(0)
    network = Network()
    whole, split = state_of(network), state_of(copy.deepcopy(network))
    split.model.most, split.model.error = most, error
    for state in (whole, split):
        train_step(state, batch_of(13))
    assert split.model.seen == parts
    assert split.micro_batch == parts[0]
    assert whole.micro_batch is None
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert whole.sums.means() == pytest.approx(split.sums.means(), rel=1e-6)
    assert (whole.sums.count, whole.sums.correct) == (split.sums.count, split.sums.correct)


def test_the_next_step_does_not_try_the_whole_batch_again():
    state = state_of(Network(most=4))
    for _ in range(2):
        train_step(state, batch_of(8))
    assert state.model.seen == [4, 4, 4, 4]


def test_where_not_even_one_image_fits_or_something_else_is_wrong_it_ends():
    for network, count in ((Network(most=0), 4), (Network(error=ValueError("x"), most=1), 2)):
        state = state_of(network)
        with pytest.raises((RuntimeError, ValueError)):
            train_step(state, batch_of(count))


def test_the_size_of_the_parts_is_in_the_checkpoint(tmp_path):
    state = state_of(Network(most=4))
    train_step(state, batch_of(8))
    run = RunFolder(tmp_path)
    save_checkpoint(
        run, state, RunFingerprint({}, {}, {}, {}, "", torch.zeros(0, 16, dtype=torch.uint8))
    )
    again = state_of(Network())
    restore(read_checkpoint(run), again)
    assert again.micro_batch == 4


def test_saving_makes_no_copy_of_the_weights(tmp_path, monkeypatch):
    state = state_of(Network())
    train_step(state, batch_of(8))
    state.best = BestEpoch(1, (0.0, 1.0), state.model.state_dict())
    written = {}
    monkeypatch.setattr("swinclf.training.checkpoint.write_tensors", _remember(written))
    fingerprint = RunFingerprint({}, {}, {}, {}, "", torch.zeros(0, 16, dtype=torch.uint8))
    save_checkpoint(RunFolder(tmp_path), state, fingerprint)
    for name, one in state.model.state_dict().items():
        assert written[f"model/{name}"].data_ptr() == one.data_ptr()
        assert written[f"best/{name}"].data_ptr() == one.data_ptr()
    moments = next(iter(state.optimizer.state.values()))
    assert written["optimizer/0/exp_avg"].data_ptr() == moments["exp_avg"].data_ptr()
    monkeypatch.undo()
    save_checkpoint(RunFolder(tmp_path), state, fingerprint)
    again = read_checkpoint(RunFolder(tmp_path)).tensors
    assert all(torch.equal(again[name], one) for name, one in written.items())


def _remember(written):
    def write(_path, tensors, _facts, *, previous):
        del previous
        written.update(tensors)

    return write


@pytest.fixture
def small_device(monkeypatch):
    """A device on which no more than three images fit into a training step."""
    add = gradient._add_gradient

    def add_or_fail(state, loss, share, part, **named):
        if len(part.targets) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return add(state, loss, share, part, **named)

    monkeypatch.setattr(gradient, "_add_gradient", add_or_fail)


def test_a_run_goes_on_in_parts_says_so_once_and_ends_the_same_when_interrupted(
    dataset, tmp_path, cli, monkeypatch, small_device
):
    del small_device
    flags = [
        word
        for name, value in {**SMALL_SETTINGS, "drop_path": 0.3}.items()
        if name != "pretrained"
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    done = cli("train", dataset, "--no-pretrained", *flags)
    assert done.code == 0, done.err
    assert done.err.count("out of memory:") == 1
    assert "micro-batches of 2 images" in done.err
    assert "the batch size is still 8" in done.err

    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            swinclf.train(dataset, name="stopped", out="runs", **SMALL_SETTINGS, drop_path=0.3)
    run = resume_run(tmp_path / "runs" / "stopped")
    assert same_weights(weights_of(tmp_path / done.out.strip()), weights_of(run))


def test_where_nothing_helps_the_error_says_what_to_type(dataset, cli, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gradient, "_add_gradient", fail)
    done = cli("train", dataset, "--model", "test_vit", "--no-pretrained", "--img-size", "32")
    assert done.code == 1
    assert "memory" in error_lines(done)[0]


@pytest.mark.parametrize(
    "name", ["prepare.FeatureBatches", "prepare.fit_baseline", "cross_validation.score_by_folds"]
)
def test_features_that_do_not_fit_are_not_blamed_on_the_batch_size(dataset, cli, monkeypatch, name):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(f"swinclf.pipeline.{name}", fail)
    words = ("--model", "test_vit", "--no-pretrained", "--img-size", "32", "--freeze-layers")
    done = cli("train", dataset, *words, "--folds", "2")
    expected, _, hint = error_lines(done)
    assert (done.code, expected) == (1, "memory on the device for the features of all images")
    assert "--device cpu" in hint
    assert "--batch-size" not in hint


GROUP = {"memory.max": "3000000\n", "memory.current": "1000000\n", "memory.stat": "file 9\n"}
PAGE_CACHE = "inactive_anon 70\ninactive_file 300000\nactive_file 200000\nunevictable 0\n"
MEMINFO = {"meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (MEMINFO, 4000 * 1024),
        (MEMINFO | GROUP, 2_000_000),
        (MEMINFO | GROUP | {"memory.stat": PAGE_CACHE}, 2_500_000),
        (MEMINFO | GROUP | {"memory.max": "max\n"}, 4000 * 1024),
        (MEMINFO | GROUP | {"memory.current": "4000000\n"}, 0),
        ({}, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2),
    ],
)
def test_free_memory_is_what_the_system_and_the_container_leave(monkeypatch, files, free):
    def read_text(path, **_):
        if path.name not in files:
            raise FileNotFoundError
        return files[path.name]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert free_memory() == free
