"""A GPU's batch sizes are measured: grown while that pays; no picture is lost on the way."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from swinclf.inference.batching import BatchSize
from swinclf.inference.predictor import Asked, open_predictor
from swinclf.inference.stream import answer_all
from swinclf.parallel_batches import Lanes, lanes_on, threads_shared


def settled(seconds_of, *, first=8, most=64):
    """The sizes that a network sees whose batches take so long."""
    sizes = BatchSize(Lanes(1, first, most))
    seen = []
    for batch in sizes.batches(range(2000)):
        seen.append(batch)
        sizes.took(len(batch), seconds_of(len(batch)))
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


def test_a_size_that_was_asked_for_is_kept():
    assert set(settled(lambda _: 10, first=7, most=7)[:-1]) == {7}


@pytest.fixture
def three_threads():
    """Torch computes on three threads; the tests otherwise give it one."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_threads_are_shared_and_given_back():
    lanes = lanes_on("cpu", 224 * 224)
    assert lanes.count == 3
    with threads_shared(lanes):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), threads_shared(replace(lanes, count=2)):
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_lanes_compute_at_the_same_time_and_answer_as_one_does(trained):
    predictor = open_predictor(trained.path / "model.safetensors", Asked(device="cpu"))
    assert predictor.lanes.count == 3
    pictures = sorted(trained.data.rglob("*.png"))
    together, outputs = threading.Barrier(3), predictor.outputs
    threads, alone = set(), predictor.outputs

    def meet(pixels):
        threads.add(threading.get_ident())
        together.wait(30)  # breaks unless three batches are computed at once
        return outputs(pixels)

    predictor.outputs = meet
    predictor.lanes = replace(predictor.lanes, first=4, most=4)
    assert len(pictures) == 36, "nine batches: three times three"
    found = list(answer_all(predictor, pictures, workers=2))
    predictor.outputs, predictor.lanes = alone, replace(predictor.lanes, count=1)
    torch.set_num_threads(1)
    expected = list(answer_all(predictor, pictures, workers=2))
    assert len(threads) == 3
    assert [path for path, _ in found] == [path for path, _ in expected] == pictures
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert one.error == ""
        assert np.array_equal(one.probabilities, other.probabilities)


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_one_lane_ends_the_work_and_gives_the_threads_back(trained, monkeypatch):
    predictor = open_predictor(trained.path / "model.safetensors")

    def fail(_pixels):
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(predictor, "outputs", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(answer_all(predictor, sorted(trained.data.rglob("*.png")), workers=1))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("side", "size"), [(224, 8), (384, 8), (112, 32), (32, 32)])
def test_a_batch_on_a_cpu_depends_on_no_clock(side, size):
    lanes = lanes_on("cpu", side * side)
    assert (lanes.first, lanes.most) == (size, size)
