"""Going on with a run whose dataset, or whole project, has moved: images are known by content."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import (
    COLOURS,
    SMALL_SETTINGS,
    error_lines,
    read_rows,
    same_weights,
    stop_after,
    untimed_history,
    weights_of,
    write_dataset,
    write_image,
)

import swinclf
from swinclf.data import relocate
from swinclf.data.folder import ImageFile
from swinclf.data.images import content_digest
from swinclf.data.relocate import find_by_content, path_from_run, recorded_folders
from swinclf.errors import ExitCode, Interrupted
from swinclf.files import write_json
from swinclf.run_folder import RunFolder


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """A project: a dataset, a run on it that was stopped, and one that was not."""
    home = tmp_path_factory.mktemp("project")
    data = write_dataset(home / "colours", per_class=6)
    settings = {**SMALL_SETTINGS, "out": str(home / "runs")}
    swinclf.train(data, name="whole", **settings)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            swinclf.train(data, name="stopped", **settings)
    return home


@pytest.fixture
def project(began, tmp_path):
    """A copy of it whose run takes itself for the first, at a path that is gone."""
    home = tmp_path / "gone" / "project"
    shutil.copytree(began, home)
    config = home / "runs" / "stopped" / "config.json"
    config.write_text(config.read_text("utf-8").replace(str(began), str(home)), "utf-8")
    return home


def assert_went_on(began, run, data):
    """A resumed run is, but for the paths, what it would have been, and knows where its data is."""
    whole = began / "runs" / "whole"
    assert same_weights(weights_of(whole), weights_of(run))
    assert untimed_history(whole) == untimed_history(run)
    labels = [(row["label"], row["split"]) for row in read_rows(whole / "split.csv")]
    rows = read_rows(run / "split.csv")
    assert [(row["label"], row["split"]) for row in rows] == labels
    assert all((data / row["path"]).is_file() for row in rows)
    scored = {row["path"] for row in read_rows(run / "predictions.csv")}
    assert scored == {row["path"] for row in rows if row["split"] == "val"}
    assert json.loads((run / "config.json").read_text("utf-8"))["data"] == str(data)


def test_a_moved_dataset_is_named(began, project, tmp_path, cli):
    run, data = project / "runs" / "stopped", tmp_path / "elsewhere" / "pictures"
    data.parent.mkdir()
    (project / "colours").rename(data)
    lost = cli("train", "--resume", run)
    assert lost.code == 1
    expected, found, hint = error_lines(lost)
    assert expected == f"the 18 images that '{run}' started with"
    assert found == f"the folder '{project / 'colours'}' is gone"
    assert hint.startswith(f"swinclf train DATA --resume '{run}'")
    words = hint.partition(",")[0].replace("DATA", shlex.quote(str(data)))
    done = cli(*shlex.split(words)[1:])
    assert done.code == 0, done.err
    assert (
        f"changed since this run began: data {began / 'colours'} -> {data} (same result)"
        in done.err
    )
    assert_went_on(began, run, data)
    assert cli("eval", "--run", run).code == 0


def test_a_moved_project_needs_no_name(began, project, tmp_path, cli):
    project.rename(tmp_path / "here")
    data, run = tmp_path / "here" / "colours", tmp_path / "here" / "runs" / "stopped"
    done = cli("train", "--resume", run)
    assert done.code == 0, done.err
    assert_went_on(began, run, data)
    (tmp_path / "here").rename(tmp_path / "there")
    assert cli("eval", "--run", tmp_path / "there" / "runs" / "stopped").code == 0


def test_a_project_of_windows_finds_its_data(tmp_path, monkeypatch):
    run, data = RunFolder(tmp_path / "runs" / "flowers-1"), tmp_path / "data" / "flowers"
    run.path.mkdir(parents=True)
    data.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "sep", "\\")
        patch.setattr(os.path, "relpath", lambda *_: "..\\..\\data\\flowers")
        written = path_from_run(data, run)
    assert written == "../../data/flowers"
    for way in (written, "..\\..\\data\\flowers"):  # the second by earlier versions
        write_json(run.config, {"data": "C:\\project\\data\\flowers", "data_from_run": way})
        assert [one for one in recorded_folders(run) if one.is_dir()] == [data]


def test_a_moved_project_whose_data_is_named(began, project, tmp_path, cli):
    project.rename(tmp_path / "here")
    done = cli("train", "here/colours", "--resume", "here/runs/stopped")
    assert done.code == 0, done.err
    assert_went_on(began, tmp_path / "here/runs/stopped", tmp_path / "here/colours")


def test_renamed_files_and_folders_are_known_by_their_content(began, project, cli, monkeypatch):
    run, data = project / "runs" / "stopped", project / "colours"
    (data / "red").rename(data / "rouge")
    (data / "blue" / "000.png").rename(data / "blue" / "zero")  # no extension
    one, other = data / "green" / "001.png", data / "green" / "002.png"  # these two change names
    one.rename(data / "x")
    other.rename(one)
    (data / "x").rename(other)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        again = cli("train", "--resume", run)
    assert again.code == ExitCode.INTERRUPTED
    done = cli("train", "--resume", run)
    assert done.code == 0, done.err
    assert "9 images have new paths, e.g. blue/000.png -> blue/zero (same result)" in done.err
    assert (
        "6 of these are in another class folder, e.g. rouge/000.png: still labelled 'red'"
        in done.err
    )
    assert_went_on(began, run, data)


def test_a_folder_that_lacks_images_sends_to_one_that_holds_them(project, tmp_path, cli):
    run = project / "runs" / "stopped"
    other = write_dataset(tmp_path / "other", per_class=5)
    done = cli("train", other, "--resume", run)
    assert done.code == 1
    _, found, hint = error_lines(done)
    assert found == f"3 missing in '{other}', by path and content, e.g. blue/005.png"
    assert hint == f"swinclf train --resume '{run}', which finds them in '{project / 'colours'}'"
    assert cli("train", "--resume", run).code == 0  # as it says


def test_images_that_are_nowhere(project, cli):
    run, data = project / "runs" / "stopped", project / "colours"
    (data / "red" / "003.png").unlink()
    for words in (("--resume", run), (data, "--resume", run)):
        done = cli("train", *words)
        assert done.code == 1
        _, found, hint = error_lines(done)
        assert found == f"1 missing in '{data}', by path and content, e.g. red/003.png"
        assert hint.startswith(f"swinclf train DATA --resume '{run}', with DATA as their folder")
    misspelt = cli("train", project / "colour", "--resume", run)
    assert misspelt.code == 1
    assert error_lines(misspelt)[2] == f"did you mean '{data}'?"


def test_of_many_images_some_are_searched_and_the_others_missed_when_read(
    project, cli, monkeypatch
):
    seen, is_there = [], relocate.is_image_file
    monkeypatch.setattr(relocate, "SAMPLED", 1)
    monkeypatch.setattr(relocate, "is_image_file", lambda path: seen.append(path) or is_there(path))
    run, data = project / "runs" / "stopped", project / "colours"
    (data / "red" / "003.png").unlink()
    done = cli("train", "--resume", run)
    assert done.code == 1
    assert len(seen) == 1
    assert "red/003.png" in error_lines(done)[1]


def test_a_dataset_of_the_same_names_and_other_content(project, tmp_path, cli):
    run, other = project / "runs" / "stopped", tmp_path / "other"
    for row, (name, colour) in enumerate(COLOURS.items()):
        for number in range(6):
            write_image(other / name / f"{number:03d}.png", colour, seed=90 + 10 * row + number)
    done = cli("train", other, "--resume", run)
    assert done.code == 1
    _, found, hint = error_lines(done)
    assert found == "18 with changed content, e.g. blue/000.png"
    assert f"swinclf train DATA --resume '{run}'" in hint
    assert cli("train", "--resume", run).code == 0  # nothing was changed by the attempt


def test_copies_take_one_file_each_and_the_likest(tmp_path):
    for path in ("a/1.jpg", "a/3.jpg", "b/9.jpg", "c/2.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"same")
    digest = content_digest(b"same")
    images = [ImageFile(path, path[0]) for path in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/5.jpg")]
    found, missing = find_by_content(tmp_path, [], images, [digest] * 4)
    assert [image.path for image in found] == ["a/1.jpg", "a/3.jpg", "b/9.jpg", "c/2.jpg"]
    assert missing == []
    found, missing = find_by_content(Path(tmp_path), [], images[:1], [content_digest(b"other")])
    assert (found, missing) == ([], images[:1])
