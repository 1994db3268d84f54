"""What counts as a class, an image, a split: folders as people have them, and as they break."""

from __future__ import annotations

import inspect
import os
import socket
import sys
from pathlib import Path

import pytest

from swinclf.data import folder
from swinclf.data.dataset import assign_splits, describe_warnings
from swinclf.data.folder import TEST, TRAIN, VAL, check_trainable, scan_folder
from swinclf.data.split import SplitRule
from swinclf.data.walk import walk_images
from swinclf.errors import DataError


def touch(root, *paths):
    """Empty files: a scan opens none of them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def paths_of(index, split=None):
    return [image.path for image in index.images if split in (None, image.split)]


def skipped_of(index):
    return {one.path: one.reason for one in index.skipped}


def error_of(root, **options):
    with pytest.raises(DataError) as caught:
        scan_folder(root, **options)
    return caught.value


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# Classes


def test_classes_are_the_sorted_names_of_the_folders(root):
    touch(root, "rose/1.jpg", "Daisy/1.jpg", "10/1.jpg", "9/1.jpg", "花/1.jpg", "زهرة/1.jpg")
    index = scan_folder(root)
    assert index.classes == ("10", "9", "Daisy", "rose", "زهرة", "花")
    assert index.root == root.resolve()
    assert not index.has_val
    assert {image.split for image in index.images} == {""}


def test_hidden_junk_and_empty_folders_are_no_classes(root):
    touch(root, "a/1.jpg", "b/1.jpg", ".hidden/1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/1.jpg")
    touch(root, "@eaDir/1.jpg", "notes/readme.txt")
    (root / "empty").mkdir()
    index = scan_folder(root)
    assert index.classes == ("a", "b")
    assert index.skipped == ()


def test_junk_files_are_passed_over_in_silence(root):
    touch(root, "a/1.jpg", "a/.DS_Store", "a/Thumbs.db", "a/._1.jpg", "a/desktop.ini", "b/1.jpg")
    index = scan_folder(root)
    assert paths_of(index) == ["a/1.jpg", "b/1.jpg"]
    assert index.skipped == ()


def test_images_anywhere_below_a_class_belong_to_it(root):
    touch(root, "a/1.jpg", "a/deep/er/2.jpg", "b/c/3.jpg", "b/.hidden/4.jpg", "b/c/__MACOSX/5.jpg")
    index = scan_folder(root)
    assert [(image.path, image.label) for image in index.images] == [
        ("a/1.jpg", "a"),
        ("a/deep/er/2.jpg", "a"),
        ("b/c/3.jpg", "b"),
    ]


def test_extensions_of_any_case_and_of_every_format_people_have(root):
    names = "JPG Jpeg jpe jfif PNG apng WebP bmp dib GIF tif TIFF avif jp2 ppm pgm tga ico heic"
    touch(root, *(f"a/{number}.{name}" for number, name in enumerate(names.split())))
    touch(root, "a/no_extension", "a/jpg", "a/1.jpg.txt", "a/1.json", "a/1.svg", "b/1.jpg")
    assert scan_folder(root).counts()["a"] == len(names.split())


def test_names_come_through_byte_for_byte(root):
    names = ["a b.jpg", "line\nfeed.jpg", "🌹.jpg", "وردة.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    touch(root, *(f"a/{name}" for name in names), os.fsdecode(b"caf\xe9/1.jpg"))
    index = scan_folder(root)
    assert sorted(path for path in paths_of(index) if path[0] == "a") == sorted(
        f"a/{name}" for name in names
    )
    assert os.fsencode(index.classes[1]) == b"caf\xe9"


# What is not a regular file inside the dataset


def test_links_pipes_and_sockets(root, tmp_path):
    touch(root, "a/1.jpg", "b/1.jpg")
    touch(tmp_path, "outside.jpg", "elsewhere/1.jpg")
    (root / "a/inside.jpg").symlink_to(root / "b/1.jpg")
    (root / "a/outside.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "a/dangling.jpg").symlink_to("nothing.jpg")
    (root / "a/loop.jpg").symlink_to("loop.jpg")
    (root / "a/up").symlink_to("..")
    (root / "a/elsewhere").symlink_to(tmp_path / "elsewhere")
    (root / "linked_class").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "a/pipe.jpg")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(root / "a/socket.jpg"))
    server.close()
    index = scan_folder(root)
    assert paths_of(index) == [
        "a/1.jpg",
        "a/inside.jpg",
        "a/outside.jpg",
        "b/1.jpg",
        "linked_class/1.jpg",
    ]
    assert skipped_of(index) == {
        "a/dangling.jpg": "a link to nothing",
        "a/loop.jpg": "a link to nothing",
        "a/up": "a link to a folder that holds it",
        "a/elsewhere": "a link to a folder that is read already",
        "a/pipe.jpg": "not a regular file",
        "a/socket.jpg": "not a regular file",
    }
    assert "2 images by links to outside the dataset" in index.notes


def test_a_dataset_of_nothing_but_links_is_read(root, tmp_path):
    touch(tmp_path, "pool/1.jpg", "pool/2.jpg", "pool/deep/3.jpg", "cats/4.jpg")
    (root / "a").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (root / "a" / name).symlink_to(tmp_path / "pool" / name)
    (root / "a" / "more").symlink_to(tmp_path / "pool" / "deep")
    (root / "b").symlink_to(tmp_path / "cats")
    (tmp_path / "linked").symlink_to(root)
    index = scan_folder(tmp_path / "linked")
    assert paths_of(index) == ["a/1.jpg", "a/2.jpg", "a/more/3.jpg", "b/4.jpg"]
    assert index.skipped == ()
    assert index.notes == ("4 images by links to outside the dataset",)


@pytest.mark.parametrize("up", ["a/up -> .", "a/deep/up -> ../..", "a/up -> ../../..", "up -> ."])
def test_no_link_to_a_folder_that_holds_it_multiplies_images(root, up):
    touch(root, *(f"{name}/{number}.jpg" for name in "abc" for number in range(6)), "a/deep/x.jpg")
    link, _, target = up.partition(" -> ")
    (root / link).symlink_to(target)
    index = scan_folder(root)
    assert len(index.images) == 19
    assert skipped_of(index) == {link: "a link to a folder that holds it"}
    assert index.classes == ("a", "b", "c")


def test_links_between_folders_count_no_image_twice(root, tmp_path):
    touch(root, "a/1.jpg", "b/2.jpg", "c/deep/3.jpg")
    touch(tmp_path, "pool/4.jpg", "pool/in/5.jpg")
    (root / "a/to_b").symlink_to("../b")
    (root / "b/to_a").symlink_to("../a")
    (root / "c/again").symlink_to("deep")
    (root / "alias").symlink_to("a")
    (root / "a/pool").symlink_to(tmp_path / "pool")
    (root / "a/pool in").symlink_to(tmp_path / "pool" / "in")
    (tmp_path / "pool/in/round").symlink_to(tmp_path / "pool")
    index = scan_folder(root)
    assert paths_of(index) == [
        *("a/1.jpg", "a/pool/4.jpg", "a/pool/in/5.jpg", "b/2.jpg", "c/deep/3.jpg")
    ]
    again = "a link to a folder that is read already"
    assert skipped_of(index) == {
        **dict.fromkeys(("a/to_b", "b/to_a", "c/again", "alias", "a/pool in"), again),
        "a/pool/in/round": "a link to a folder that holds it",
    }
    assert "alias" in index.folders  # so that its loss is said


def test_a_folder_named_like_an_image_is_a_folder(root):
    touch(root, "a/album.jpg/1.jpg", "b/1.jpg")
    assert paths_of(scan_folder(root)) == ["a/album.jpg/1.jpg", "b/1.jpg"]


def test_a_link_may_lead_to_another_place_inside_the_dataset(root):
    touch(root, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "pool/2.jpg")
    (root / "train/a/2.jpg").symlink_to("../../pool/2.jpg")
    index = scan_folder(root)
    assert "train/a/2.jpg" in paths_of(index, TRAIN)
    assert index.skipped == ()


def test_a_split_folder_may_be_a_link(root, tmp_path):
    touch(root, "train/a/1.jpg", "train/b/1.jpg")
    touch(tmp_path, "elsewhere/a/1.jpg", "elsewhere/b/1.jpg")
    (root / "val").symlink_to(tmp_path / "elsewhere")
    index = scan_folder(root)
    assert paths_of(index, VAL) == ["val/a/1.jpg", "val/b/1.jpg"]
    assert index.skipped == ()


def test_a_val_folder_that_is_the_train_folder_is_refused(root):
    touch(root, "train/a/1.jpg", "train/b/1.jpg")
    (root / "val").symlink_to("train")
    index = scan_folder(root)
    assert set(skipped_of(index).values()) == {"a link to a folder that is read already"}
    with pytest.raises(DataError) as caught:
        check_trainable(index)
    assert caught.value.found == (
        "the val folder lacks 'a', 'b'; "
        "2 files of these were skipped: a link to a folder that is read already"
    )


def test_a_link_to_nothing_where_a_class_was_meant_is_listed(root):
    touch(root, "a/1.jpg", "b/1.jpg")
    (root / "zebra").symlink_to("/nowhere/zebra")
    index = scan_folder(root)
    assert skipped_of(index) == {"zebra": "a link to nothing"}
    assert index.folders == ("a", "b", "zebra")


def unreadable(monkeypatch, *names):
    """Makes folders of these names unreadable, also for root, whom no permission keeps out."""
    real = os.scandir

    def scandir(path="."):
        if not isinstance(path, int) and Path(path).name in names:  # int: an open folder
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_an_unreadable_class_folder_is_listed(root, monkeypatch):
    touch(root, "a/1.jpg", "b/1.jpg", "locked/1.jpg")
    unreadable(monkeypatch, "locked")
    index = scan_folder(root)
    assert index.classes == ("a", "b")
    assert skipped_of(index) == {"locked": "Permission denied"}


def test_folders_may_be_deeper_than_python_calls_functions(root):
    deep = "/".join(250 * ["img"])
    touch(
        root, f"train/{deep}/a/{deep}/1.jpg", f"train/{deep}/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg"
    )
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = scan_folder(root)
    finally:
        sys.setrecursionlimit(limit)
    assert [image.label for image in found.images] == ["a", "b", "a", "b"]


def test_an_unreadable_folder_deeper_down_costs_only_itself(root, monkeypatch):
    touch(root, "a/0.jpg", "a/locked/1.jpg", "a/open/2.jpg", "a/z.jpg", "b/1.jpg")
    unreadable(monkeypatch, "locked")
    index = scan_folder(root)
    assert paths_of(index) == ["a/0.jpg", "a/open/2.jpg", "a/z.jpg", "b/1.jpg"]
    assert skipped_of(index) == {"a/locked": "Permission denied"}


def test_a_link_whose_target_cannot_be_inspected_costs_only_itself(root):
    touch(root, *(f"a/{n}.jpg" for n in range(9)), "b/1.jpg")
    (root / "a" / "long").symlink_to("x" * 300)  # raises ENAMETOOLONG, as EACCES or EIO elsewhere
    index = scan_folder(root)
    assert index.counts() == {"a": 9, "b": 1}
    assert skipped_of(index) == {"a/long": "a link to nothing"}


def test_an_unreadable_dataset_is_an_error(root, monkeypatch):
    touch(root, "a/1.jpg")
    unreadable(monkeypatch, "data")
    error = error_of(root)
    assert str(root) in error.expected
    assert error.found == "Permission denied"


# Splits


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_a_val_folder_of_any_spelling(root, name):
    touch(root, "train/a/1.jpg", "train/b/1.jpg", f"{name}/a/2.jpg", f"{name}/b/2.jpg")
    index = scan_folder(root)
    assert index.has_val
    assert index.classes == ("a", "b")
    assert paths_of(index, TRAIN) == ["train/a/1.jpg", "train/b/1.jpg"]
    assert paths_of(index, VAL) == [f"{name}/a/2.jpg", f"{name}/b/2.jpg"]
    assert index.counts(VAL) == {"a": 1, "b": 1}


def test_a_test_folder_stays_apart(root):
    touch(root, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "test/a/1.jpg")
    index = scan_folder(root)
    assert paths_of(index, TEST) == ["test/a/1.jpg"]
    check_trainable(index)


def test_train_beside_test_holds_out_of_train(root):
    touch(root, *(f"train/{name}/{n}.jpg" for name in "ab" for n in range(9)), "test/a/t.jpg")
    index = scan_folder(root)
    assert not index.has_val
    digests = {path: path.encode() for path in paths_of(index)}
    dataset = assign_splits(index, digests, {}, SplitRule(0.2))
    assert [image.path for image in dataset.of(TEST)] == ["test/a/t.jpg"]
    assert all(image.path.startswith("train/") for image in dataset.of(VAL))
    assert set(dataset.counts(VAL)) == {"a", "b"}


def test_test_images_do_not_count_as_images_to_train_on(root):
    touch(root, "train/a/1.jpg", "train/b/1.jpg", "train/b/2.jpg", "test/a/1.jpg", "test/a/2.jpg")
    index = scan_folder(root)
    digests = {path: path.encode() for path in paths_of(index)}
    dataset = assign_splits(index, digests, {}, SplitRule(0.2))
    assert dataset.counts(TRAIN) == {"a": 1, "b": 1}
    assert dataset.counts(VAL) == {"b": 1}


def test_train_alone_is_the_dataset(root):
    touch(root, "train/a/1.jpg", "train/b/1.jpg")
    assert scan_folder(root).classes == ("a", "b")


def test_classes_may_be_called_like_splits(root):
    touch(root, "train/1.jpg", "bus/1.jpg", "plane/1.jpg")
    assert scan_folder(root).classes == ("bus", "plane", "train")


def test_two_val_folders_are_one_too_many(root):
    touch(root, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")
    error = error_of(root)
    assert error.found == "2 for val: val, valid"
    assert "--val DIR" in error.hint


def test_val_named_by_hand(root, tmp_path):
    touch(root, "a/1.jpg", "b/1.jpg")
    touch(tmp_path, "held/a/2.jpg", "held/b/2.jpg")
    index = scan_folder(root, val=tmp_path / "held")
    assert index.has_val
    assert paths_of(index, TRAIN) == ["a/1.jpg", "b/1.jpg"]
    assert paths_of(index, VAL) == ["../held/a/2.jpg", "../held/b/2.jpg"]
    assert all((root / path).is_file() for path in paths_of(index))
    assert index.skipped == ()


def test_val_named_by_hand_wins_over_the_val_folder(root, tmp_path):
    touch(root, "train/a/1.jpg", "val/a/1.jpg", "test/a/1.jpg")
    touch(tmp_path, "held/a/2.jpg")
    index = scan_folder(root, val=tmp_path / "held")
    assert paths_of(index, VAL) == ["../held/a/2.jpg"]
    assert paths_of(index, TRAIN) == ["train/a/1.jpg"]
    assert paths_of(index, TEST) == ["test/a/1.jpg"]


def test_val_inside_the_dataset_is_no_class(root):
    touch(root, "a/1.jpg", "b/1.jpg", "held/a/2.jpg", "held/b/2.jpg")
    index = scan_folder(root, val=root / "held")
    assert index.classes == ("a", "b")
    assert paths_of(index, VAL) == ["held/a/2.jpg", "held/b/2.jpg"]


@pytest.mark.parametrize("val", ["", "b/deeper"])
def test_no_image_is_on_both_sides(root, val):
    touch(root, "a/1.jpg", "b/1.jpg", "b/deeper/a/2.jpg", "b/deeper/b/2.jpg")
    error = error_of(root, val=root / val)
    assert "in both" in error.found
    assert "--val" in error.expected


def test_val_named_by_hand_settles_which_of_two_it_is(root):
    touch(root, "train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg")
    assert paths_of(scan_folder(root, val=root / "valid"), VAL) == ["valid/a/3.jpg"]


# Errors


def test_no_such_folder_and_nothing_near(tmp_path):
    assert "swinclf demo" in error_of(tmp_path / "nowhere" / "at" / "all").hint
    assert error_of(tmp_path / ("x" * 300)).found == "File name too long"


def test_an_empty_folder(root):
    assert error_of(root).found == "no folder in it, it is empty"


def test_images_in_no_class_folder(root):
    for name, found in (("1.jpg", "1 image"), ("2.png", "2 images")):
        error = error_of(touch(root, name))
        assert error.found == f"{found} directly in it, not in class folders"


def test_folders_without_images(root):
    error = error_of(touch(root, *(f"{name}/notes.txt" for name in "abcdefg")))
    assert error.found == "no image in any folder of it ('a', 'b', 'c', 'd', 'e' and 2 more)"


def test_a_train_folder_without_images(root):
    (root / "train" / "a").mkdir(parents=True)
    touch(root, "val/a/1.jpg")
    assert "'a'" in error_of(root).found


@pytest.mark.parametrize("below", ["", "train/"])
def test_a_dataset_one_level_down(root, below):
    touch(root, f"flowers/{below}daisy/1.jpg", f"flowers/{below}rose/1.jpg", "README.md")
    touch(root, *(["flowers/val/rose/1.jpg"] if below else []))
    error = error_of(root)
    assert error.hint == f"did you mean '{root / 'flowers'}'?"
    assert "'flowers'" in error.found


def test_a_class_with_folders_in_it_is_not_one_level_down(root):
    touch(root, "a/2023/1.jpg", "a/2024/1.jpg", "b/1.jpg")
    assert scan_folder(root).classes == ("a", "b")
    touch(root, "only/one/cats/0.jpg", "only/one/cats/2023/1.jpg", "only/one/cats/2024/1.jpg")
    assert scan_folder(root / "only" / "one").classes == ("cats",)


def test_one_class(root):
    touch(root, "cats/1.jpg", "cats/2.jpg")
    with pytest.raises(DataError) as caught:
        check_trainable(scan_folder(root))
    assert "at least two classes" in caught.value.expected
    assert caught.value.found == "1: 'cats'"


def test_a_lone_image_is_trained_on_and_said(root):
    touch(root, "a/1.jpg", *(f"{name}/{number}.jpg" for name in "bc" for number in range(9)))
    index = scan_folder(root)
    digests = {path: path.encode() for path in paths_of(index)}
    dataset = assign_splits(index, digests, {}, SplitRule(0.2))
    assert dataset.counts(TRAIN)["a"] == 1
    assert dataset.counts(VAL).keys() == {"b", "c"}
    assert list(describe_warnings(dataset)) == [
        "no image of 'a' is held out: there are not two different ones (1 to train on)"
    ]


@pytest.mark.parametrize(
    ("val", "found"),
    [
        (["a"], "the val folder lacks 'rose'"),
        (["a", "rose", "z"], "the val folder adds 'z'"),
        (["a", "roses"], "lacks 'rose'; the val folder adds 'roses' (did you mean 'rose'?)"),
    ],
)
def test_val_must_have_the_same_classes(root, val, found):
    touch(root, "Train/a/1.jpg", "Train/rose/1.jpg", *(f"val/{name}/2.jpg" for name in val))
    with pytest.raises(DataError) as caught:
        check_trainable(scan_folder(root))
    assert caught.value.found.endswith(found)
    assert f"swinclf train '{root / 'Train'}'" in caught.value.hint


def test_val_named_by_hand_with_other_classes_says_what_can_be_typed(root, tmp_path):
    touch(root, "a/1.jpg", "b/1.jpg")
    touch(tmp_path, "held/a/2.jpg")
    with pytest.raises(DataError) as caught:
        check_trainable(scan_folder(root, val=tmp_path / "held"))
    assert caught.value.found == "the val folder lacks 'b'"
    assert f"swinclf train '{root}'" in caught.value.hint


# Unreadable images, known only after a look at each


def test_unreadable_images_are_dropped_before_anything_is_counted(root):
    touch(root, *(f"{name}/{number}.jpg" for name in "abc" for number in range(3)))
    index = scan_folder(root)
    errors = {f"c/{number}.jpg": "truncated" for number in range(3)} | {
        "a/1.jpg": "the file is empty"
    }
    digests = {path: path.encode() for path in paths_of(index) if path not in errors}
    dataset = assign_splits(index, digests, errors, SplitRule(0.2))
    assert dataset.classes == ("a", "b")
    assert {one.path: one.reason for one in dataset.skipped} == errors
    assert len(dataset.images) == 5
    assert dataset.targets(TRAIN) == [dataset.classes.index(one.label) for one in dataset.of(TRAIN)]
    assert dataset.paths(VAL) == [root / one.path for one in dataset.of(VAL)]


def test_a_class_with_one_readable_image_is_a_lone_image(root):
    touch(root, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    index = scan_folder(root)
    digests = {path: path.encode() for path in paths_of(index)}
    dataset = assign_splits(index, digests, {"a/2.jpg": "truncated"}, SplitRule(0.2))
    assert (dataset.counts(TRAIN), dataset.counts(VAL)) == ({"a": 1, "b": 1}, {"b": 1})


# Walking for predictions


def test_a_walk_gives_every_image_as_it_was_named(root, monkeypatch):
    touch(root, "b.jpg", "a.PNG", "deep/er/c.jpg", ".hidden.jpg", ".git/d.jpg", "notes.txt")
    touch(root.parent, "elsewhere/e.jpg")
    (root / "up").symlink_to(".")
    (root / "linked").symlink_to("../elsewhere")
    (root / "gone.jpg").symlink_to("nothing")
    monkeypatch.chdir(root.parent)
    assert list(walk_images("data")) == [
        "data/a.PNG",
        "data/b.jpg",
        "data/gone.jpg",
        "data/deep/er/c.jpg",
        "data/linked/e.jpg",
    ]


def test_a_walk_names_the_folder_it_cannot_enter(root, monkeypatch):
    touch(root, "a.jpg", "locked/b.jpg", "open/c.jpg")
    unreadable(monkeypatch, "locked")
    names = [os.path.relpath(path, root) for path in walk_images(str(root))]
    assert names == ["a.jpg", "locked", "open/c.jpg"]


def test_a_million_files_would_be_listed_without_opening_one(root, monkeypatch):
    touch(root, "a/1.jpg", "b/1.jpg")

    def never(*_):
        raise AssertionError("a scan opened a file")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", never)
        patch.setattr(os, "open", never)
        assert folder.scan_folder(root).classes == ("a", "b")
