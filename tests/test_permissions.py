"""Files and folders that may not be read or written, through the installed program.

Root is kept out by no permission, so that there the program runs without root's capabilities.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Outcome, error_lines, read_rows
from warm_processes import WarmProcess

SMALL = (  # a network without timm, whose import takes as long as torch's
    *("--model", "vit", "--model-arg", "embed_dim=16", "--model-arg", "depth=1"),
    *("--model-arg", "num_heads=1", "--no-pretrained", "--img-size", "32", "--epochs", "1"),
)


@pytest.fixture
def bounded(tmp_path):
    """Runs the program as one whom permissions hold."""
    if os.geteuid() == 0 and sys.platform != "linux":
        pytest.skip("root has all permissions here: nothing could be forbidden")

    def run(*words: object) -> Outcome:
        script = Path(__file__).with_name("without_capabilities.py")
        process = WarmProcess(*words, folder=tmp_path, script=script)
        code = process.wait(120)
        return Outcome(code, process.stdout, process.stderr)

    return run


@pytest.fixture
def locked():
    """Takes all permissions from a path, and gives them back for the cleaning up."""
    changed = []

    def lock(path: Path, mode: int = 0) -> Path:
        changed.append((path, path.stat().st_mode))
        path.chmod(mode)
        return path

    yield lock
    for path, mode in changed:
        path.chmod(mode)


def test_a_file_and_a_class_folder_that_may_not_be_read_are_listed(
    bounded, locked, dataset, tmp_path
):
    locked(dataset / "red" / "003.png")
    (dataset / "shut").mkdir()
    shutil.copy(dataset / "blue" / "000.png", dataset / "shut" / "000.png")
    locked(dataset / "shut")
    done = bounded("train", dataset, *SMALL)
    assert done.code == 3, done.err
    assert "class 'shut' has no readable image: 1 skipped (Permission denied)" in done.err
    rows = read_rows(tmp_path / done.out.strip() / "skipped.csv")
    assert {row["path"]: row["reason"] for row in rows} == {
        "red/003.png": "Permission denied",
        "shut": "Permission denied",
    }
    again = bounded("predict", dataset / "red", "--run", "runs/latest", "--format", "json")
    assert again.code == 3
    errors = [one["error"] for one in json.loads(again.out) if "error" in one]
    assert errors == ["Permission denied"]
    strict = bounded("train", dataset, *SMALL, "--strict")
    assert strict.code == 1
    assert "Permission denied" in error_lines(strict)[1]


def test_a_place_for_runs_that_may_not_be_written_is_named_before_any_work(
    bounded, locked, dataset, tmp_path
):
    (tmp_path / "mine").mkdir()
    locked(tmp_path / "mine", 0o500)
    done = bounded("train", dataset, *SMALL, "--out", "mine")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "mine" in expected
    assert "Permission denied" in found
    assert "--out" in hint


def test_a_run_that_may_not_be_read_is_named(bounded, locked, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    locked(run / "model.safetensors")
    done = bounded("predict", trained.data, "--run", run)
    assert done.code == 1
    assert "model.safetensors" in error_lines(done)[0]
    assert "Permission denied" in " ".join(error_lines(done))
