"""runs: every run of a folder in a table, and the removal of one."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import error_lines

from swinclf.cli.columns import align_columns, elide
from swinclf.cli.run_tables import runs_text
from swinclf.commands.runs import RunState, RunSummary, list_runs
from swinclf.lock import FolderLock
from swinclf.reporter import format_percent


def copy_run(trained, folder, *, age_s=0.0):
    """A copy of a run that finished some time ago."""
    shutil.copytree(trained.path, folder, ignore=shutil.ignore_patterns("eval-*", "*.onnx"))
    then = time.time() - age_s
    os.utime(folder / "metrics.json", (then, then))
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Two finished runs, one of them a folder deeper, an interrupted and three damaged ones."""
    out = tmp_path / "runs"
    copy_run(trained, out / "pets-10", age_s=50)
    copy_run(trained, out / "older" / "pets-2", age_s=90)
    interrupted = copy_run(trained, out / "stopped")
    (interrupted / "metrics.json").unlink()
    (interrupted / "last.ckpt").touch()
    (copy_run(trained, out / "torn") / "metrics.json").write_text('{"accuracy": 0.5}')
    (copy_run(trained, out / "cut") / "config.json").write_text("{")
    (out / "notes").mkdir()
    (out / "latest").symlink_to("pets-10")
    return out


def test_every_run_is_listed_with_its_state(cli, runs, trained):
    done = cli("runs", "--format", "json")
    assert done.code == 0
    listed = {one["name"]: one for one in json.loads(done.out)}
    states = {name: one["state"] for name, one in listed.items()}
    assert states == {
        "pets-10": "finished",
        "older/pets-2": "finished",
        "stopped": "interrupted",
        "torn": "damaged",
        "cut": "damaged",
        "notes": "damaged",
    }
    metrics = json.loads((trained.path / "metrics.json").read_text())
    one = listed["pets-10"]
    keys = ("accuracy", "accuracy_ci95", "majority_accuracy", "probe_accuracy", "split", "images")
    assert {key: one[key] for key in keys} == {key: metrics.get(key) for key in keys}
    files = [path for path in (runs / "pets-10").rglob("*") if path.is_file()]
    assert one["size_bytes"] == sum(path.stat().st_size for path in files)
    assert one["data"] == str(trained.data)
    assert one["seconds"] > 0
    assert listed["torn"]["reason"] == "no 'accuracy_ci95' in its files"
    assert listed["notes"]["reason"] == "no config.json"
    assert "stopped is interrupted: swinclf train --resume runs/stopped" in done.err
    assert "notes is damaged: no config.json" in done.err


@pytest.mark.parametrize(
    ("name", "value"), [("probe_accuracy", "high"), ("accuracy_ci95", 3), ("images", [])]
)
def test_one_damaged_run_does_not_hide_the_others(cli, runs, name, value):
    file = runs / "pets-10" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    done = cli("runs")
    assert done.code == 0, done.err
    assert "older/pets-2" in done.out
    assert "pets-10 is damaged" in done.err


def test_the_table_fits_a_terminal_of_80_columns(cli, runs, trained, monkeypatch):
    name = "a_long_name_of_a_run_" * 3 + "final"
    copy_run(trained, runs / name)
    wide = cli("runs").out
    assert name in wide
    majority = format_percent(
        json.loads((trained.path / "metrics.json").read_text())["majority_accuracy"]
    )
    assert wide.splitlines()[0].endswith("largest class  probe")
    assert majority in wide
    monkeypatch.setattr("swinclf.cli.run_commands.output_width", lambda: 80)
    lines = cli("runs").out.splitlines()
    assert lines[0].endswith("size")
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) == len(wide.splitlines()) == 8
    assert any(line.startswith("a_lo") and "…" in line for line in lines)
    assert len({line.index("MB") for line in lines if "MB" in line}) == 1


def test_a_table_of_long_values_fits_80_columns_and_has_all_from_100_on():
    one = RunSummary(
        *("photos-1", Path("runs/photos-1"), RunState.FINISHED, "", "photos", "embedded"),
        *(0.867, (0.758, 0.931), 0.2, 0.84, "cross-validation", 1120, 1e9, 4800.0, 118_000_000),
    )
    narrow = runs_text([one], 80).splitlines()
    assert max(map(len, narrow)) <= 80
    assert "1,120 CV  2001-09-09" in narrow[1]
    wide = runs_text([one], 120).splitlines()
    assert "1,120 cross-validation" in wide[1]
    assert wide[1].endswith("20.0 %  84.0 %")


def test_order(cli, runs):
    def names(*words):
        return [one["name"] for one in json.loads(cli("runs", "--format", "json", *words).out)]

    by_name = names("--sort", "name")
    assert by_name == ["cut", "notes", "older/pets-2", "pets-10", "stopped", "torn"]
    by_date = names()
    assert by_date.index("pets-10") < by_date.index("older/pets-2")
    assert names("--sort", "accuracy")[:2] == ["older/pets-2", "pets-10"]
    assert names("--sort", "size")[-1] == "notes"
    assert runs.is_dir()


def test_a_folder_without_runs(cli, tmp_path):
    done = cli("runs")
    assert done.code == 1
    assert "no such folder" in error_lines(done)[1]
    (tmp_path / "runs").mkdir()
    done = cli("runs")
    assert (done.code, done.out) == (0, "")
    assert "no runs in 'runs'" in done.err
    assert json.loads(cli("runs", "--format", "json").out) == []


def test_listing_many_runs_takes_a_moment_and_writes_nothing(trained, tmp_path):
    first = copy_run(trained, tmp_path / "runs" / "r-0")
    for path in first.glob("*.png"):
        path.unlink()
    for number in range(1, 200):
        shutil.copytree(first, tmp_path / "runs" / f"r-{number}", copy_function=os.link)
    begun = time.process_time()
    assert len(list_runs(tmp_path / "runs")) == 200
    assert time.process_time() - begun < 0.6  # a tenth of a second here, alone
    assert not list((tmp_path / "runs").glob(".*"))


def test_a_run_is_removed_and_latest_is_corrected(cli, runs, trained):
    copy_run(trained, runs / "pets-11", age_s=5)
    (runs / "latest").unlink()
    (runs / "latest").symlink_to("pets-11")
    done = cli("runs", "--remove", "pets-11", "--yes")
    assert (done.code, done.out) == (0, "")
    assert not (runs / "pets-11").exists()
    assert (runs / "latest").resolve() == (runs / "pets-10").resolve()
    assert not list(runs.glob(".*"))
    cli("runs", "--remove", "pets-10", "--yes")
    assert not (runs / "latest").is_symlink()


def end_of_input(*_):
    raise EOFError


def test_nothing_is_removed_without_an_answer(cli, runs, monkeypatch):
    done = cli("runs", "--remove", "pets-10", "--no-yes")
    assert done.code == 2
    assert "--yes" in error_lines(done)[0]
    monkeypatch.setattr("swinclf.cli.console.has_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    assert cli("runs", "--remove", "pets-10").code == 1
    assert (runs / "pets-10").is_dir()
    monkeypatch.setattr("builtins.input", end_of_input)
    done = cli("runs", "--remove", "pets-10")
    assert (done.code, done.err.splitlines()[-1]) == (1, "nothing was removed")
    assert (runs / "pets-10").is_dir()
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert cli("runs", "--remove", "pets-10").code == 0
    assert not (runs / "pets-10").exists()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("latest", "a link to 'pets-10'"),
        ("link", "a link to"),
        ("notes", "a folder without config.json and split.csv"),
        ("older", "a folder without config.json and split.csv"),
        ("absent", "no such folder"),
        ("../colours", "a folder without config.json and split.csv"),
    ],
)
def test_only_a_run_is_removed(cli, runs, dataset, name, found):
    (runs / "link").symlink_to(runs / "older" / "pets-2")
    done = cli("runs", "--remove", name, "--yes")
    assert done.code == 1
    assert error_lines(done)[1].startswith(found)
    assert (runs / "older" / "pets-2" / "model.safetensors").is_file()
    assert dataset.is_dir()


def test_a_run_that_is_being_trained_is_not_removed(cli, runs):
    lock = FolderLock(runs / "stopped")
    try:
        assert {one.name: one.state for one in list_runs(runs)}["stopped"] == "running"
        done = cli("runs", "--remove", "stopped", "--yes")
        assert done.code == 1
        assert "is training it" in error_lines(done)[1]
    finally:
        lock.release()
    assert (runs / "stopped").is_dir()


def test_links_in_a_run_are_not_followed(cli, runs, dataset):
    (runs / "pets-10" / "images").symlink_to(dataset)
    assert cli("runs", "--remove", "pets-10", "--yes").code == 0
    assert len(list(dataset.rglob("*.png"))) == 36


def test_cells_are_aligned_by_their_width_on_a_terminal():
    lines = align_columns([("玫瑰", "1"), ("rose", "20")], right=[1])
    assert lines == ["玫瑰   1", "rose  20"]
    assert elide("玫瑰玫瑰玫瑰", 7) == "玫…瑰"
    assert elide("rose", 4) == "rose"


@pytest.mark.parametrize("changed", [1e12, -1e12, -1.0, float("inf")])
def test_a_run_may_have_been_changed_at_any_time(changed):
    run = RunSummary("a", Path("a"), RunState.DAMAGED, changed=changed)
    assert run.to_dict()["changed"] == ("1969-12-31T23:59:59+00:00" if changed == -1 else None)
    assert len(runs_text([run], 80).splitlines()) == 2
