"""What becomes of predictions: columns of CSV, the page, folders by class, the labelling queue."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, error_lines, write_image
from PIL import Image

from swinclf.cli.prediction_writer import PredictFormat, open_writer
from swinclf.commands.predict import expand_inputs
from swinclf.errors import ExitCode
from swinclf.inference.labelling import LabelFolders, folder_name, select_diverse
from swinclf.inference.prediction import Prediction
from swinclf.reporting import prediction_page
from swinclf.reporting.prediction_page import PageRow, write_prediction_page


@pytest.fixture
def photos(tmp_path):
    """Nine images in two folders, and a file that is no image."""
    for number in range(1, 4):
        for colour in COLOURS:
            name = f"sub/{colour} {number * number}.png"
            write_image(tmp_path / "photos" / name, COLOURS[colour], seed=number)
    (tmp_path / "photos" / "torn.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


# --- order and columns --------------------------------------------------------------------------


def test_numbers_in_names_are_in_numerical_order(tmp_path):
    for name in ("IMG 10.png", "IMG 2.png", "img 3.png", "b 1/x.png", "a/IMG 1.png", "b 02/x.png"):
        write_image(tmp_path / "p" / name, (9, 9, 9), seed=1)
    found = [os.path.relpath(path, tmp_path / "p") for path in expand_inputs([str(tmp_path / "p")])]
    assert found == [
        *("IMG 2.png", "img 3.png", "IMG 10.png"),
        *("a/IMG 1.png", "b 1/x.png", "b 02/x.png"),
    ]
    matched = expand_inputs([str(tmp_path / "p" / "IMG*.png"), str(tmp_path / "p" / "a")])
    assert [Path(path).name for path in matched] == ["IMG 2.png", "IMG 10.png", "IMG 1.png"]


def test_csv_has_the_classes_that_top_k_asks_for_and_what_was_withheld(cli, trained, photos):
    words = ("predict", photos, "--run", trained.path, "--format", "csv", "--top-k", "2")
    done = cli(*words, "--reject", "0.5")
    rows = list(csv.reader(done.out.splitlines()))
    assert rows[0] == [
        *("path", "label", "probability", "error", "label_2", "probability_2"),
        *("withheld_label", "ood_score"),
    ]
    assert rows[1][0].endswith("torn.jpg")
    assert rows[1][4:] == ["", "", "", ""]
    for row in rows[2:]:
        assert 0 < float(row[5]) <= float(row[2])
        assert (row[6] in COLOURS) == (row[1] == "unknown")
        assert float(row[7]) > 0
    records = [
        json.loads(line)
        for line in cli(
            *words[:4], "--format", "jsonl", "--top-k", "2", "--reject", "0.5"
        ).out.splitlines()
    ]
    assert [one.get("withheld_label", "") for one in records] == [row[6] for row in rows[1:]]


UNSURE = Prediction(
    *("a.jpg", "unknown", 0.3, (("dandelion", 0.3), ("rose", 0.2))), ood_score=1.5, is_unknown=True
)
SURE = Prediction("x" * 70 + "/b.jpg", "rose", 0.9, (("rose", 0.9), ("dandelion", 0.1)))
TORN = Prediction("c.jpg", "", 0.0, (), error="not an image of a known format")


def table(capsys, width):
    classes = ["rose", "dandelion"]
    with open_writer(None, PredictFormat.TABLE, classes, width=width) as writer:
        for one in (UNSURE, SURE, TORN):
            writer.write(one)
    assert writer.count == 3
    return capsys.readouterr().out.splitlines()


def test_a_rejected_prediction_has_no_probability_of_being_unknown(capsys):
    unsure, sure, torn = table(capsys, None)
    assert unsure.split(maxsplit=3) == ["-", "unknown", "a.jpg", "(dandelion 30.0 %, rose 20.0 %)"]
    assert sure.endswith("x/b.jpg  (dandelion 10.0 %)")
    assert torn.endswith("c.jpg: not an image of a known format")


def test_wide_characters_and_unknown_are_not_elided(capsys):
    names = (("玫瑰", 0.9), ("猫", 0.1))
    with open_writer(None, PredictFormat.TABLE, ["玫瑰", "猫"], reject=True) as writer:
        writer.write(UNSURE)
        writer.write(Prediction("b.jpg", "玫瑰", 0.9, names))
    unsure, sure = capsys.readouterr().out.splitlines()
    assert unsure.split()[1] == "unknown"
    assert sure.split()[2] == "玫瑰"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_is_aligned_and_fits_the_terminal(capsys, width):
    lines = table(capsys, width)
    assert max(map(len, lines)) <= width
    start = lines[0].index("a.jpg")
    assert lines[2].index("c.jpg") == start
    assert lines[1][start] == "x"
    assert "…" in lines[1]
    assert lines[0].index("(dandelion") == lines[1].index("(dandelion") == lines[2].index("not an")


def test_the_last_line_says_what_was_written_where(cli, trained, photos, tmp_path):
    done = cli("predict", photos, "--run", trained.path, "--output", tmp_path / "x.csv")
    assert done.code == 3
    assert done.err.splitlines()[-1] == f"10 rows written to {tmp_path / 'x.csv'}, 1 unreadable"


# --- the page -----------------------------------------------------------------------------------


def test_the_page_has_every_image_and_no_path_of_this_machine(cli, trained, photos, tmp_path):
    page = tmp_path / "p.html"
    done = cli("predict", photos, "--run", trained.path, "--page", page)
    assert done.code == 3
    assert f"page saved to {page}" in done.err
    text = page.read_text("utf-8")
    assert text.count("<figure ") == text.count("data:image/jpeg") == 9
    assert "sub/blue 1.png" in text
    assert "torn.jpg</bdi>: not an image" in text
    assert str(tmp_path) not in text
    assert "left out" not in text
    shares = [float(one) for one in re.findall(r'data-confidence="([^"]+)"', text)]
    assert shares == sorted(shares)


def test_a_page_is_bounded_and_says_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_page, "MAX_IMAGES", 3)
    rows = [PageRow(f"{n}.png", "<b>", n / 10, "x", is_unknown=n == 2) for n in range(1, 6)]
    write_prediction_page(
        tmp_path / "p.html", rows, [], model="m", thumbnails=lambda files: (b"jpeg" for _ in files)
    )
    text = (tmp_path / "p.html").read_text("utf-8")
    assert "2 images are left out" in text
    assert re.findall(r"(\d).png", text) == ["1", "2", "3"]
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "20.0" not in text  # nobody is 20 % sure that it is unknown


def test_the_folders_of_written_files_are_created(cli, trained, photos, tmp_path):
    page, table = tmp_path / "new" / "p.html", tmp_path / "other" / "deep" / "t.csv"
    done = cli("predict", photos, "--run", trained.path, "--page", page, "--output", table)
    assert done.code == ExitCode.SOME_FAILED
    assert page.is_file()
    assert table.is_file()


def test_a_page_that_cannot_be_written_is_an_error_at_once(cli, trained, photos, tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    for option in ("--page", "--output"):
        page = tmp_path / "file" / "p.html"
        done = cli("predict", photos, "--run", trained.path, option, page)
        assert (done.code, done.out) == (1, "")
        assert error_lines(done)[0] == f"to create a folder in '{page.parent}'"


# --- folders by class ---------------------------------------------------------------------------


def test_images_are_linked_by_class_and_not_moved(cli, trained, photos, tmp_path):
    write_image(photos / "red 1.png", COLOURS["red"], seed=77)  # the name is in sub/ too
    before = sorted(photos.rglob("*"))
    done = cli("predict", photos, "--run", trained.path, "--sort-into", tmp_path / "by-class")
    assert f"10 links in {tmp_path / 'by-class'}, by class" in done.err
    rows = [line.split()[2] for line in done.out.splitlines() if "error" not in line]
    folders = {one.name: sorted(one.iterdir()) for one in (tmp_path / "by-class").iterdir()}
    assert {name: len(files) for name, files in folders.items()} == {
        label: rows.count(label) for label in set(rows)
    }
    links = [link for files in folders.values() for link in files]
    assert all(link.is_symlink() for link in links)
    assert len({link.resolve() for link in links}) == 10
    assert {"red 1.png", "red 1-2.png"} <= {link.name for link in links}
    assert sorted(photos.rglob("*")) == before


def test_nothing_is_overwritten_and_nothing_written_among_the_images(cli, trained, photos):
    for target in (photos / "new", photos, trained.data / "sorted"):
        done = cli("predict", photos, "--run", trained.path, "--sort-into", target)
        assert done.code == 2
        assert "where the images are" in error_lines(done)[1] or "not empty" in error_lines(done)[1]
        assert not (target / "red").exists() or target == trained.data
    assert not (photos / "new").exists()


def test_no_folder_is_sorted_into_that_a_pattern_reads(trained, photos, cli):
    write_image(photos / "1.png", COLOURS["red"], seed=1)
    for pattern, is_read in (("*", True), ("**/*.png", True), ("*/*.png", True), ("*.png", False)):
        words = ("predict", f"{photos}/{pattern}", "--run", trained.path)
        done = cli(*words, "--sort-into", photos / "sorted")
        assert (photos / "sorted").exists() == (done.code != 2) == (not is_read), pattern
        assert not is_read or "finds images" in error_lines(done)[1]


def test_images_of_one_name_are_numbered_without_trying_each_number(tmp_path, monkeypatch):
    tried, exists = [], os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: tried.append(path) or exists(path))
    folders = LabelFolders(tmp_path / "by-class", [], None)
    for number in range(30):
        folders.add(str(tmp_path / str(number) / "a.png"), "red")
    folders.add(str(tmp_path / "b" / "a-2.png"), "red")
    folders.add(str(tmp_path / "b" / "a.png"), "blue")
    for label in ("a:b", "a_b", "a:b"):
        folders.add(str(tmp_path / "b" / "a.png"), label)
    assert len(tried) <= 2 * 40
    red = {path.name for path in (tmp_path / "by-class" / "red").iterdir()}
    assert red == {"a.png", "a-2-2.png", *(f"a-{number}.png" for number in range(2, 31))}
    assert [path.name for path in (tmp_path / "by-class" / "blue").iterdir()] == ["a.png"]
    counts = [len(list((tmp_path / "by-class" / name).iterdir())) for name in ("a_b", "a_b-2")]
    assert counts == [2, 1], "a folder for each label"


def test_copies_where_links_are_impossible(photos, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    folders = LabelFolders(tmp_path / "by-class", [str(photos)], None)
    folders.add(str(photos / "sub" / "red 1.png"), "../evil/label")
    assert (folders.linked, folders.copied) == (0, 1)
    copy = tmp_path / "by-class" / folder_name("../evil/label") / "red 1.png"
    assert copy.read_bytes() == (photos / "sub" / "red 1.png").read_bytes()
    assert folder_name("..") == "_"


# --- what to label next -------------------------------------------------------------------------


def test_the_queue_is_uncertain_images_that_are_unlike_each_other():
    margins = np.array([0.10, 0.05, 0.11, 0.12, 0.90])
    features = np.array([[1, 0], [1, 0.01], [1, 0.02], [0, 1], [-1, 0]], np.float32)
    assert select_diverse(margins, features, 2) == [1, 3]  # not 0, which looks like 1
    assert select_diverse(margins, None, 3) == [1, 0, 2]
    assert select_diverse(margins, features, 9)[:2] == [1, 3]
    assert sorted(select_diverse(margins, features, 9)) == [0, 1, 2, 3, 4]
    assert select_diverse(margins[:0], None, 3) == []


def test_the_queue_replaces_the_other_rows(cli, trained, photos, tmp_path):
    mixed = tmp_path / "photos" / "sub" / "mixed.png"
    halves = [np.full((40, 24, 3), COLOURS[name], np.uint8) for name in ("red", "blue")]
    Image.fromarray(np.concatenate(halves, axis=1)).save(mixed)
    done = cli(
        *("predict", photos, "--run", trained.path, "--queue", "3", "--format", "json"),
        *("--page", tmp_path / "q.html"),
    )
    records = json.loads(done.out)
    assert len(records) == 4
    assert records[3].keys() == {"path", "error"}  # the unreadable one
    every = json.loads(cli("predict", photos, "--run", trained.path, "--format", "json").out)
    margins = {
        one["path"]: one["top"][0]["probability"] - one["top"][1]["probability"]
        for one in every
        if "top" in one
    }
    assert records[0]["path"] == min(margins, key=margins.__getitem__)
    assert "1 of 11 inputs could not be read" in done.err
    words = ("--run", trained.path, "--queue", "1", "--top-k", "1", "--format", "json")
    first, _ = json.loads(cli("predict", photos, *words).out)
    assert first["top"] == records[0]["top"][:1]
    assert "most worth labelling first" in (tmp_path / "q.html").read_text("utf-8")
