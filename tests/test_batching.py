"""Batches have a fixed size, and are computed in parts only where memory runs out."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from swinclf.errors import DeviceError
from swinclf.inference.predictor import InferenceOptions, open_predictor
from swinclf.inference.stream import stream_outputs
from swinclf.out_of_memory import DividedBatches
from swinclf.parallel_batches import ParallelBatches, choose_parallel_batches, divide_threads


@pytest.fixture
def three_threads():
    """Torch computes on three threads; the tests otherwise give it one."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_threads_are_divided_and_restored():
    parallel = choose_parallel_batches("cpu", 224 * 224)
    assert parallel.count == 3
    with divide_threads(parallel):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), divide_threads(replace(parallel, count=2)):
        raise KeyError
    assert torch.get_num_threads() == 3


def test_overlapping_streams_restore_the_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, second = (divide_threads(ParallelBatches(2, 8)) for _ in range(2))
        first.__enter__()
        second.__enter__()
        assert torch.get_num_threads() == 2
        first.__exit__(None, None, None)
        assert torch.get_num_threads() == 2, "the second one still computes"
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_parallel_batches_give_the_same_outputs_as_one_at_a_time(trained):
    predictor = open_predictor(trained.path / "model.safetensors", InferenceOptions(device="cpu"))
    assert predictor.parallel.count == 3
    pictures = sorted(trained.data.rglob("*.png"))
    together, outputs = threading.Barrier(3), predictor.outputs
    threads, alone = set(), predictor.outputs

    def meet(pixels):
        threads.add(threading.get_ident())
        together.wait(30)  # breaks unless three batches are computed at once
        return outputs(pixels)

    predictor.outputs = meet
    predictor.parallel = replace(predictor.parallel, size=4)
    assert len(pictures) == 36, "nine batches: three times three"
    found = list(stream_outputs(predictor, pictures, workers=2))
    predictor.outputs, predictor.parallel = alone, replace(predictor.parallel, count=1)
    torch.set_num_threads(1)
    expected = list(stream_outputs(predictor, pictures, workers=2))
    assert len(threads) == 3
    assert [path for path, _ in found] == [path for path, _ in expected] == pictures
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert one.error == ""
        assert np.array_equal(one.probabilities, other.probabilities)


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_one_batch_ends_the_work_and_restores_the_threads(trained, monkeypatch):
    predictor = open_predictor(trained.path / "model.safetensors")

    def fail(_pixels):
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(predictor, "outputs", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(stream_outputs(predictor, sorted(trained.data.rglob("*.png")), workers=1))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("device", "side", "size", "count"),
    [
        *[("cpu", 224, 8, None), ("cpu", 384, 8, None), ("cpu", 112, 32, None)],
        *[("cpu", 32, 32, None), ("cuda:1", 224, 128, 2), ("mps", 224, 32, 1)],
    ],
)
def test_a_batch_depends_on_no_clock(device, side, size, count):
    chosen = choose_parallel_batches(device, side * side)
    assert chosen.size == size
    assert count in (None, chosen.count)


class SmallMemory:
    """A network on a device whose memory holds no more than `most` images."""

    def __init__(self, computer, most):
        self.computer, self.most, self.sizes = computer, most, []

    def outputs(self, inputs):
        self.sizes.append(len(inputs))
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.computer.outputs(inputs)


@pytest.fixture
def small_memory(trained):
    """A run's predictor, to be given a limit of images, and images for it."""
    predictor = open_predictor(trained.path / "model.safetensors", InferenceOptions(device="cpu"))
    predictor._computer = SmallMemory(predictor._computer, 10**9)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    return predictor, pixels


def test_a_batch_is_halved_where_memory_runs_out_and_so_are_later_ones(small_memory):
    predictor, pixels = small_memory
    expected = predictor.outputs(pixels)
    memory = predictor._computer
    memory.most, memory.sizes = 3, []
    found = predictor.outputs(pixels)
    assert memory.sizes == [20, 10, 5, *[3] * 6, 2]
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert np.allclose(ours, theirs, atol=1e-4)
    memory.sizes = []
    assert len(predictor.outputs(pixels[:7]).logits) == 7
    assert memory.sizes == [3, 3, 1]


def test_one_image_that_does_not_fit_is_an_error_with_a_hint_that_predict_has(small_memory):
    predictor, pixels = small_memory
    predictor._computer.most, predictor._divided = 0, DividedBatches("cuda")
    with pytest.raises(DeviceError, match="memory on cuda for one image") as error:
        predictor.outputs(pixels)
    assert error.value.hint.endswith("or --device cpu")
    predictor._computer.most = 1
    assert len(predictor.outputs(pixels).logits) == 20, "other programs may have ended"
