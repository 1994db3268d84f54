"""Programs disguised as data: none is run, each is refused by name, whatever it is called."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_MODEL, TrainedRun, error_lines

from swinclf.errors import ExitCode

QUICK = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--device", "cpu")


class Evil:
    """Whoever unpickles it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def bare(evil: Evil) -> bytes:
    return pickle.dumps(evil)


def old_protocol(evil: Evil) -> bytes:
    return pickle.dumps(evil, protocol=0)


def in_a_state_dict(evil: Evil) -> bytes:
    return saved_by_torch({"model": {"head.weight": evil}}, zipped=True)


def of_old_torch(evil: Evil) -> bytes:
    return saved_by_torch({"head.weight": evil}, zipped=False)


def in_an_archive_of_arrays(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.array([evil, None], dtype=object))
    return buffer.getvalue()


def in_an_array(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], dtype=object))
    return buffer.getvalue()


def behind_a_header(evil: Evil) -> bytes:
    """A safetensors header with a program for data."""
    program = pickle.dumps(evil)
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (
        len(program),
        len(program),
    )
    return len(header).to_bytes(8, "little") + header + program


def in_an_archive_of_another_name(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(evil))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/constants.pkl", pickle.dumps(evil))
    return buffer.getvalue()


def saved_by_torch(content: object, *, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


DISGUISES = [
    bare,
    old_protocol,
    in_a_state_dict,
    of_old_torch,
    in_an_archive_of_arrays,
    in_an_array,
    behind_a_header,
    in_an_archive_of_another_name,
]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def refused(outcome, canary, *, code=ExitCode.FAILED) -> tuple[str, str, str]:
    """The three lines of a refusal that names no defect of the program; nothing was executed."""
    assert outcome.code == code, outcome.err
    assert not canary.exists()
    assert "Traceback" not in outcome.err
    lines = error_lines(outcome)
    assert all(lines)
    assert "internal error" not in lines[0]
    return lines


@pytest.mark.parametrize("disguise", [bare, of_old_torch, in_a_state_dict])
def test_each_would_run_where_it_is_trusted(tmp_path, canary, disguise):
    (tmp_path / "evil").write_bytes(disguise(Evil(canary)))
    if disguise is bare:
        pickle.loads((tmp_path / "evil").read_bytes())
    else:
        torch.load(tmp_path / "evil", weights_only=False)
    assert canary.is_dir()


@pytest.mark.parametrize("disguise", DISGUISES)
def test_weights_to_start_from(cli, dataset, canary, disguise):
    evil = canary.with_name("weights.pth")
    evil.write_bytes(disguise(Evil(canary)))
    refused(cli("train", dataset, *QUICK, "--weights", evil.name), canary)


@pytest.mark.parametrize(
    ("command", "ending", "disguise"),
    [("predict", ".safetensors", one) for one in (bare, in_a_state_dict, behind_a_header)]
    + [("predict", ".onnx", bare), ("eval", ".pth", bare), ("export", ".pkl", bare)],
)
def test_a_model_to_run(cli, trained, canary, disguise, command, ending):
    evil = canary.with_name(f"model{ending}")
    evil.write_bytes(disguise(Evil(canary)))
    words = {"predict": (trained.data / "blue" / "000.png",), "eval": (trained.data,)}
    refused(cli(command, *words.get(command, ()), "--run", evil.name), canary)


@pytest.fixture
def copy(tmp_path: Path, trained: TrainedRun) -> Path:
    return shutil.copytree(trained.path, tmp_path / "runs" / "copy")


@pytest.mark.parametrize(
    ("file", "disguise"),
    [("last.ckpt", one) for one in (bare, in_a_state_dict, behind_a_header)]
    + [(file, bare) for file in ("config.json", "class_indices.json", "split.csv")],
)
def test_a_run_to_resume(cli, copy, canary, disguise, file):
    (copy / "metrics.json").unlink()
    shutil.copy(copy / "model.safetensors", copy / "last.ckpt")
    (copy / file).write_bytes(disguise(Evil(canary)))
    refused(cli("train", "--resume", copy), canary)


@pytest.mark.parametrize("disguise", [bare, in_an_archive_of_arrays])
@pytest.mark.parametrize("file", ["config.json", "split.csv"])
def test_a_run_to_score(cli, copy, canary, disguise, file):
    (copy / file).write_bytes(disguise(Evil(canary)))
    refused(cli("eval", "--run", copy), canary)


@pytest.mark.parametrize("disguise", [bare, in_an_archive_of_arrays])
@pytest.mark.parametrize("ending", [".json", ".toml"])
def test_settings(cli, dataset, canary, disguise, ending):
    evil = canary.with_name(f"settings{ending}")
    evil.write_bytes(disguise(Evil(canary)))
    outcome = cli("train", dataset, *QUICK, "--config", evil.name)
    refused(outcome, canary, code=ExitCode.USAGE)


@pytest.mark.parametrize("disguise", [bare, in_an_array, in_a_state_dict])
def test_images(cli, trained, canary, disguise):
    for name in ("evil.jpg", "evil.npy"):
        canary.with_name(name).write_bytes(disguise(Evil(canary)))
        outcome = cli("predict", name, "--run", trained.path, "--format", "csv")
        assert outcome.code == ExitCode.SOME_FAILED
        assert not canary.exists()
        assert "not an image" in outcome.out
