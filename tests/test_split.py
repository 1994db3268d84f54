"""The split: exact fractions of each class, by content and seed, with a stated stability."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from swinclf.data.dataset import assign_splits
from swinclf.data.folder import TEST, TRAIN, VAL, scan_folder
from swinclf.data.images import content_digest
from swinclf.data.split import SplitRule


def digests_of(count, *, start=0):
    return [content_digest(b"%d" % number) for number in range(start, start + count)]


def splits(labels, digests, rule):
    """The split of each image, by its class and content."""
    return dict(zip(zip(labels, digests, strict=True), rule.assign(labels, digests), strict=True))


@pytest.mark.parametrize(
    ("size", "val", "test", "counts"),
    [
        (10, 0.2, 0.0, (8, 2, 0)),
        (40, 0.2, 0.15, (26, 8, 6)),
        (44, 0.2, 0.15, (28, 9, 7)),  # 8.8 and 6.6
        (10, 0.15, 0.0, (8, 2, 0)),  # a half is rounded up
        (3, 0.01, 0.01, (1, 1, 1)),  # at least one of each
        (2, 0.01, 0.5, (1, 1, 0)),
        (2, 0.9, 0.0, (1, 1, 0)),
        (7, 0.9, 0.0, (1, 6, 0)),
        (7, 0.0, 0.3, (5, 0, 2)),
        (1, 0.5, 0.4, (1, 0, 0)),
        (50, 0.0, 0.0, (50, 0, 0)),
    ],
)
def test_the_quota_of_each_class_is_exact(size, val, test, counts):
    labels = [f"class {number}" for number in range(20) for _ in range(size)]
    for seed in range(3):
        assigned = splits(labels, digests_of(len(labels)), SplitRule(val, test, seed))
        for label in set(labels):
            found = Counter(split for (name, _), split in assigned.items() if name == label)
            assert (found[TRAIN], found[VAL], found[TEST]) == counts


def test_identical_images_share_a_split_and_count_once():
    labels, digests = ["a"] * 120, digests_of(40) * 3
    for seed in range(5):
        assigned = SplitRule(0.3, 0.1, seed).assign(labels, digests)
        assert assigned[:40] == assigned[40:80] == assigned[80:]
        assert Counter(assigned[:40]) == {TRAIN: 24, VAL: 12, TEST: 4}


def test_an_image_of_two_classes_is_trained_on_and_both_classes_have_their_quota():
    shared = digests_of(1)[0]
    for number in range(50):
        own = digests_of(9, start=10 + 20 * number), digests_of(9, start=20 + 20 * number)
        labels = ["a"] * 10 + ["b"] * 10
        assigned = SplitRule(0.2, seed=number).assign(labels, [shared, *own[0], shared, *own[1]])
        assert assigned[0] == assigned[10] == TRAIN
        assert Counter(assigned[:10])[VAL] == Counter(assigned[10:])[VAL] == 2
    assert SplitRule(0.5).assign(["a", "b", "a"], [shared, shared, own[0][0]]) == [
        *(TRAIN, TRAIN, VAL)
    ]


def test_the_seed_changes_it_and_order_and_class_names_do_not():
    labels, digests = ["a"] * 200 + ["b"] * 200, digests_of(400)
    rule = SplitRule(0.2, 0.1)
    before = splits(labels, digests, rule)
    assert before != splits(labels, digests, SplitRule(0.2, 0.1, seed=1))
    shuffled = list(zip(labels, digests, strict=True))
    random.Random(0).shuffle(shuffled)
    assert before == splits(*zip(*shuffled, strict=True), rule)
    renamed = splits(["z" if label == "a" else "y" for label in labels], digests, rule)
    assert list(before.values()) == list(renamed.values())


def test_a_test_split_leaves_the_validation_images_as_they_are():
    labels, digests = ["a"] * 100, digests_of(100)
    without, with_test = (SplitRule(0.2, test).assign(labels, digests) for test in (0.0, 0.15))
    assert [one == VAL for one in without] == [one == VAL for one in with_test]


def test_the_rule_is_the_same_everywhere_and_for_ever():
    digest = content_digest(b"an image")
    assert SplitRule(0.2).position(digest) == pytest.approx(0.89746, abs=1e-5)
    assert SplitRule(0.2, seed=7).position(digest) == pytest.approx(0.64344, abs=1e-5)
    assigned = SplitRule(0.2, 0.2).assign(["a"] * 10, digests_of(10))
    assert assigned == [TEST, TEST, VAL, *[TRAIN] * 4, VAL, TRAIN, TRAIN]


def test_positions_are_even_and_independent_of_the_seed_next_to_it():
    positions = [SplitRule(0.2, seed=3).position(digest) for digest in digests_of(4000)]
    others = [SplitRule(0.2, seed=4).position(digest) for digest in digests_of(4000)]
    assert all(0 <= one < 1 for one in positions)
    assert abs(sum(positions) / 4000 - 0.5) < 0.02
    both = sum(one < 0.2 and other < 0.2 for one, other in zip(positions, others, strict=True))
    assert abs(both / 4000 - 0.04) < 0.015


def test_most_images_are_where_their_content_alone_puts_them():
    rule, digests = SplitRule(0.2, 0.1), digests_of(4000)
    assigned = rule.assign(["a"] * 4000, digests)
    same = [rule.expected(digest) == split for digest, split in zip(digests, assigned, strict=True)]
    assert 0.95 < sum(same) / 4000 < 1


@pytest.mark.parametrize("size", [4, 12, 40])
def test_each_added_image_moves_at_most_one_old_one_over_a_boundary(size):
    rule, moved_at_all = SplitRule(0.2, 0.15), 0
    for number in range(60):
        digests = digests_of(size + 5, start=1000 * number)
        for count in range(size, size + 5):
            before = rule.assign(["a"] * count, digests[:count])
            after = rule.assign(["a"] * (count + 1), digests[: count + 1])
            moved = [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
            assert sum(VAL in pair for pair in moved) <= 1
            assert sum(TEST in pair for pair in moved) <= 1
            moved_at_all += len(moved)
    assert 0 < moved_at_all < 300  # of 300 added images: fewer than one for each


def test_adding_a_class_moves_nothing():
    digests, rule = digests_of(300), SplitRule(0.2, 0.1)
    before = splits(["a"] * 100, digests[:100], rule)
    after = splits(["a"] * 100 + ["b"] * 200, digests, rule)
    assert all(after[key] == split for key, split in before.items())


def test_models_of_earlier_versions_have_their_own_rule():
    rule = SplitRule.from_dict({"seed": 0, "val_split": 0.2})
    labels, digests = ["a"] * 30 + ["b"] * 2 + ["c"], digests_of(33)
    assigned = rule.assign(labels, digests)
    held_out = [digest for digest in digests[:30] if rule.position(digest) < 0.2]
    assert [digest for digest, split in zip(digests, assigned, strict=True) if split == VAL][
        : len(held_out)
    ] == held_out
    assert len(held_out) != 6  # not the exact fifth
    assert Counter(assigned[30:32]) == {TRAIN: 1, VAL: 1}
    assert assigned[32] == TRAIN
    new = SplitRule(0.2, 0.1, 3)
    assert SplitRule.from_dict(new.to_dict()) == new


def test_a_dataset_has_the_same_split_when_files_are_renamed(tmp_path):
    def write(name, count, start):
        (tmp_path / name).mkdir(exist_ok=True)
        for number in range(start, start + count):
            (tmp_path / name / f"{number}.jpg").write_text(f"{name} {number}")

    def split():
        index = scan_folder(tmp_path)
        content = {one.path: (tmp_path / one.path).read_bytes() for one in index.images}
        digests = {path: content_digest(data) for path, data in content.items()}
        dataset = assign_splits(index, digests, {}, SplitRule(0.2, 0.1))
        return {content[one.path]: one.split for one in dataset.images}

    write("a", 60, 0)
    write("b", 60, 0)
    before = split()
    assert Counter(before.values()) == {TRAIN: 84, VAL: 24, TEST: 12}
    write("c", 20, 0)
    (tmp_path / "b" / "7.jpg").rename(tmp_path / "b" / "zzz.png")
    after = split()
    assert {content: after[content] for content in before} == before


def test_a_validation_folder_can_have_a_test_split(tmp_path):
    for split, count in (("train", 20), ("val", 5)):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{number}.jpg").write_text(f"{split} {name} {number}")
    index = scan_folder(tmp_path)
    digests = {one.path: content_digest((tmp_path / one.path).read_bytes()) for one in index.images}
    dataset = assign_splits(index, digests, {}, SplitRule(0.2, 0.1))
    assert {split: len(dataset.rows(split)) for split in (TRAIN, VAL, TEST)} == {
        TRAIN: 36,
        VAL: 10,
        TEST: 4,
    }
