"""The training images beside a mistake: in the report of a training, and of an evaluation later."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import SMALL_SETTINGS, error_lines, read_rows, write_dataset, write_image

import swinclf
from swinclf.data.folder import ImageFile
from swinclf.data.thumbnails import thumbnail
from swinclf.errors import WeightsError
from swinclf.inference import fit_confidence
from swinclf.inference.fit_confidence import LabelledOutputs
from swinclf.inference.neighbours import load_reference_features, save_reference_features
from swinclf.inference.predictor import open_predictor
from swinclf.inference.stream import stream_outputs
from swinclf.models.tensorfile import read_tensors, write_tensors
from swinclf.run_folder import RunFolder

# So near each other that a short training confuses them.
GREYS = {"a grey": (120, 120, 120), "b grey": (128, 124, 120), "c grey": (120, 128, 132)}


class Near(NamedTuple):
    """A training image as a report shows it."""

    path: str
    label: str
    jpeg: bytes | None


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """A run that makes mistakes, and its dataset; to be read only."""
    root = tmp_path_factory.mktemp("greys")
    data = write_dataset(root / "greys", per_class=16, colours=GREYS)
    settings = {**SMALL_SETTINGS, "val_split": 0.4, "epochs": 1, "out": str(root / "runs")}
    return swinclf.train(data, **settings).folder.path, data


@pytest.fixture
def moved(greys, tmp_path):
    """A copy of the run and of its dataset, to be changed; the run knows where that is."""
    run = shutil.copytree(greys[0], tmp_path / "run")
    data = shutil.copytree(greys[1], tmp_path / "greys")
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace(str(greys[1]), str(data)))
    return run, data


def mistakes_in(folder: Path) -> dict[str, list[Near]]:
    """What a report shows beside each mistake, by the mistake's path."""
    text = (folder / "report.html").read_text("utf-8")
    section = text[text.index('<section id="mistakes">') : text.index('<section id="confusion">')]
    found = {}
    for block in section.split('<div class="mistake">')[1:]:
        path = re.search(r'<span class="muted"><bdi dir="ltr">(.*?)</bdi>', block)[1]
        found[html.unescape(path)] = [
            Near(
                html.unescape(alt or bare),
                html.unescape(label),
                base64.b64decode(uri.partition("base64,")[2]) if uri else None,
            )
            for uri, alt, label, bare in re.findall(
                r'<figure class="shot">\n(?:<img src="([^"]*)" alt="([^"]*)" .*>\n)?'
                r'<figcaption><strong(?: title="[^"]*")?><bdi>(.*?)</bdi></strong>'
                r'(?:<bdi dir="ltr">(.*?)</bdi>)?',
                block,
            )
        ]
    return found


def labels_of(run: Path, split: str) -> dict[str, str]:
    rows = read_rows(run / "split.csv")
    return {row["path"]: row["label"] for row in rows if row["split"] == split}


def assert_training_images(mistakes, run, data, *, pictures=True):
    """Three different ones beside each mistake, by path and label, with their own pictures."""
    trained_on = labels_of(run, "train")
    assert mistakes
    for near in mistakes.values():
        assert len({one.path for one in near}) == 3
        for one in near:
            assert trained_on[one.path] == one.label
            assert one.jpeg == (thumbnail(data / one.path) if pictures else None)


def test_the_report_of_eval_shows_the_training_images_most_alike(greys, cli, tmp_path):
    run, data = greys
    done = cli("eval", "--run", run, "--output", tmp_path / "scores")
    assert done.code == 0, done.err
    assert "warning" not in done.err
    mistakes = mistakes_in(tmp_path / "scores")
    assert_training_images(mistakes, run, data)
    assert mistakes == mistakes_in(run), "as the training's own report"


def test_they_are_those_whose_features_point_the_same_way(greys, cli, tmp_path):
    run, data = greys
    assert cli("eval", "--run", run, "--output", tmp_path / "scores").code == 0
    trained_on = list(labels_of(run, "train"))
    predictor = open_predictor(run / "model.safetensors")

    def directions(paths):
        answers = stream_outputs(predictor, [data / path for path in paths], workers=0)
        rows = np.stack([answer.features for _, answer in answers]).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    known = directions(trained_on)
    for path, near in mistakes_in(tmp_path / "scores").items():
        cosines = (directions([path]) @ known.T)[0]
        shown = [cosines[trained_on.index(one.path)] for one in near]
        assert shown == pytest.approx(sorted(cosines)[:-4:-1], abs=1e-3)  # kept in half precision
        assert np.ptp(cosines) > 1e-2, "so that the test can fail"


@pytest.mark.parametrize("words", [("--impl", "timm"), ("--precision", "bf16")])
def test_another_implementation_and_another_precision(greys, cli, tmp_path, words):
    run, data = greys
    assert cli("eval", "--run", run, *words, "--output", tmp_path / "scores").code == 0
    assert_training_images(mistakes_in(tmp_path / "scores"), run, data)


def test_a_training_image_is_not_its_own_neighbour(greys, cli, tmp_path):
    run, data = greys
    words = ("eval", "--run", run, "--split", "train", "--output", tmp_path / "scores")
    assert cli(*words).code == 0
    mistakes = mistakes_in(tmp_path / "scores")
    assert_training_images(mistakes, run, data)
    for path, near in mistakes.items():
        assert path not in {one.path for one in near}


def test_a_frozen_network_has_them_too(dataset, cli, tmp_path):
    for number in range(6):  # labels that nothing in the picture tells
        write_image(dataset / "red" / f"x{number}.png", (40, 60, 200), seed=700 + number)
    settings = {**SMALL_SETTINGS, "freeze_layers": True, "val_split": 0.5}
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **settings).folder.path
    assert_training_images(mistakes_in(run), run, dataset)
    assert cli("eval", "--run", run, "--output", tmp_path / "scores").code == 0
    assert_training_images(mistakes_in(tmp_path / "scores"), run, dataset)


# --- other folders ------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path):
    """Another dataset of the same classes, with files of the same names in it."""
    data = tmp_path / "foreign"
    for row, label in enumerate(GREYS):
        for number in range(4):
            write_image(data / label / f"{number:03d}.png", (250, 10, 10), seed=9 * row + number)
    return data


def test_on_another_folder_the_pictures_are_those_of_the_training_images(
    moved, foreign, cli, tmp_path
):
    run, data = moved
    done = cli("eval", foreign, "--run", run, "--output", tmp_path / "scores")
    assert "all of its images are scored" in done.err
    assert_training_images(mistakes_in(tmp_path / "scores"), run, data)
    assert str(data) not in (tmp_path / "scores" / "report.html").read_text("utf-8")


def test_where_the_dataset_has_gone_they_are_told_by_name(moved, foreign, cli, tmp_path):
    run, data = moved
    data.rename(tmp_path / "elsewhere")
    done = cli("eval", foreign, "--run", run, "--output", tmp_path / "scores")
    assert done.code == 0, done.err
    assert_training_images(mistakes_in(tmp_path / "scores"), run, data, pictures=False)


def test_a_dataset_that_has_moved_is_where_its_pictures_are(moved, cli, tmp_path):
    run, data = moved
    now = data.rename(tmp_path / "elsewhere")
    assert cli("eval", now, "--run", run, "--output", tmp_path / "scores").code == 0
    assert_training_images(mistakes_in(tmp_path / "scores"), run, now)


# --- the file -----------------------------------------------------------------------------------


def test_without_the_file_a_report_goes_without_and_nothing_is_said(moved, cli, tmp_path):
    run, _ = moved
    with_it = cli("eval", "--run", run, "--output", tmp_path / "with")
    (run / "neighbours.safetensors").unlink()
    without = cli("eval", "--run", run, "--output", tmp_path / "without")
    assert without.code == 0
    assert without.err == with_it.err.replace(str(tmp_path / "with"), str(tmp_path / "without"))
    assert without.out == with_it.out
    mistakes = mistakes_in(tmp_path / "without")
    assert mistakes.keys() == mistakes_in(tmp_path / "with").keys()
    assert not any(mistakes.values())
    assert "Nearest training images" not in (tmp_path / "without" / "report.html").read_text()


def test_the_model_alone_has_no_neighbours(greys, cli, tmp_path):
    run, data = greys
    (tmp_path / "lone").mkdir()
    model = shutil.copy(run / "model.safetensors", tmp_path / "lone")
    done = cli("eval", data, "--run", model, "--output", tmp_path / "scores")
    assert done.code == 0
    assert "warning" not in done.err
    assert not any(mistakes_in(tmp_path / "scores").values())


def test_both_files_alone_find_the_dataset_that_they_are_of(greys, cli, tmp_path):
    run, data = greys
    (tmp_path / "lone").mkdir()
    for name in ("model.safetensors", "neighbours.safetensors"):
        shutil.copy(run / name, tmp_path / "lone")
    model = tmp_path / "lone" / "model.safetensors"
    assert cli("eval", data, "--run", model, "--output", tmp_path / "scores").code == 0
    assert_training_images(mistakes_in(tmp_path / "scores"), run, data)


@pytest.mark.parametrize("damage", ["bit", "end", "empty", "another model's"])
def test_a_damaged_file_is_said_and_all_else_done(moved, trained, cli, tmp_path, damage):
    run, _ = moved
    path = run / "neighbours.safetensors"
    whole = path.read_bytes()
    damaged = {
        "bit": whole[:-9] + bytes([whole[-9] ^ 8]) + whole[-8:],
        "end": whole[:-9],
        "empty": b"",
        "another model's": (trained.path / path.name).read_bytes(),
    }
    path.write_bytes(damaged[damage])
    done = cli("eval", "--run", run, "--output", tmp_path / "scores")
    assert done.code == 0
    assert done.err.count("the report has no nearest training images") == 1
    assert str(path) in done.err
    mistakes = mistakes_in(tmp_path / "scores")
    assert mistakes
    assert not any(mistakes.values())
    assert cli("predict", run / "samples", "--run", run).code == 0


@pytest.mark.parametrize("outside", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_picture_outside_the_dataset_is_not_shown(moved, cli, tmp_path, outside):
    run, _ = moved
    tensors, facts = read_tensors(run / "neighbours.safetensors", signed=True)
    images = [[outside, label] for _, label in json.loads(facts["images"])]
    write_tensors(run / "neighbours.safetensors", tensors, {**facts, "images": json.dumps(images)})
    done = cli("eval", "--run", run, "--output", tmp_path / "scores")
    assert done.code == 0
    assert "ValueError: a file outside the dataset" in done.err
    assert "secret" not in (tmp_path / "scores" / "report.html").read_text("utf-8")


def test_a_run_is_no_more_than_its_model_to_predict(moved, cli):
    run, _ = moved
    done = cli("predict", run / "samples", "--run", run / "neighbours.safetensors")
    assert done.code == 1
    assert "neighbours.safetensors" in error_lines(done)[0]


def test_the_file_holds_a_sample_in_half_precision(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_confidence, "MAX_TRAINING", 5)
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **SMALL_SETTINGS).folder
    sample = load_reference_features(run.neighbours, run.model)
    assert sample.features.shape == (5, 64)
    assert len(sample.images) == 5
    assert run.neighbours.stat().st_size < 5 * 64 * 2 + 2000


def test_any_name_comes_back_and_damage_does_not(trained, tmp_path):
    run = RunFolder(tmp_path)
    shutil.copy(trained.path / "model.safetensors", run.model)
    names = [("a\udcff/1\n.png", 'b"\\'), ("ملف/é.png", " ")]
    features = np.array([[3e5, 4e5], [0, -1e-9]], np.float32)
    images = [ImageFile(*name) for name in names]
    save_reference_features(run, LabelledOutputs(np.zeros((2, 2)), features, np.zeros(2), images))
    sample = load_reference_features(run.neighbours, run.model)
    assert sample.images == names
    assert sample.features == pytest.approx(np.array([[0.6, 0.8], [0, -1]]), abs=1e-3)
    whole = run.neighbours.read_bytes()
    for place in range(0, len(whole), 7):
        for bit in (1, 64):
            damaged = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
            run.neighbours.write_bytes(damaged)
            with pytest.raises(WeightsError):
                load_reference_features(run.neighbours, run.model)
