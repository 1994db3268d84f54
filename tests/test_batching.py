"""A GPU's batch sizes are measured: grown while that pays; no picture is lost on the way."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from swinclf.inference.predictor import InferenceOptions, open_predictor
from swinclf.inference.stream import BatchSize, stream_outputs
from swinclf.parallel_batches import ParallelBatches, choose_parallel_batches, divide_threads


def settled(seconds_of, *, first=8, most=64):
    """The sizes that a network sees whose batches take so long."""
    sizes = BatchSize(ParallelBatches(1, first, most))
    seen = []
    for batch in sizes.batches(range(2000)):
        seen.append(batch)
        sizes.record(len(batch), seconds_of(len(batch)))
    assert [item for batch in seen for item in batch] == list(range(2000))
    return [len(batch) for batch in seen]


@pytest.mark.parametrize(
    ("seconds_of", "settles"),
    [
        (lambda count: count, 8),  # a picture costs the same in any batch
        (lambda _: 10, 64),  # a batch costs the same whatever is in it
        (lambda count: count if count <= 16 else 2 * count, 8),
        (lambda count: 10 if count <= 32 else 100, 32),
    ],
)
def test_the_batch_grows_for_as_long_as_that_pays(seconds_of, settles):
    sizes = settled(seconds_of)
    assert sizes[-2] == settles
    assert max(sizes) <= max(2 * settles, 8)


def test_a_given_size_is_not_changed():
    assert set(settled(lambda _: 10, first=7, most=7)[:-1]) == {7}


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
        first, second = (divide_threads(ParallelBatches(2, 8, 8)) for _ in range(2))
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
    predictor.parallel = replace(predictor.parallel, first_size=4, max_size=4)
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


@pytest.mark.parametrize(("side", "size"), [(224, 8), (384, 8), (112, 32), (32, 32)])
def test_a_batch_on_a_cpu_depends_on_no_clock(side, size):
    parallel = choose_parallel_batches("cpu", side * side)
    assert (parallel.first_size, parallel.max_size) == (size, size)
