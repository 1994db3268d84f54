"""Splits under the names that people give them, and classes that are none: found, or refused."""

from __future__ import annotations

import pytest
from test_folder import error_of, paths_of, touch, unreadable

from swinclf.data.dataset import assign_splits
from swinclf.data.folder import TEST, TRAIN, VAL, scan_folder
from swinclf.data.split import SplitRule
from swinclf.data.split_names import is_part_name, recognize_splits, split_name

CLASSES = ("daisy", "rose", "tulip")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def images_in(*folders, classes=CLASSES, count=2):
    return [f"{one}/{name}/{n}.jpg" for one in folders for name in classes for n in range(count)]


def splits_of(index):
    """The folders that hold the class folders of each split."""
    return {
        split: {path.rsplit("/", 2)[0] for path in paths_of(index, split)}
        for split in ("", TRAIN, VAL, TEST)
        if paths_of(index, split)
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, TRAIN) for name in ("train", "TRAIN", "Training", "training_set", "trainset")),
        *((name, TRAIN) for name in ("seg_train", "Train Data", "train_images", "x_train")),
        *((name, TRAIN) for name in ("XTrain", "flowers-train", "train2017", "TrainSet", "trn")),
        *(
            (name, VAL)
            for name in ("valid", "Validation", "dataset-valid", "dev", "eval", "valset")
        ),
        *((name, VAL) for name in ("hold-out", "HeldOut", "val_images", "Evaluation Set", "xval")),
        *(
            (name, TEST)
            for name in ("Testing", "test_set", "Test Data", "x_test", "testset", "test1")
        ),
        *(
            (name, None)
            for name in ("rose", "constraint", "protest", "contest", "attest", "trains")
        ),
        *((name, None) for name in ("invalid", "value", "latest", "train_test", "evaluator", "花")),
    ],
)
def test_what_a_name_says(name, split):
    found = split_name(name)
    assert (found and found.split) == split


def test_names_that_speak_of_a_part_but_not_of_which():
    assert all(
        map(is_part_name, ("fold1", "fold_2", "Split A", "part-3", "batch0", "data2", "cv5"))
    )
    assert not any(map(is_part_name, ("rose", "x", "day1", "2019", "Settlement", "fold mountains")))


def test_what_is_less_surely_val_is_a_test_beside_a_val_folder():
    assert recognize_splits(["train", "eval"]) == {"train": TRAIN, "eval": VAL}
    assert recognize_splits(["train", "val", "eval"]) == {"train": TRAIN, "val": VAL, "eval": TEST}
    assert recognize_splits(["train", "dev", "eval"]) == {"train": TRAIN, "dev": VAL, "eval": TEST}
    assert recognize_splits(["train", "dev", "test"]) == {"train": TRAIN, "dev": VAL, "test": TEST}
    assert recognize_splits(["train_station", "test_tube"]) == {}
    either = recognize_splits(["train", "seg_test", "img_val"])
    assert either == {"train": TRAIN, "img_val": VAL}, "the same in every process"


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", TEST),
        ("training_set", "test_set", TEST),
        ("train", "eval", VAL),
        ("TRAIN", "DEV", VAL),
        ("Train Data", "Test Data", TEST),
        ("train_images", "val_images", VAL),
        ("x_train", "x_test", TEST),
        ("flowers_train", "flowers_valid", VAL),
        ("train2017", "val2017", VAL),
        ("seg_train/seg_train", "seg_test/seg_test", TEST),
        ("training_set/training_set", "test_set/test_set", TEST),
        ("train/train", "test/test", TEST),
        ("train/images", "valid/images", VAL),
        ("images/train", "images/val", VAL),
        ("Dataset/Training", "Dataset/Testing", TEST),
        ("data/train", "data/holdout", VAL),
    ],
)
def test_splits_under_other_names(root, train, other, split):
    touch(root, *images_in(train, other), "README.md")
    index = scan_folder(root)
    assert splits_of(index) == {TRAIN: {train}, split: {other}}
    assert index.classes == CLASSES
    assert index.has_val is (split == VAL)
    assert all((root / path).is_file() for path in paths_of(index))
    note = f"folders read as splits: '{train}' as train, '{other}' as {split}"
    assert index.notes[:1] == (note,)


def test_the_usual_names_need_no_note(root):
    touch(root, *images_in("Train", "valid", "test"), "test/cats.png/1.jpg")
    index = scan_folder(root)
    assert index.notes == index.warnings == ()


def test_three_splits_and_what_is_next_to_them(root):
    touch(root, *images_in("seg_train/seg_train", "seg_val"), "seg_pred/1.jpg", "labels/1.txt")
    index = scan_folder(root)
    assert splits_of(index) == {TRAIN: {"seg_train/seg_train"}, VAL: {"seg_val"}}
    assert list(index.warnings) == [
        "folders next to train that are not splits are not used: 'seg_pred'"
    ]


@pytest.mark.parametrize("name", ["test", "val", "Validation"])
def test_a_split_among_the_classes(root, name):
    touch(root, *images_in("."), *images_in(name))
    index = scan_folder(root)
    assert index.classes == CLASSES
    assert {path.partition("/")[0] for path in paths_of(index, TRAIN)} == set(CLASSES)
    assert all(path.startswith(f"{name}/") for path in paths_of(index, split_name(name).split))
    assert f"'{name}', which hold the same class folders" in index.notes[0]


def test_splits_in_each_class(root):
    touch(
        root,
        *(f"{name}/{part}/{n}.jpg" for name in CLASSES for part in ("Train", "test") for n in "12"),
    )
    index = scan_folder(root)
    assert index.classes == CLASSES
    assert {path.split("/")[1] for path in paths_of(index, TRAIN)} == {"Train"}
    assert {path.split("/")[1] for path in paths_of(index, TEST)} == {"test"}
    assert index.notes[0] == (
        "folders read as splits, in each class: 'Train' as train, 'test' as test"
    )
    digests = {path: path.encode() for path in paths_of(index)}
    dataset = assign_splits(index, digests, {}, SplitRule(0.5))
    assert all("/Train/" in path.path for path in dataset.of(VAL))


def in_classes(*parts, classes=CLASSES):
    return [f"{name}/{part}/{n}.jpg" for name in classes for part in parts for n in "12"]


def test_images_next_to_the_splits_in_a_class_are_not_used_with_a_warning(root):
    touch(root, *in_classes("train", "test"), "rose/stray.jpg")
    index = scan_folder(root)
    assert paths_of(index, TRAIN) == in_classes("train")
    assert paths_of(index, TEST) == in_classes("test")
    assert len(index.images) == 12
    assert index.warnings == ("1 image of classes in none of their splits: not used",)


def test_splits_in_some_classes_only_are_refused(root):
    touch(root, *in_classes("train", "test", classes=("rose", "tulip")), "daisy/1.jpg")
    error = error_of(root)
    assert error.found == "none in 'daisy'"
    assert f"'{root / 'daisy'}/train'" in error.hint


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test"), ("train", "val")])
@pytest.mark.parametrize("is_inside", [False, True])
def test_splits_in_each_class_with_val_named_by_hand(root, parts, is_inside):
    touch(root, *in_classes(*parts))
    held = (root if is_inside else root.parent) / "held"
    touch(held, *images_in("."))
    index = scan_folder(root, val=held)
    assert paths_of(index, TRAIN) == in_classes("train")
    assert paths_of(index, TEST) == (in_classes("test") if "test" in parts else [])
    assert {(root / path).resolve() for path in paths_of(index, VAL)} == set(held.rglob("*.jpg"))
    assert index.has_val
    assert index.classes == CLASSES
    assert "'train' as train" in index.notes[0]


def test_a_test_folder_in_some_classes_is_no_split(root, tmp_path):
    touch(root, *in_classes("test", classes=("daisy",)), "rose/1.jpg", "tulip/1.jpg")
    touch(tmp_path / "held", *images_in("."))
    assert splits_of(scan_folder(root)).keys() == {""}
    assert len(paths_of(scan_folder(root, val=tmp_path / "held"), TRAIN)) == 4


# What stops


@pytest.mark.parametrize(
    "names",
    [
        ("fold1", "fold2", "fold3"),
        ("split_a", "split_b"),
        ("train", "gallery", "query"),
        ("data1", "data2"),
    ],
)
def test_folders_of_the_same_classes_that_do_not_say_which_is_which(root, names):
    touch(root, *images_in(*names))
    error = error_of(root)
    assert "say which is train/ and which is val/" in error.expected
    assert all(f"'{name}'" in error.found for name in names)
    assert "the same class folders ('daisy', 'rose', 'tulip')" in error.found
    first, second = names[:2]
    assert error.hint.endswith(f"swinclf train '{root / first}' --val '{root / second}'")
    index = scan_folder(root / first, val=root / second)  # what it says to type works
    assert index.classes == CLASSES
    assert len(paths_of(index, VAL)) == 6


def test_nearly_the_same_class_folders_are_the_same(root):
    touch(root, *images_in("part1"), *images_in("part2", classes=("daisy", "rose", "iris")))
    assert "'part1', 'part2'" in error_of(root).found


def test_no_folder_to_train_on(root):
    touch(root, *images_in("Testing", "val"))
    error = error_of(root)
    assert error.found == "only folders for other splits: 'Testing', 'val'"
    assert f"--val '{root / 'val'}'" in error.hint


@pytest.mark.parametrize(
    "names", [("x_train", "x_test"), ("Training", "Testing"), ("train", "test1")]
)
def test_splits_without_class_folders(root, names):
    touch(root, *(f"{name}/{n}.jpg" for name in names for n in range(3)))
    assert error_of(root).found == "3 images directly in it, not in class folders"


def test_class_and_split_in_one_name(root):
    touch(
        root,
        *(
            f"{name}_{part}/{n}.jpg"
            for name in ("cat", "dog")
            for part in ("train", "test")
            for n in "12"
        ),
    )
    error = error_of(root)
    assert "'cat_test', 'cat_train', 'dog_test', 'dog_train'" in error.found
    assert "train/CLASS" in error.hint


@pytest.mark.parametrize("inner", ["flowers", "data", "copy"])
def test_the_dataset_once_more_inside_itself(tmp_path, inner):
    flowers = tmp_path / "Flowers"
    touch(flowers, *images_in("."), *images_in(inner))
    error = error_of(flowers)
    assert error.found == (
        f"'{inner}', which holds the folders next to it again ('daisy', 'rose', 'tulip')"
    )
    assert error.hint.endswith(f"swinclf train '{flowers / inner}'")
    assert scan_folder(flowers / inner).classes == CLASSES


def test_train_among_the_classes_it_holds(root):
    touch(root, *images_in("."), *images_in("train"))
    assert "'train', which holds the folders next to it again" in error_of(root).found


def test_two_training_folders(root):
    touch(root, *images_in("train", "Training", "test"))
    assert error_of(root).found == "2 for train: Training, train"


def test_a_split_folder_that_cannot_be_entered_is_an_error(root, monkeypatch):
    touch(root, *images_in("Training", "Testing"))
    unreadable(monkeypatch, "Training")
    assert error_of(root).found == "Permission denied"


# What does not stop: classes


def test_classes_with_the_same_folders_in_each_are_classes_with_a_warning(root):
    touch(root, *images_in("lion", "zebra", "gnu", classes=("female", "male")))
    index = scan_folder(root)
    assert index.classes == ("gnu", "lion", "zebra")
    (warning,) = index.warnings
    assert "hold folders of the same names ('female', 'male')" in warning
    assert f"swinclf train '{root / 'gnu'}' --val '{root / 'lion'}'" in warning


@pytest.mark.parametrize(
    "names",
    [
        ("train", "bus", "plane"),
        ("train_station", "test_tube", "bus"),
        ("valid", "invalid"),
        ("training", "development", "evaluation", "hiring"),
        ("left_test", "right_test", "control"),
    ],
)
def test_classes_that_sound_like_splits(root, names):
    touch(root, *(f"{name}/{n}.jpg" for name in names for n in range(2)))
    index = scan_folder(root)
    assert index.classes == tuple(sorted(names))
    assert splits_of(index).keys() == {""}
    assert index.warnings == ()


def test_years_in_each_class_are_no_splits(root):
    touch(root, "cats/2023/1.jpg", "cats/2024/1.jpg", "dogs/2024/1.jpg", "dogs/0.jpg")
    index = scan_folder(root)
    assert index.classes == ("cats", "dogs")
    assert index.warnings == ()


def test_images_in_no_class_folder_are_said(root):
    touch(root, "a/1.jpg", "b/1.jpg", "stray.jpg", "other.png", "notes.txt")
    assert list(scan_folder(root).warnings) == ["2 images in no class folder: not used"]


def test_one_class_in_a_train_folder_is_one_class(root):
    touch(root, "train/cats/2023/1.jpg", "train/cats/2024/1.jpg")
    assert scan_folder(root).classes == ("cats",)


def test_a_dataset_two_levels_down_is_offered(root):
    touch(root, *images_in("archive/flowers"))
    assert error_of(root).hint == f"did you mean '{root / 'archive' / 'flowers'}'?"
