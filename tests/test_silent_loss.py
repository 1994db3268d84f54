"""Nothing is lost in silence: odd extensions, unreadable classes, names that look alike."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL_FLAGS, error_lines, read_rows, write_dataset, write_image
from PIL import Image

from swinclf.data import class_names, image_detector
from swinclf.data.class_names import match_unicode_forms, quote_names, similar_names
from swinclf.data.folder import (
    VAL,
    FolderIndex,
    ImageFile,
    SkippedFile,
    check_trainable,
    scan_folder,
)
from swinclf.data.image_detector import (
    extension_of,
    is_readable_format,
    unsupported_format,
)
from swinclf.data.walk import walk_images
from swinclf.data_quality.findings import find_scan_faults
from swinclf.errors import DataError
from swinclf.inference.selection import MAX_UNKNOWN_WARNINGS, match_labels
from swinclf.reporter import Reporter

NFC, NFD = (unicodedata.normalize(form, "Büffel") for form in ("NFC", "NFD"))


def head_of(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, (20, 20)).save(buffer, kind, **options)
    return buffer.getvalue()[:64]


@pytest.fixture(scope="module")
def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


# What a file is


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "RGB") for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000")),
        *(("GIF", "P"), ("PPM", "1"), ("PPM", "L"), ("PPM", "RGB"), ("ICO", "RGBA")),
        *(("BMP", "1"), ("BMP", "P"), ("TIFF", "I;16"), ("TIFF", "F")),
    ],
)
def test_images_begin_like_images(kind, mode):
    assert is_readable_format(head_of(kind, mode))


def test_big_tiff_heic_and_qoi_begin_like_images():
    assert is_readable_format(head_of("TIFF", big_tiff=True))
    assert is_readable_format(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert is_readable_format(b"qoif" + bytes(20))


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"\xff\xd8", b"BMW is a make of cars, as is well known", b"P5 is one size of paper"),
        *(b"PK\x03\x04", b"%PDF-1.7", b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0WAVEfmt ", bytes(32)),
        *(
            b"\x00\x01\x00\x00\x00\x0f",
            b"\x80\x04\x95",
            b"\x7fELF",
            b"II is a number",
            b"GIF8 ball",
        ),
        *(
            b'{"label": 3}',
            b"\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00",
        ),
    ],
)
def test_other_files_do_not(head):
    assert not is_readable_format(head)
    assert not unsupported_format(head)


def test_formats_that_are_not_read_are_known():
    assert unsupported_format(b"\xff\x0a\xfa\x7f") == "JPEG XL"
    assert unsupported_format(b"8BPS\0\1") == "a Photoshop document"


def test_extensions_as_they_are_counted():
    names = ("a.JPG", "a.jpg_large", "a", "a.jpg!d", "a.jpeg.1", "a.png?raw=1", "a.JPG~", "a.")
    assert [extension_of(name) for name in names] == [
        *(".jpg", ".jpg_large", "", ".jpg!", ".0-9", ".png?", ".jpg~", ""),
    ]


ODD = (".jpg_large", "", ".jpg!d", ".jpeg.1", ".pjpeg", ".png?raw=1", ".JPG~", ".jxl", ".bak")


def test_images_under_odd_extensions_are_used(tmp_path, jpeg):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number, end in enumerate(ODD):
            (tmp_path / name / f"{number}{end}").write_bytes(jpeg)
    (tmp_path / "a" / "plain.jpg").touch()
    (tmp_path / "a" / ".hidden").write_bytes(jpeg)
    (tmp_path / "a" / "Thumbs.db").write_bytes(jpeg)
    for name in ("readme", "x.txt", "y.txt", "z.npy"):
        (tmp_path / "a" / name).write_bytes(b"no image")
    os.mkfifo(tmp_path / "a" / "pipe")
    index = scan_folder(tmp_path)
    assert index.counts() == {"a": len(ODD) + 1, "b": len(ODD)}
    assert index.skipped == ()
    by_content, passed = index.notes
    assert by_content.startswith("18 images recognized by content, under other extensions: ")
    assert passed == "ignored, not images: 2 .txt, 1 without one, 1 .npy"
    walked = [os.path.relpath(path, tmp_path) for path in walk_images(str(tmp_path))]
    assert walked == sorted(image.path for image in index.images)


def test_images_of_formats_that_are_not_read_are_named(tmp_path, jpeg):
    for name, content in (
        ("a/1.jxl", b"\xff\x0a\xfa\x7f"),
        ("a/2", b"\xff\x0a\xfa\x7f"),
        ("a/3.svg", b"<svg/>"),
        ("a/4.nef", head_of("TIFF")),
        ("a/5.nef", jpeg),
        ("b/1.psd", b"8BPS\0\1"),
        ("c/1.jpg", jpeg),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    index = scan_folder(tmp_path)
    assert {one.path: one.reason.partition(",")[0] for one in index.skipped} == {
        "a/1.jxl": "JPEG XL",
        "a/2": "JPEG XL",
        "a/3.svg": "SVG",
        "a/4.nef": "a camera's raw image",
        "b/1.psd": "a Photoshop document",
    }
    assert index.counts() == {"a": 1, "c": 1}
    assert index.folders == ("a", "b", "c")


def test_each_file_of_an_inconclusive_extension_is_opened(tmp_path, jpeg, monkeypatch):
    opened, real = [], image_detector.read_signature
    monkeypatch.setattr(
        image_detector, "read_signature", lambda path: opened.append(path) or real(path)
    )
    detector = image_detector.ImageDetector()
    contents = {"1.data": jpeg, "2.data": b"no image", "1.blob": b"", "1.txt": jpeg, "1.jpg": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    uses = {name: detector.classify(str(tmp_path / name), name) for name in contents}
    assert uses == {"1.data": "", "2.data": None, "1.blob": None, "1.txt": None, "1.jpg": ""}
    assert [path.rpartition(os.sep)[2] for path in opened] == ["1.data", "2.data", "1.blob"]


# Classes that cannot be read


def index_of(tmp_path, *labels, skipped=()):
    return FolderIndex(tmp_path, labels, (), skipped, False, folders=("a", "b", "zebra"))


HEIC = "HEIC images need: pip install 'swinclf[heic]'"


def test_nothing_readable_names_the_commonest_reason_and_its_remedy(tmp_path):
    skipped = (
        *(SkippedFile(f"a/{n}.heic", HEIC, "a") for n in range(9)),
        SkippedFile("b/1.jpg", "the file is empty", "b"),
    )
    with pytest.raises(DataError) as caught:
        check_trainable(index_of(tmp_path, skipped=skipped))
    assert caught.value.found == (
        f"0: none with a readable image; 10 files skipped, 9 of them: {HEIC}"
    )
    assert caught.value.hint == "pip install 'swinclf[heic]'"


def test_train_check_eval_and_predict_name_a_class_that_cannot_be_read(cli, trained, tmp_path):
    data = write_dataset(tmp_path / "colours", per_class=4)
    for number in range(3):
        (data / "zebra").mkdir(exist_ok=True)
        (data / "zebra" / f"{number}.png").touch()
    (data / "red" / "gone.png").symlink_to("nowhere")
    done = cli("train", data, *SMALL_FLAGS, "--name", "run")
    assert done.code == 3, done.err
    lost = "class 'zebra' has no readable image: 3 skipped (the file is empty)"
    assert f"warning: {lost}" in done.err
    assert "4 files skipped, e.g. red/gone.png: a link to nothing" in done.err
    run = tmp_path / "runs" / "run"
    assert {row["path"] for row in read_rows(run / "skipped.csv")} == {
        *("red/gone.png", "zebra/0.png", "zebra/1.png", "zebra/2.png")
    }
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert (metrics["skipped"], metrics["classes"]) == (4, ["blue", "green", "red"])

    checked = cli("check", data)
    assert checked.code == 3
    assert "FIX   1 class folder without an image that can be read" in checked.out
    assert "zebra: 3 skipped (the file is empty)" in checked.out

    scored = cli("eval", data, "--run", trained.path, "--split", "all", "--output", "scores")
    assert scored.code == 3
    assert "class 'zebra' is not one of the model's: 3 images are not scored" in scored.err
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text("utf-8"))["skipped"] == 4
    predicted = cli("predict", data, "--run", trained.path, "--format", "csv")
    assert predicted.code == 3
    assert "4 of 16 inputs could not be read" in predicted.err


def test_eval_names_a_known_class_that_cannot_be_read(cli, trained, tmp_path):
    data = write_dataset(tmp_path / "colours", per_class=2)
    for path in (data / "red").iterdir():
        path.write_bytes(b"")
    done = cli("eval", data, "--run", trained.path, "--output", "scores")
    assert done.code == 3
    assert "warning: class 'red' has no readable image: 2 skipped (the file is empty)" in done.err


def test_train_and_eval_where_nothing_can_be_read(cli, trained, tmp_path):
    for name in ("red", "blue"):
        for number in range(3):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name / f"{number}.png").touch()
    done = cli("train", "data", *SMALL_FLAGS)
    assert done.code == 1
    assert error_lines(done)[1].endswith("6 files skipped, 6 of them: the file is empty")
    done = cli("eval", "data", "--run", trained.path)
    assert done.code == 1
    assert error_lines(done)[1] == "6 files, none readable; 6 of them: the file is empty"


# Names that look alike


def test_names_that_people_take_for_one():
    names = ("Rose", "rose", "rose ", "tulip", NFC, NFD, "daisy", "ＡＢ", "AB")
    assert sorted(similar_names(names)) == [("AB", "ＡＢ"), (NFD, NFC), ("Rose", "rose", "rose ")]
    assert quote_names((NFC, NFD)) == f"{NFC!r} (NFC), {NFD!r} (NFD)"
    assert quote_names(("Rose", "rose ")) == "'Rose', 'rose '"


def test_only_a_unique_match_in_another_form_is_one():
    assert match_unicode_forms([NFD, "a"], [NFC, "a"]) == {NFD: NFC}
    assert match_unicode_forms([NFD, NFC], [NFC]) == {}
    assert match_unicode_forms(["rose "], ["rose"]) == {}
    mixed = "u\u0308\u00fc"
    assert match_unicode_forms([unicodedata.normalize("NFD", mixed), mixed], ["\u00fc\u00fc"]) == {}


def test_train_warns_and_check_finds_names_that_look_alike(cli, tmp_path):
    data = write_dataset(tmp_path / "data", per_class=4)
    for row, name in enumerate(("Red", NFC, NFD)):
        for number in range(4):
            write_image(data / name / f"{number}.png", (90, 90, 90), seed=50 * row + number)
    done = cli("train", data, *SMALL_FLAGS)
    assert done.code == 0, done.err
    alone = "differ only in case, outer spaces or Unicode form: they are separate classes"
    assert f"warning: the classes {NFD!r} (NFD), {NFC!r} (NFC) {alone}" in done.err
    assert f"warning: the classes 'Red', 'red' {alone}" in done.err
    (finding,) = [one for one in find_scan_faults(scan_folder(data)) if one.needs_fix]
    assert finding.message.startswith("2 groups of class names that differ only in case")
    assert "'Red', 'red'" in [example.note for example in finding.examples]


@pytest.fixture
def forms(tmp_path):
    """A dataset whose train folder has a name in one Unicode form, and val in the other."""
    for split, name in (("train", NFC), ("val", NFD)):
        for folder in (name, "rose"):
            for number in range(3):
                path = tmp_path / "data" / split / folder / f"{number}.png"
                write_image(path, (90, 90, 90), seed=len(str(path)) + number)
    return tmp_path / "data"


def test_val_matches_a_class_in_another_unicode_form(forms):
    index = scan_folder(forms)
    assert index.counts(VAL) == {NFC: 3, "rose": 3}
    assert index.classes == tuple(sorted((NFC, "rose")))
    (note,) = index.notes
    assert note.startswith(f"{NFD!r} (NFD), {NFC!r} (NFC) are one class, written in two Unicode")
    check_trainable(index)


def test_val_with_both_forms_is_refused_and_says_which_is_which(forms):
    write_image(forms / "val" / NFC / "1.png", (1, 2, 3), seed=3)
    with pytest.raises(DataError) as caught:
        check_trainable(scan_folder(forms))
    assert caught.value.found == f"the val folder adds {NFD!r} (NFD) (did you mean {NFC!r} (NFC)?)"


def test_eval_matches_a_class_in_another_unicode_form(cli, tmp_path):
    data = tmp_path / "data"
    for row, name in enumerate((NFC, "rose")):
        for number in range(4):
            write_image(data / name / f"{number}.png", (200 * row, 9, 9), seed=9 * row + number)
    assert cli("train", data, *SMALL_FLAGS, "--name", "run").code == 0
    (data / NFC).rename(data / NFD)
    (data / "rose").rename(data / "Rose")
    done = cli("eval", data, "--run", "runs/run", "--split", "all", "--output", "scores")
    assert done.code == 3, done.err
    assert "are one class, written in two Unicode forms" in done.err
    rows = read_rows(tmp_path / "scores" / "predictions.csv")
    assert [row["label"] for row in rows] == [NFC] * 4
    skipped = read_rows(tmp_path / "scores" / "skipped.csv")
    assert {row["reason"] for row in skipped} == {
        "its class 'Rose' is not one of the model's ('rose' is)"
    }


def test_labels_are_matched_without_comparing_each_to_each_class(monkeypatch, tmp_path):
    keys, key_of = [], class_names._loose_key
    monkeypatch.setattr(class_names, "_loose_key", lambda name: keys.append(name) or key_of(name))
    classes = ("rose", "daisy", *(f"class {number}" for number in range(40)))
    labels = ["rose", "Daisy", NFD, *(f"other {number}" for number in range(30))]
    images = tuple(ImageFile(f"{label}/1.png", label, "") for label in labels)
    warned = []

    class Listener(Reporter):
        def warn(self, text):
            warned.append(text)

    index = FolderIndex(tmp_path, (), images, (), has_val=False)
    known, skipped = match_labels(index, SimpleNamespace(classes=classes), Listener())
    assert [image.label for image in known] == ["rose"]
    assert skipped[0].reason == "its class 'Daisy' is not one of the model's ('daisy' is)"
    assert len(skipped) == 32
    assert len(warned) == MAX_UNKNOWN_WARNINGS
    assert len(keys) == len(classes) + 32  # each name once


# A class of one image


@pytest.mark.parametrize("flags", [(), ("--freeze-layers",), ("--class-weights", "balanced")])
def test_a_class_of_one_image_is_trained_on(cli, tmp_path, flags):
    data = write_dataset(tmp_path / "colours", per_class=8)
    write_image(data / "violet" / "1.png", (150, 60, 200), seed=1)
    done = cli("train", data, *SMALL_FLAGS, *flags, "--name", "run")
    assert done.code == 0, done.err
    assert "warning: no image of 'violet' is held out: there are not two different" in done.err
    run = tmp_path / "runs" / "run"
    split = {row["path"]: row["split"] for row in read_rows(run / "split.csv")}
    assert split["violet/1.png"] == "train"
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["classes"] == ["blue", "green", "red", "violet"]
    assert metrics["per_class"]["violet"]["support"] == 0
    recalls = [one["recall"] for one in metrics["per_class"].values() if one["support"]]
    assert len(recalls) == 3
    assert metrics["balanced_accuracy"] == pytest.approx(sum(recalls) / 3)
    assert cli("eval", "--run", run, "--split", "all").code == 0


def test_classes_of_one_image_each(cli, tmp_path):
    data = write_dataset(tmp_path / "colours", per_class=1)
    done = cli("train", data, *SMALL_FLAGS, "--name", "run")
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "runs" / "run" / "metrics.json").read_text("utf-8"))
    assert (metrics["split"], metrics["images"]) == ("train", 3)
    warned = "no class has two images: none is held out"
    assert f"warning: {warned}" in done.err
    two = write_dataset(tmp_path / "two", per_class=2)
    done = cli("train", two, *SMALL_FLAGS, "--name", "two", "--epochs", "1")
    assert done.code == 0, done.err
    assert warned not in done.err, "one of each trains, the other one validates"
