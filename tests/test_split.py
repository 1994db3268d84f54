"""Holding out: a rule of content and seed, with a promise that is stated and measured here."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from swinclf.data.dataset import assign_splits
from swinclf.data.folder import TRAIN, VAL, scan_folder
from swinclf.data.images import content_digest
from swinclf.data.split import hold_out, split_position


def digests_of(count, *, start=0):
    return [content_digest(b"%d" % number) for number in range(start, start + count)]


def sides(labels, digests, *, fraction=0.2, seed=0):
    """For each image, whether it is held out."""
    held_out = hold_out(labels, digests, fraction=fraction, seed=seed)
    return dict(zip(zip(labels, digests, strict=True), held_out, strict=True))


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_about_the_wished_fraction_of_each_class(fraction):
    labels = [label for label in "abc" for _ in range(2000)]
    held_out = hold_out(labels, digests_of(6000), fraction=fraction, seed=0)
    counts = Counter(label for label, out in zip(labels, held_out, strict=True) if out)
    spread = 4 * (fraction * (1 - fraction) / 2000) ** 0.5  # four standard deviations
    assert all(abs(counts[label] / 2000 - fraction) < spread for label in "abc")


def test_nothing_is_held_out_of_nothing_or_by_nothing():
    assert hold_out([], [], fraction=0.2, seed=0) == []
    assert not any(hold_out(["a"] * 50, digests_of(50), fraction=0, seed=0))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_every_class_of_two_has_one_on_either_side(size, fraction):
    labels = [f"class {number}" for number in range(100) for _ in range(size)]
    out = Counter()
    for (label, _), held_out in sides(labels, digests_of(len(labels)), fraction=fraction).items():
        out[label] += held_out
    assert all(1 <= out[label] <= size - 1 for label in set(labels))


def test_a_class_of_one_content_is_trained_on():
    for number in range(50):
        held_out = hold_out(["a"] * 3, digests_of(1, start=number) * 3, fraction=0.5, seed=0)
        assert not any(held_out)


def test_identical_images_are_on_one_side():
    digests = digests_of(40) * 3
    labels = ["a"] * 120
    for seed in range(5):
        held_out = hold_out(labels, digests, fraction=0.3, seed=seed)
        assert held_out[:40] == held_out[40:80] == held_out[80:]


def test_identical_images_in_two_classes_are_on_one_side_and_both_classes_keep_both_sides():
    shared = digests_of(1)[0]
    for number in range(300):
        own = digests_of(3, start=10 + 3 * number)
        labels = ["a", "a", "b", "b", "c", "c"]
        digests = [shared, own[0], shared, own[1], shared, own[2]]
        held_out = hold_out(labels, digests, fraction=0.5, seed=number)
        assert held_out[0] == held_out[2] == held_out[4]
        for label in "abc":
            where = {out for name, out in zip(labels, held_out, strict=True) if name == label}
            assert where == {True, False}, (label, number)


def test_the_seed_changes_it_and_nothing_else_does():
    labels = ["a"] * 200 + ["b"] * 200
    digests = digests_of(400)
    before = sides(labels, digests)
    assert before == sides(labels, digests)
    assert before != sides(labels, digests, seed=1)
    shuffled = list(zip(labels, digests, strict=True))
    random.Random(0).shuffle(shuffled)
    assert before == sides(*zip(*shuffled, strict=True))
    renamed = sides(["z" if label == "a" else "y" for label in labels], digests)
    assert list(before.values()) == list(renamed.values())


def test_the_rule_is_the_same_everywhere_and_for_ever():
    digest = content_digest(b"an image")
    assert split_position(digest, 0) == pytest.approx(0.89746, abs=1e-5)
    assert split_position(digest, 7) == pytest.approx(0.64344, abs=1e-5)


def test_positions_are_even_and_independent_of_the_seed_next_to_it():
    positions = [split_position(digest, 3) for digest in digests_of(4000)]
    others = [split_position(digest, 4) for digest in digests_of(4000)]
    assert all(0 <= one < 1 for one in positions)
    assert abs(sum(positions) / 4000 - 0.5) < 0.02
    both = sum(one < 0.2 and other < 0.2 for one, other in zip(positions, others, strict=True))
    assert abs(both / 4000 - 0.04) < 0.015


def settled(digests, fraction, seed):
    """Whether the rule alone gives a class an image on either side: the promise is about these."""
    out = [split_position(digest, seed) < fraction for digest in digests]
    return any(out) and not all(out)


@pytest.mark.parametrize("size", [2, 5, 12, 40])
def test_adding_images_never_moves_old_ones_of_a_class_the_rule_settles(size):
    checked = 0
    for number in range(60):
        old, new = digests_of(size, start=1000 * number), digests_of(30, start=1000 * number + 500)
        if not settled(old, 0.2, 0):
            continue
        checked += 1
        before = sides(["a"] * size, old)
        after = sides(["a"] * size + ["a"] * 30, old + new)
        assert all(after[key] == side for key, side in before.items())
    assert checked > 5


def test_in_any_other_class_at_most_the_one_that_was_chosen_moves():
    moved_at_all = 0
    for number in range(100):
        old, new = digests_of(4, start=1000 * number), digests_of(30, start=1000 * number + 500)
        before, after = sides(["a"] * 4, old), sides(["a"] * 34, old + new)
        moved = [key for key, side in before.items() if after[key] != side]
        if settled(old, 0.2, 0):
            assert not moved
        assert len(moved) <= 1
        assert all(before[key] for key in moved)  # held out by choice, now trained on
        moved_at_all += len(moved)
    assert moved_at_all  # so the exception is real, and is stated where the rule is


def test_adding_a_class_or_images_to_another_moves_nothing():
    digests = digests_of(300)
    before = sides(["a"] * 100, digests[:100])
    after = sides(["a"] * 100 + ["b"] * 200, digests)
    assert all(after[key] == side for key, side in before.items())


def test_a_dataset_keeps_its_split_when_files_are_added_and_renamed(tmp_path):
    def write(name, count, start):
        (tmp_path / name).mkdir(exist_ok=True)
        for number in range(start, start + count):
            (tmp_path / name / f"{number}.jpg").write_text(f"{name} {number}")

    def split():
        index = scan_folder(tmp_path)
        content = {one.path: (tmp_path / one.path).read_bytes() for one in index.images}
        digests = {path: content_digest(data) for path, data in content.items()}
        dataset = assign_splits(index, digests, {}, val_split=0.2, seed=0)
        return {content[one.path]: one.split for one in dataset.images}

    write("a", 60, 0)
    write("b", 60, 0)
    before = split()
    assert set(before.values()) == {TRAIN, VAL}
    write("a", 100, 60)
    write("c", 20, 0)
    (tmp_path / "b" / "7.jpg").rename(tmp_path / "b" / "zzz.png")
    after = split()
    assert len(after) == 240
    assert {content: after[content] for content in before} == before
