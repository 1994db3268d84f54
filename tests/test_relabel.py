"""relabel: images are moved to the classes of a table, never over another one, and back."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from conftest import error_lines, read_rows, write_image

from swinclf.commands.relabel import apply_moves, plan_relabel, plan_undo
from swinclf.errors import DataError, RunError
from swinclf.files import write_csv, write_json


def contents(folder):
    """Path -> content of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_labels(file, rows):
    write_csv(file, ["path", "label"], rows)
    return file


@pytest.fixture
def labels(dataset, tmp_path):
    """A table of two wrong labels, of which one needs another name, and of a right one."""
    del dataset
    rows = [("red/000.png", "blue"), ("red/001.png", "red"), ("green/002.png", "red")]
    return write_labels(tmp_path / "labels.csv", rows)


def test_images_are_moved_and_moved_back(cli, dataset, labels, tmp_path):
    before = contents(dataset)
    done = cli("relabel", labels, "--data", dataset, "--yes")
    assert done.code == 0
    assert done.out.splitlines() == [
        "red/000.png -> blue/000-2.png",
        "green/002.png -> red/002-2.png",
    ]
    assert "2 images to move, 1 unchanged" in done.err
    moved = contents(dataset)
    assert moved["blue/000-2.png"] == before["red/000.png"]
    assert moved["blue/000.png"] == before["blue/000.png"]
    assert "red/000.png" not in moved
    assert len(moved) == len(before)
    undo = tmp_path / "labels-undo.json"
    assert f"to undo: swinclf relabel --undo {undo}" in done.err
    done = cli("relabel", "--undo", undo, "--yes")
    assert done.code == 0
    assert contents(dataset) == before
    assert cli("relabel", "--undo", undo, "--yes").code == 0  # nothing is left to do
    assert contents(dataset) == before


def test_a_table_that_moves_nothing_says_what_to_edit(cli, dataset, tmp_path):
    before = contents(dataset)
    table = write_labels(tmp_path / "labels.csv", [("red/001.png", "red")])
    done = cli("relabel", table, "--data", dataset)
    assert done.code == 0
    assert f"write other classes into the column label of {table}" in done.err
    assert contents(dataset) == before


def test_without_an_answer_the_plan_is_printed_and_nothing_moved(
    cli, dataset, labels, tmp_path, monkeypatch
):
    before = contents(tmp_path)
    done = cli("relabel", labels, "--data", dataset)
    assert done.code == 2
    assert "--yes" in error_lines(done)[0]
    assert "red/000.png -> blue/000-2.png" in done.out
    monkeypatch.setattr("swinclf.cli.console.has_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", lambda *_: "")
    assert cli("relabel", labels, "--data", dataset).code == 1
    assert contents(tmp_path) == before


def test_edited_suspects_of_a_run_need_no_data(trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "split.csv"):
        (run / name).write_bytes((trained.path / name).read_bytes())
    rows = [[row["path"], row["label"], "blue", 0.9] for row in read_rows(run / "split.csv")]
    rows[0][1] = {"blue": "red"}.get(rows[0][1], "blue")
    write_csv(run / "suspects.csv", ["path", "label", "suggested", "probability"], rows)
    plan = plan_relabel(run / "suspects.csv")
    assert plan.data == trained.data
    assert [one.path for one in plan.moves] == [rows[0][0]]
    with pytest.raises(RunError) as caught:
        plan_relabel(write_labels(tmp_path / "x.csv", []))
    assert "--data" in caught.value.hint


def test_an_image_stays_in_its_split_and_subfolder(tmp_path):
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            write_image(tmp_path / "d" / split / label / "sub" / "1.png", (9, 9, 9), seed=1)
    table = write_labels(tmp_path / "t.csv", [("val/cat/sub/1.png", "dog")])
    (move,) = plan_relabel(table, tmp_path / "d").moves
    assert move.target == "val/dog/sub/1-2.png"


def test_a_label_in_another_unicode_form_is_that_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "B\u00fcffel") for form in ("NFC", "NFD"))
    for number, label in enumerate((nfd, "rose")):
        write_image(tmp_path / "d" / label / f"{number}.png", (9, 9, 9), seed=number)
    rows = [(f"{nfd}/0.png", nfc), ("rose/1.png", nfc)]
    plan = plan_relabel(write_labels(tmp_path / "t.csv", rows), tmp_path / "d")
    assert [one.target for one in plan.moves] == [f"{nfd}/1.png"]


def test_a_new_name_is_not_too_long(tmp_path):
    name = 125 * "\u00e9" + ".png"  # 254 bytes
    for seed, label in enumerate(("cat", "dog")):
        write_image(tmp_path / "d" / label / name, (9, 9, 9), seed=seed)
    apply_moves(
        plan_relabel(write_labels(tmp_path / "t.csv", [(f"cat/{name}", "dog")]), tmp_path / "d")
    )
    assert sorted(path.name for path in (tmp_path / "d" / "dog").iterdir()) == [
        124 * "\u00e9" + "-2.png",
        name,
    ]


def test_paths_as_predict_prints_them(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [("colours/red/000.png", "blue"), (dataset / "red" / "001.png", "green"), ("x.png", "")]
    plan = plan_relabel(write_labels(tmp_path / "t.csv", rows), Path("colours"))
    assert [one.path for one in plan.moves] == ["red/000.png", "red/001.png"]


@pytest.mark.parametrize(
    ("path", "label", "found"),
    [
        ("red/000.png", "bleu", "no class folder 'bleu', did you mean 'blue'?"),
        ("red/000.png", "../other", "no class folder '../other'"),
        ("red/absent.png", "blue", "no such file"),
        ("../other/1.png", "blue", "outside the dataset"),
        ("red/../../other/1.png", "blue", "outside the dataset"),
        ("out/1.png", "blue", "outside the dataset"),
        ("red/link.png", "blue", "a link"),
        ("loose.png", "blue", "not in a class folder"),
    ],
)
def test_what_is_refused(dataset, tmp_path, path, label, found):
    write_image(tmp_path / "other" / "1.png", (9, 9, 9), seed=1)
    write_image(dataset / "loose.png", (9, 9, 9), seed=2)
    (dataset / "out").symlink_to(tmp_path / "other")
    (dataset / "red" / "link.png").symlink_to("000.png")
    before = contents(tmp_path)
    table = write_labels(tmp_path / "t.csv", [(path, label)])
    with pytest.raises(DataError) as caught:
        plan_relabel(table, dataset)
    assert caught.value.found.endswith(found)
    table.unlink()
    assert contents(tmp_path) == before


def test_two_rows_of_an_image_are_refused_and_all_problems_counted(dataset, tmp_path):
    rows = [("red/000.png", "blue"), ("red/000.png", "green"), *[("no.png", "red")] * 4]
    with pytest.raises(DataError) as caught:
        plan_relabel(write_labels(tmp_path / "t.csv", rows), dataset)
    assert caught.value.found.startswith("red/000.png: in two rows; no.png: no such file")
    assert caught.value.found.endswith("; and 2 more")


def test_a_file_that_appears_meanwhile_is_not_overwritten(dataset, labels):
    plan = plan_relabel(labels.rename(dataset / labels.name), dataset)
    (dataset / "blue" / "000-2.png").write_bytes(b"of somebody else")
    with pytest.raises(RunError) as caught:
        apply_moves(plan)
    undo = dataset.parent / "labels-undo.json"  # nothing is written into a dataset
    assert undo.is_file()
    assert f"--undo '{undo}'" in caught.value.hint
    assert (dataset / "blue" / "000-2.png").read_bytes() == b"of somebody else"
    assert (dataset / "red" / "000.png").is_file()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_during_the_move_is_not_overwritten(
    dataset, labels, monkeypatch, has_links
):
    plan = plan_relabel(labels, dataset)
    taken = dataset / "blue" / "000-2.png"

    def without_links(*_):
        raise PermissionError(1, "Operation not permitted")

    taken.write_bytes(b"of somebody else")
    if has_links:  # it appears after every check
        monkeypatch.setattr(os.path, "lexists", lambda _: False)
    else:
        monkeypatch.setattr(os, "link", without_links)
    with pytest.raises(RunError):
        apply_moves(plan)
    assert taken.read_bytes() == b"of somebody else"
    assert (dataset / "red" / "000.png").is_file()
    monkeypatch.undo()
    if not has_links:
        monkeypatch.setattr(os, "link", without_links)
    taken.unlink()
    apply_moves(plan)
    assert taken.is_file()
    assert not (dataset / "red" / "000.png").exists()


def test_an_image_that_cannot_leave_its_folder_is_not_doubled(dataset, labels, monkeypatch):
    before, unlink = contents(dataset), Path.unlink

    def refuse(path, **options):
        if path.parent.name == "red":
            raise PermissionError(13, "Permission denied")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunError):
        apply_moves(plan_relabel(labels, dataset))
    assert contents(dataset) == before


def test_undo_of_what_was_interrupted(dataset, labels):
    before = contents(dataset)
    undo = apply_moves(plan_relabel(labels, dataset))
    record = json.loads(undo.read_text())
    first, second = record["moves"]
    (dataset / first["target"]).rename(dataset / first["path"])  # as if never moved
    plan = plan_undo(undo)
    assert [one.path for one in plan.moves] == [second["target"]]
    apply_moves(plan, is_undo=True)
    assert contents(dataset) == before
    (dataset / first["path"]).unlink()
    with pytest.raises(DataError) as caught:
        plan_undo(undo)
    assert first["target"] in caught.value.found
    write_json(undo, {**record, "moves": [{"path": "../a", "target": "../b"}]})
    with pytest.raises(DataError):
        plan_undo(undo)


def test_undo_in_a_dataset_that_has_been_moved(cli, dataset, labels, tmp_path):
    before = contents(dataset)
    undo = apply_moves(plan_relabel(labels, dataset))
    moved = dataset.rename(tmp_path / "moved")
    done = cli("relabel", "--undo", undo, "--yes")
    assert done.code == 1
    assert error_lines(done) == (f"a dataset at '{dataset}'", "no such folder", "--data DATA")
    assert cli("relabel", "--undo", undo, "--data", moved, "--yes").code == 0
    assert contents(moved) == before


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_undo_removes_nothing_where_a_link_leads_to_the_moved_image(tmp_path, linked):
    data = tmp_path / "d"
    image, moved = data / "cats" / "1.png", data / "cat" / "1.png"
    write_image(image, (9, 9, 9), seed=1)
    write_image(data / "cat" / "2.png", (9, 9, 9), seed=2)
    undo = apply_moves(
        plan_relabel(write_labels(tmp_path / "t.csv", [("cats/1.png", "cat")]), data)
    )
    assert moved.is_file()
    assert not image.exists()
    plan = plan_undo(undo)
    if linked == "folder":
        image.parent.rmdir()
        image.parent.symlink_to("cat")
    else:
        image.symlink_to(moved)
    with pytest.raises(DataError) as caught:
        plan_undo(undo)
    assert "cat/1.png" in caught.value.found
    with pytest.raises(RunError):  # a link that appears after the plan
        apply_moves(plan, is_undo=True)
    assert moved.is_file()
    os.link(moved, tmp_path / "elsewhere.png")  # now it has two links, but not at the two paths
    with pytest.raises(RunError):
        apply_moves(plan, is_undo=True)
    assert moved.is_file()
