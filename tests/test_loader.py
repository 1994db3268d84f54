"""Reading ahead: order kept, memory bounded, a stop obeyed, the same for any number of threads."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from conftest import write_image

from swinclf.data import images, thread_pool
from swinclf.data.images import content_digest
from swinclf.data.loader import (
    available_batches,
    batched,
    digest_files,
    load_batches,
    load_for_prediction,
    map_ahead,
)
from swinclf.data.thread_pool import DEADLINE_VARIABLE
from swinclf.errors import DataError
from swinclf.preprocess import Fit, Interpolation, Preprocess

WORKERS = [0, 1, 4]
SMALL = Preprocess(
    height=24,
    width=24,
    interpolation=Interpolation.BICUBIC,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    crop_pct=0.9,
    fit=Fit.CROP,
)


def readers():
    return [one for one in threading.enumerate() if one.name.startswith("swinclf-reader")]


@pytest.mark.parametrize("workers", WORKERS)
def test_order_is_kept_whatever_takes_longest(workers):
    def slow_first(number):
        time.sleep(0.02 if number % 7 == 0 else 0)
        return number * number

    done = map_ahead(slow_first, range(40), workers=workers, ahead=8)
    assert list(done) == [number * number for number in range(40)]
    assert not readers()


@pytest.mark.parametrize("workers", WORKERS)
def test_never_more_than_so_many_ahead(workers):
    taken = []

    def source():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, source(), workers=workers, ahead=5)
    for wanted in range(50):
        assert next(results) == wanted
        assert len(taken) - 1 - wanted <= 5
    results.close()


@pytest.mark.parametrize("workers", [1, 4])
def test_it_does_read_ahead(workers):
    started = threading.Semaphore(0)

    def tell(number):
        started.release()
        return number

    results = map_ahead(tell, range(100), workers=workers, ahead=6)
    next(results)
    assert all(started.acquire(timeout=5) for _ in range(6))
    results.close()


@pytest.mark.parametrize("workers", WORKERS)
def test_an_early_stop_does_no_more_work(workers):
    done = []

    def slow(number):
        time.sleep(0.01)
        done.append(number)
        return number

    results = map_ahead(slow, range(10_000), workers=workers, ahead=200)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 1
    assert len(done) < 100  # what was waiting is not worked through
    assert not readers()


def test_an_early_stop_waits_for_what_is_being_computed(monkeypatch):
    """A thread inside torch when Python ends would abort the process."""
    monkeypatch.setattr(thread_pool, "JOIN_S", 0.0)
    is_started, is_done = threading.Event(), threading.Event()

    def compute(number):
        if number:
            is_started.set()
            time.sleep(0.3)
            is_done.set()

    answers = map_ahead(compute, range(2), workers=2, ahead=2)
    next(answers)
    assert is_started.wait(10)  # one that has not begun is cancelled
    answers.close()
    assert is_done.is_set()
    assert not readers()


@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_comes_out_at_its_place_and_ends_it(workers):
    def fails_at_three(number):
        if number == 3:
            raise ZeroDivisionError
        return number

    results = map_ahead(fails_at_three, range(100), workers=workers, ahead=10)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not readers()


@pytest.mark.parametrize("workers", WORKERS)
def test_nothing_gives_nothing(workers):
    assert list(map_ahead(str, [], workers=workers, ahead=4)) == []


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (8, [4, 4]), (9, [4, 4, 1])])
def test_batches_drop_nothing(count, sizes):
    batches = list(batched(range(count), 4))
    assert [len(batch) for batch in batches] == sizes
    assert [one for batch in batches for one in batch] == list(range(count))


@pytest.fixture
def files(tmp_path):
    """Ten pictures, the fourth no picture and the seventh not there."""
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        write_image(path, (20 * number, 90, 200), seed=number)
    paths[3].write_text("not a picture at all")
    paths[6].unlink()
    return paths


def test_any_number_of_workers_gives_the_same(files):
    def load(path):
        return load_for_prediction(path, SMALL)

    runs = []
    for workers in WORKERS:
        batches = load_batches(list(batched(files, 4)), load, workers=workers)
        runs.append([one for batch in batches for one in batch])
    for (path, one), *others in zip(*runs, strict=True):
        for other_path, other in others:
            assert (path, one.digest, one.error) == (other_path, other.digest, other.error)
            assert np.array_equal(one.pixels, other.pixels) or one.pixels is other.pixels is None


def test_a_bad_file_is_its_own_answer_and_nobody_else_s(files):
    loaded = dict(
        one
        for batch in load_batches(
            list(batched(files, 3)), lambda path: load_for_prediction(path, SMALL), workers=2
        )
        for one in batch
    )
    assert list(loaded) == files
    errors = {path.name: one.error for path, one in loaded.items() if one.pixels is None}
    assert errors == {
        "3.png": "not an image of a known format",
        "6.png": "No such file or directory",
    }
    for path, one in loaded.items():
        if one.pixels is not None:
            assert one.pixels.shape == (24, 24, 3)
            assert one.digest == content_digest(path.read_bytes())
            number = int(path.stem)
            assert abs(one.pixels[..., 0].mean() - 20 * number) < 12
        else:
            assert one.digest == b""


def test_a_file_is_read_once(files, monkeypatch):
    read = []
    real = images.read_bytes
    monkeypatch.setattr(images, "read_bytes", lambda path: read.append(path) or real(path))
    load_for_prediction(files[0], SMALL)
    assert read == [files[0]]


# --- a disk that does not answer -----------------------------------------------------------------


@pytest.fixture
def silent(monkeypatch):
    """Reading a file whose name is in this set never ends, as on a network disk that has gone."""
    names, for_ever = set(), threading.Event()
    real = images.read_bytes

    def read(path):
        if path.name in names:
            for_ever.wait()
        return real(path)

    monkeypatch.setattr(images, "read_bytes", read)
    monkeypatch.setenv(DEADLINE_VARIABLE, "0.2")
    yield names
    for_ever.set()
    while readers():
        time.sleep(0.01)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_read_that_never_ends_is_an_answer_too(files, silent, workers):
    silent |= {"0.png", "4.png", "9.png"}
    batches = load_batches(
        list(batched(files, 4)), lambda path: load_for_prediction(path, SMALL), workers=workers
    )
    loaded = [one for batch in batches for one in batch]
    assert [path for path, _ in loaded] == files
    late = {
        path.name for path, one in loaded if one.error == "no answer from the disk within 0.2 s"
    }
    assert late == silent
    assert sum(one.pixels is not None for _, one in loaded) == 5
    assert len(readers()) == 3, "left behind, and nobody waits for them"


@pytest.mark.parametrize("workers", WORKERS)
def test_a_disk_that_is_gone_ends_it(files, silent, workers):
    silent |= {path.name for path in files}
    with pytest.raises(DataError) as error:
        list(
            load_batches(
                list(batched(files, 4)),
                lambda path: load_for_prediction(path, SMALL),
                workers=workers,
            )
        )
    assert "2.png" in error.value.expected
    assert error.value.found == "timed out after 0.2 s, 3 consecutive times"
    assert DEADLINE_VARIABLE in error.value.hint


@pytest.mark.parametrize("name", ["3.png", "6.png"])
def test_a_file_without_an_answer_has_no_digest(files, silent, name):
    silent |= {name}
    found = digest_files(files[0].parent, [path.name for path in files])
    assert found == {
        path.name: content_digest(path.read_bytes())
        for path in files
        if path.name not in (name, "6.png")
    }


def test_no_digests_of_a_disk_that_is_gone(files, silent):
    silent |= {path.name for path in files}
    with pytest.raises(DataError, match="3 consecutive times"):
        digest_files(files[0].parent, [path.name for path in files])


def test_a_timeout_of_the_function_s_own_is_an_error_like_any_other():
    def times_out(_):
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        list(map_ahead(times_out, [1], workers=1, ahead=1, late=lambda *_: None))


def test_groups_at_hand_waits_only_for_the_first():
    released = threading.Event()

    def slow():
        yield 1
        released.wait(30)
        yield from range(2, 100)

    groups = available_batches(slow(), 8)
    assert next(groups) == [1]  # though the second has not come
    released.set()
    rest = list(groups)
    assert [item for group in rest for item in group] == list(range(2, 100))
    assert max(map(len, rest)) <= 8


def test_groups_at_hand_passes_on_what_went_wrong():
    def broken():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(available_batches(broken(), 4))
