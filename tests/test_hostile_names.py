"""Class and file names of any bytes: unharmed in every file, harmless on every screen."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest
from conftest import SMALL_MODEL, read_rows, write_image

from swinclf.errors import ExitCode

CLASSES = [
    "=1+1",
    "+cmd|' C calc'!A0",
    "-2",
    "@SUM(A1)",
    "\ttab",
    "\rreturn",
    "line\nfeed",
    "\x1b[31mred\x07",
    "\x9b2J",
    "\u202eright to left",
    "<script>alert(1)<script>",
    "\"quoted\", 'twice'",
    "[bold]rich[red]",
    "{{ 7 * 7 }} %s {0}",
    os.fsdecode(b"not UTF-8 \xff\xfe"),
    "n" * 255,
    "\U0001f339",
    " ",
]


@pytest.fixture
def hostile(tmp_path):
    root = tmp_path / "data"
    for row, name in enumerate(CLASSES):
        for number in range(3):
            file = f"{number}.png" if len(os.fsencode(name)) > 200 else f"{name}{number}.png"
            write_image(root / name / file, (10 * row, 90, 200 - 10 * row), seed=9 * row + number)
    return root


def harmless(text):
    """Nothing but printable characters and line feeds."""
    assert [one for one in text if not one.isprintable() and one != "\n"] == []


@pytest.mark.usefixtures("plots")
def test_hostile_names_from_training_to_prediction(cli, hostile, tmp_path):
    paths = {os.path.relpath(path, hostile) for path in hostile.rglob("*.png")}
    assert len(paths) == 3 * len(CLASSES)
    words = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--epochs", 1)
    done = cli("train", hostile, *words, "--device", "cpu", "--name", "run")
    assert done.code == ExitCode.OK, done.err
    harmless(done.err)
    run = tmp_path / "runs" / "run"
    indices = json.loads((run / "class_indices.json").read_text("utf-8"))
    assert sorted(indices.values()) == sorted(CLASSES)
    assert {row["path"] for row in read_rows(run / "split.csv")} == paths
    assert {row["label"] for row in read_rows(run / "split.csv")} == set(CLASSES)
    assert {row["label"] for row in read_rows(run / "predictions.csv")} == set(CLASSES)
    matrix = read_rows(run / "confusion_matrix.csv")
    cells = [row["true/predicted"] for row in matrix]
    assert {cell.removeprefix("'") for cell in cells} == set(CLASSES)
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in (*cells, *matrix[0]))
    page = (run / "report.html").read_text("utf-8")
    assert "<script>alert(1)" not in page
    assert "Content-Security-Policy" in page

    scored = cli("eval", "--run", run, "--split", "all", "--output", "scores")
    assert scored.code == ExitCode.OK, scored.err
    harmless(scored.out + scored.err)
    assert {row["path"] for row in read_rows(tmp_path / "scores" / "predictions.csv")} == paths

    answers = {}
    for kind in ("jsonl", "json", "csv", "table"):
        done = cli("predict", hostile, "--run", run, "--format", kind)
        assert done.code == ExitCode.OK
        harmless(done.err)
        if kind == "table":
            harmless(done.out)
            assert len(done.out.splitlines()) == len(paths)
            continue
        if kind == "csv":
            rows = list(csv.DictReader(io.StringIO(done.out, newline="")))
        else:
            rows = (
                json.loads(done.out)
                if kind == "json"
                else map(json.loads, done.out.split("\n")[:-1])
            )
        answers[kind] = [(os.path.relpath(row["path"], hostile), row["label"]) for row in rows]
        assert {path for path, _ in answers[kind]} == paths
    assert answers["json"] == answers["jsonl"] == answers["csv"]
