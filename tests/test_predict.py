"""predict: every input gets its own answer or its own error, in order, in every format."""

from __future__ import annotations

import csv
import gc
import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, SMALL_MODEL, error_lines, write_image
from PIL import Image

import swinclf
from swinclf.commands.predict import expand_inputs
from swinclf.commands.predict import predict as predict_with
from swinclf.inference.predictor import open_predictor
from swinclf.inference.stream import NOT_FINITE, ImageOutput
from swinclf.models.compute import Computer


@pytest.fixture
def pictures(tmp_path):
    """Pictures in a folder and in folders below it, each named like what it shows."""
    folder = tmp_path / "pictures"
    for number, (name, colour) in enumerate(COLOURS.items()):
        write_image(folder / f"{name}.png", colour, seed=7000 + number)
        write_image(folder / "below" / "deeper" / f"{name}.png", colour, seed=7100 + number)
    return folder


@pytest.fixture
def jsonl(cli, trained):
    """`jsonl(input, ...)`: the records that predict prints."""

    def run(*words, code=0, stdin=b""):
        done = cli("predict", *words, "--run", trained.path, "--format", "jsonl", stdin=stdin)
        assert done.code == code, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    return run


def test_a_file_gets_its_label(jsonl, pictures):
    (record,) = jsonl(pictures / "red.png")
    assert record.keys() == {"path", "label", "probability", "top"}
    assert record["path"] == str(pictures / "red.png")
    assert record["label"] == "red"
    assert record["top"][0] == {"label": "red", "probability": record["probability"]}
    shares = [one["probability"] for one in record["top"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert {one["label"] for one in record["top"]} == set(COLOURS)


def test_a_folder_is_looked_through_to_the_bottom(jsonl, pictures):
    (pictures / "notes.txt").write_text("no picture, and not named like one")
    (pictures / ".hidden.png").write_bytes(b"x")
    records = jsonl(pictures)
    names = ["blue.png", "green.png", "red.png"]
    below = [f"below/deeper/{name}" for name in names]
    assert [record["path"] for record in records] == [
        str(pictures / name) for name in [*names, *below]
    ]
    assert [record["label"] for record in records] == ["blue", "green", "red"] * 2


def test_patterns_are_expanded_where_the_shell_did_not(jsonl, pictures):
    found = [record["path"] for record in jsonl(pictures / "*e*.png")]
    assert found == [str(pictures / f"{name}.png") for name in ("blue", "green", "red")]
    deep = [record["path"] for record in jsonl(pictures / "**" / "red.png")]
    assert sorted(deep) == sorted(
        [str(pictures / "red.png"), str(pictures / "below" / "deeper" / "red.png")]
    )


@pytest.mark.parametrize("pattern", ["**", "**/*", "*"])
def test_a_pattern_that_matches_folders_gives_each_image_once(jsonl, pictures, pattern):
    everything = {record["path"] for record in jsonl(pictures)}
    found = [record["path"] for record in jsonl(pictures / pattern)]
    assert len(found) == len(everything)
    assert set(found) == everything


def test_a_file_named_like_a_pattern_is_that_file(jsonl, pictures):
    (pictures / "red.png").rename(pictures / "r[ae]d*.png")
    (record,) = jsonl(pictures / "r[ae]d*.png")
    assert record["label"] == "red"


def test_everything_mixed_keeps_its_order(jsonl, pictures):
    lines = f"{pictures / 'red.png'}\n\n{pictures / 'blue.png'}\r\n".encode()
    words = [pictures / "green.png", "-", pictures / "below", pictures / "re*.png"]
    labels = [record["label"] for record in jsonl(*words, stdin=lines)]
    assert labels == ["green", "red", "blue", "blue", "green", "red", "red"]


def test_paths_on_standard_input_may_be_any_bytes(jsonl, pictures):
    odd = os.fsencode(pictures) + b"/caf\xe9 \xf0\x9f\x8c\xb9.png"
    os.rename(os.fsencode(pictures / "red.png"), odd)  # noqa: PTH104 - no text
    (record,) = jsonl("-", stdin=odd)
    assert record["label"] == "red"
    assert os.fsencode(record["path"]) == odd


def test_an_input_that_cannot_be_read_is_a_row_and_disturbs_no_other(jsonl, pictures, tmp_path):
    (pictures / "broken.png").write_bytes((pictures / "red.png").read_bytes()[:200])
    (pictures / "empty.png").write_bytes(b"")
    (tmp_path / "nothing here").mkdir()
    words = [
        *(pictures / "red.png", pictures / "broken.png", pictures / "absent.png"),
        *(pictures / "green.png", pictures / "empty.png", tmp_path / "nothing here"),
        *(pictures / "nothing*.gif", pictures / "blue.png"),
    ]
    records = jsonl(*words, code=3)
    assert [record["path"] for record in records] == list(map(str, words))
    assert [record.get("label") for record in records] == [
        *("red", None, None, "green", None, None, None, "blue")
    ]
    for record in records:
        if "label" not in record:
            assert record.keys() == {"path", "error"}
            assert record["error"]
    alone = [jsonl(path)[0] for path in words if path.stem in COLOURS]
    together = [record for record in records if "label" in record]
    for one, other in zip(alone, together, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_one_by_one_and_all_together_are_the_same_in_float32(trained):
    classifier = swinclf.load(trained.path, precision="fp32")
    files = sorted(trained.data.rglob("*.png"))
    together = classifier.predict(files)
    for file, answer in zip(files, together, strict=True):
        (alone,) = classifier.predict(file)
        assert alone.label == answer.label
        assert dict(alone.top) == pytest.approx(dict(answer.top), abs=1e-6)


def test_predictions_are_those_of_the_training(trained):
    with (trained.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = swinclf.load(trained.path).predict([trained.data / row["path"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert answer.label == row["predicted"]
        # A GPU rounds otherwise in batches of another size.
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-5)


# --- formats ------------------------------------------------------------------------------------


def _as(form, cli, trained, *words):
    done = cli("predict", *words, "--run", trained.path, "--format", form)
    return done.out


def test_json_is_the_list_of_the_lines(cli, trained, pictures):
    words = (pictures / "red.png", "absent.png", pictures / "blue.png")
    lines = [json.loads(line) for line in _as("jsonl", cli, trained, *words).splitlines()]
    assert json.loads(_as("json", cli, trained, *words)) == lines
    assert len(lines) == 3


def test_csv_has_its_columns(cli, trained, pictures):
    words = (pictures / "red.png", "absent.png")
    rows = list(csv.reader(io.StringIO(_as("csv", cli, trained, *words))))
    assert rows[0] == ["path", "label", "probability", "error"]
    assert rows[1][:2] == [str(pictures / "red.png"), "red"]
    assert 1 / 3 < float(rows[1][2]) <= 1
    assert rows[1][3] == ""
    assert rows[2][:3] == ["absent.png", "", ""]
    assert rows[2][3]


def test_the_table_has_a_line_an_input(cli, trained, pictures):
    words = (pictures / "red.png", "absent.png")
    table = _as("table", cli, trained, *words)
    assert cli("predict", *words, "--run", trained.path).out == table
    lines = table.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[1:4] == ["%", "red", str(pictures / "red.png")]
    assert "error" in lines[1]
    assert "absent.png" in lines[1]


HOSTILE = ["new\nline.png", "esc\x1b[31m.png", "=1+1.png", 'quote".png', "🌹 زهرة\u202e.png"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_through_data_and_are_defused_in_the_table(cli, trained, pictures, name):
    (pictures / "red.png").rename(pictures / name)
    path = str(pictures / name)
    assert json.loads(_as("jsonl", cli, trained, path))["path"] == path
    assert json.loads(_as("json", cli, trained, path))[0]["path"] == path
    rows = list(csv.reader(io.StringIO(_as("csv", cli, trained, path), newline="")))
    assert rows[1][0] == path
    table = _as("table", cli, trained, path)
    assert table.count("\n") == 1
    assert "\x1b" not in table
    assert "\u202e" not in table


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (3, 3), (50, 3)])
def test_top_k_gives_at_most_all_classes(jsonl, pictures, asked, given):
    (record,) = jsonl(pictures / "red.png", "--top-k", asked)
    assert len(record["top"]) == given
    assert record["top"][0]["label"] == record["label"]


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_output_is_what_would_have_been_printed(cli, trained, pictures, tmp_path, form):
    words = ("predict", pictures, "--run", trained.path, "--format", form)
    printed = cli(*words)
    written = cli(*words, "--output", tmp_path / "answers")
    assert (written.code, written.out) == (0, "")
    assert (tmp_path / "answers").read_text("utf-8") == printed.out


@pytest.mark.parametrize(
    ("name", "words", "start"),
    [
        ("a.json", (), "[\n  {"),
        ("a.JSONL", (), '{"path"'),
        ("a.ndjson", (), '{"path"'),
        ("a.csv", (), "path,label,probability,error\n"),
        ("a.txt", (), " "),
        ("a", (), " "),
        ("a.json", ("--format", "csv"), "path,label,probability,error\n"),
        ("a.txt", ("--format", "csv"), "path,label,probability,error\n"),
    ],
)
def test_the_ending_of_the_file_is_its_format(cli, trained, pictures, tmp_path, name, words, start):
    output = tmp_path / name
    done = cli("predict", pictures, "--run", trained.path, "--output", output, *words)
    assert done.code == 0
    assert output.read_text("utf-8").startswith(start)
    is_other = name == "a.json" and bool(words)
    assert (f"note: '{output}' is written as csv, as --format says" in done.err) == is_other


# --- where the model is -------------------------------------------------------------------------


def test_the_newest_finished_run_is_the_default(cli, dataset, tmp_path):
    words = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", "32", "--epochs", "1")
    assert cli("train", dataset, *words, "--name", "one").code == 0
    done = cli("predict", dataset / "red" / "000.png", "--format", "json")
    assert done.code == 0, done.err
    (tmp_path / "runs" / "latest").unlink()
    assert cli("predict", dataset / "red" / "000.png", "--format", "json") == done


@pytest.mark.parametrize("what", ["folder", "weights", "link"])
def test_a_run_may_be_named_in_several_ways(cli, trained, pictures, tmp_path, what):
    (tmp_path / "linked").symlink_to(trained.path)
    named = {
        "folder": trained.path,
        "weights": trained.path / "model.safetensors",
        "link": tmp_path / "linked",
    }[what]
    done = cli("predict", pictures / "red.png", "--run", named, "--format", "json")
    assert json.loads(done.out)[0]["label"] == "red"


def test_the_name_of_a_run_is_completed(cli, trained, pictures, tmp_path):
    shutil.copytree(trained.path, tmp_path / "runs" / "mine")
    done = cli("predict", pictures, "--run", "mine")
    assert done.code == 1
    assert error_lines(done)[2] == f"did you mean '{Path('runs') / 'mine'}'?"


def test_a_broken_link_or_a_lone_dash_name_is_an_error_row(jsonl, tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (record,) = jsonl(tmp_path / "gone.png", code=3)
    assert record["error"]


def test_an_output_that_is_no_number_is_an_error_row(jsonl, pictures, monkeypatch):
    outputs = Computer.outputs

    def overflow(computer, inputs):
        logits, features = (one.clone() for one in outputs(computer, inputs))
        logits[0, 1], logits[1, 0] = math.inf, math.nan
        return logits, features

    monkeypatch.setattr(Computer, "outputs", overflow)
    names = [pictures / f"{name}.png" for name in ("blue", "green", "red")]
    records = jsonl(*names, code=3)
    assert [record.get("error") for record in records] == [NOT_FINITE, NOT_FINITE, None]
    assert records[2]["label"] == "red"


# --- streams ------------------------------------------------------------------------------------


def test_answers_come_before_the_input_ends(exported_network, pictures, tmp_path):
    """A reader of the pipe sees answers while the writer of the other pipe is still writing."""
    (tmp_path / "model.onnx").write_bytes(exported_network)  # opened without torch, so faster
    words = ["-m", "swinclf", "predict", "-", "--run", str(tmp_path / "model.onnx")]
    words += ["--format", "jsonl", "--top-k", "1"]  # short lines: a buffer would hold them all back
    line = f"{pictures / 'red.png'}\n".encode()
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=buffered
    ) as process:
        too_long = threading.Timer(60, process.kill)  # without an answer it would wait for good
        too_long.start()
        process.stdin.write(line)
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.stdin.write(line * 100)
        process.stdin.close()
        rest = process.stdout.read()
        too_long.cancel()
    assert first["label"] == "red"
    assert rest.count(b"\n") == 100
    assert process.returncode == 0


def test_inputs_are_taken_as_they_are_needed(trained, pictures):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield pictures / "red.png"

    predictor = open_predictor(trained.path / "model.safetensors")
    answers = predict_with(predictor, endless())
    for count, answer in zip(range(1, 200), answers, strict=False):
        assert answer.label == "red"
        assert len(taken) - count <= (predictor.parallel.count + 4) * predictor.parallel.size
    answers.close()


def test_hundreds_of_files_are_answered_in_order_and_in_bounded_memory(trained, tmp_path):
    folder = tmp_path / "many"
    sources = sorted(trained.data.glob("*/000.png"))
    for number in range(800):
        (folder / f"{number % 10}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 10}" / f"{number:05d}.png").hardlink_to(sources[number % 3])
    predictor = open_predictor(trained.path / "model.safetensors")
    gc.collect()
    before = sum(type(one) is ImageOutput for one in gc.get_objects())  # of other tests
    labels, alive = {}, 0
    for answer in predict_with(predictor, expand_inputs([str(folder)]), top_k=1):
        labels[answer.path] = answer.label
        if len(labels) % 200 == 0:
            alive = max(alive, sum(type(one) is ImageOutput for one in gc.get_objects()))
    assert len(labels) == 800
    assert list(labels) == sorted(labels)
    names = [source.parent.name for source in sources]
    assert all(label == names[int(Path(path).stem) % 3] for path, label in labels.items())
    assert 0 < alive - before <= 8 * predictor.parallel.size, "what was answered is not kept"


def test_workers_change_no_answer(cli, trained, pictures):
    words = ("predict", pictures, "--run", trained.path, "--format", "json")
    printed = {cli(*words, "--workers", count).out for count in (0, 1, 2)}
    assert len(printed) == 1


# --- the library --------------------------------------------------------------------------------


def test_paths_pictures_and_arrays_get_the_same_answer(trained, pictures):
    classifier = swinclf.load(trained.path)
    path = pictures / "green.png"
    with Image.open(path) as picture:
        picture.load()
    answers = classifier.predict([path, str(path), picture, np.asarray(picture)])
    assert [answer.path for answer in answers] == [str(path), str(path), "", ""]
    assert {answer.label for answer in answers} == {"green"}
    for answer in answers:  # the place in a batch may change the last bit
        assert dict(answer.top) == pytest.approx(dict(answers[0].top), abs=1e-6)


def test_pictures_of_other_modes_are_read_like_files(trained):
    classifier = swinclf.load(trained.path)
    red = Image.new("RGB", (40, 40), COLOURS["red"])
    modes = [red, red.convert("P"), red.convert("CMYK"), red.convert("RGBA")]
    assert {answer.label for answer in classifier.predict(modes)} == {"red"}
    (grey,) = classifier.predict(red.convert("L"))
    assert not grey.error


def test_load_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(swinclf.SwinclfError) as error:
        swinclf.load()
    assert "swinclf train" in error.value.hint
