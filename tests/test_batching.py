"""A GPU's batch sizes are measured: grown while that pays; no picture is lost on the way."""

from __future__ import annotations

import pytest
import torch

from swinclf.inference.batching import BatchSize
from swinclf.lanes import Lanes, lanes_on, threads_shared


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


def test_threads_are_shared_and_given_back():
    before = torch.get_num_threads()
    lanes = lanes_on("cpu", 224 * 224)
    with threads_shared(lanes):
        assert torch.get_num_threads() * lanes.count <= before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("side", "size"), [(224, 8), (384, 8), (112, 32), (32, 32)])
def test_a_batch_on_a_cpu_depends_on_no_clock(side, size):
    lanes = lanes_on("cpu", side * side)
    assert (lanes.first, lanes.most) == (size, size)
