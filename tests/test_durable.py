"""What a run survives: full disks, lost folders, damage, signals, company, edits, divergence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import filelock
import numpy as np
import pytest
from conftest import (
    SMALL_FLAGS,
    SMALL_SETTINGS,
    error_lines,
    read_rows,
    same_weights,
    untimed_history,
    weights_of,
    write_dataset,
    write_image,
)
from warm_processes import WarmProcess

import swinclf
from swinclf import device, files
from swinclf import lock as lock_module
from swinclf.commands import train as train_verb
from swinclf.device import StopFlag
from swinclf.errors import ExitCode, Interrupted, RunError, WeightsError
from swinclf.lock import FolderLock, LockHeldError
from swinclf.models.tensorfile import read_tensors, write_tensors
from swinclf.pipeline import finish, resume, starting_model
from swinclf.run_folder import RunFolder
from swinclf.training import loop
from swinclf.training.checkpoint import read_checkpoint
from swinclf.training.loop import TrainingLoop


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes of six pictures, to be read only."""
    return write_dataset(tmp_path_factory.mktemp("data") / "colours", per_class=6)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    return swinclf.train(data, out=str(out), **SMALL_SETTINGS).folder.path


def _stop(loop: TrainingLoop) -> None:
    loop.saver.save(loop.state)
    raise Interrupted(ExitCode.INTERRUPTED)


@pytest.fixture(scope="module")
def began(data, tmp_path_factory):
    """The same run, stopped in its first epoch."""
    out = tmp_path_factory.mktemp("began")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "run", _stop)
        with pytest.raises(Interrupted):
            swinclf.train(data, out=str(out), name="stopped", **SMALL_SETTINGS)
    return out


@pytest.fixture
def stopped(began, tmp_path):
    """A copy of it that takes itself for the first."""
    out = shutil.copytree(began, tmp_path / "runs")
    config = out / "stopped" / "config.json"
    config.write_text(config.read_text("utf-8").replace(str(began), str(out)), "utf-8")
    return out / "stopped"


def assert_same(one: Path, other: Path) -> None:
    """Two finished runs are the same, and nothing is left over."""
    assert same_weights(weights_of(one), weights_of(other))
    assert untimed_history(one) == untimed_history(other)
    for name in ("predictions.csv", "metrics.json", "split.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert [path.name for path in other.parent.rglob(".*")] == []
    assert {path.name for path in other.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_command_gives_the_same_bits_with_any_workers(data, whole, tmp_path, workers):
    again = swinclf.train(data, out=str(tmp_path / "runs"), workers=workers, **SMALL_SETTINGS)
    assert_same(whole, again.folder.path)


# --- one process a run ----------------------------------------------------------------------------


def test_a_second_process_is_refused_and_told_who(stopped, whole, cli):
    lock = FolderLock(stopped)
    done = cli("train", "--resume", stopped)
    assert done.code == 1
    expected, found, _ = error_lines(done)
    assert f"process {os.getpid()} on " in expected
    assert f"process {os.getpid()} on " in found
    lock.release()
    assert cli("train", "--resume", stopped, "--workers", "0").code == 0
    assert_same(whole, stopped)


def test_a_name_that_another_process_is_about_to_take(data, tmp_path, cli):
    (tmp_path / "runs").mkdir()
    lock = FolderLock(tmp_path / "runs" / "mine")
    done = cli("train", data, *SMALL_FLAGS, "--name", "mine")
    assert done.code == 1
    assert f"process {os.getpid()} on " in error_lines(done)[1]
    lock.release()
    assert cli("train", data, *SMALL_FLAGS, "--name", "mine").code == 0


def test_the_lock_and_the_draft_of_a_dead_process_are_free(data, whole, tmp_path):
    out = tmp_path / "runs"
    for name in ("mine", "colours-1", "other-7"):
        draft = out / f".{name}.draft"
        draft.mkdir(parents=True)
        code = (
            "import os, sys; from pathlib import Path; from swinclf.lock import FolderLock\n"
            "lock = FolderLock(Path(sys.argv[1])); os._exit(9)"
        )
        died = subprocess.run([sys.executable, "-c", code, out / name], check=False)
        assert died.returncode == 9
        (draft / "split.csv").write_text("half a")
        assert (out / f".{name}.lock").exists()
        assert (out / f".{name}.owner").read_text().startswith("process ")
    (out / ".other-7.draft" / "split.csv").unlink()
    (out / ".other-7.draft").rmdir()  # its lock is all that is left of it
    run = swinclf.train(data, out=str(out), name="mine", **SMALL_SETTINGS)
    assert_same(whole, run.folder.path)


def test_a_lock_is_held_by_one(tmp_path):
    lock = FolderLock(tmp_path / "run")
    with pytest.raises(LockHeldError, match=f"process {os.getpid()} on "):
        FolderLock(tmp_path / "run")
    FolderLock(tmp_path / "other").release()
    lock.release()
    FolderLock(tmp_path / "run").release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_of_the_folder_that_a_link_leads_to(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to("run")
    lock = FolderLock(tmp_path / "run")
    with pytest.raises(LockHeldError):
        FolderLock(tmp_path / "latest")
    lock.release()


def test_a_lock_of_a_folder_whose_parent_is_read_only(tmp_path, monkeypatch):
    real = lock_module._acquire

    def acquire(path):
        if path.parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(lock_module, "_acquire", acquire)
    (tmp_path / "run").mkdir()
    lock = FolderLock(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", ".owner"}
    with pytest.raises(LockHeldError, match="process "):
        FolderLock(tmp_path / "run")
    lock.release()
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(PermissionError):
        FolderLock(tmp_path / "new")


def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    assert not first.is_certain
    second.release()
    first.release()


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "place", "number", "code"),
    [
        (train_verb, "extract_features", signal.SIGINT, 130),
        (starting_model, "build_network", signal.SIGTERM, 143),
        (resume, "save_checkpoint", signal.SIGINT, 130),
    ],
)
def test_a_signal_before_there_is_a_run_leaves_none(
    data, tmp_path, monkeypatch, cli, module, place, number, code
):
    real = getattr(module, place)

    def signalled(*arguments, **options):
        os.kill(os.getpid(), number)
        return real(*arguments, **options)

    monkeypatch.setattr(module, place, signalled)
    done = cli("train", data, *SMALL_FLAGS)
    assert done.code == code
    assert done.err.endswith("interrupted; nothing to resume yet\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("module", "place", "number", "code"),
    [
        (finish, "score_images", signal.SIGINT, 130),
        (finish, "write_results", signal.SIGINT, 130),
        (finish, "save_model", signal.SIGTERM, 143),
        (finish, "save_reference_features", signal.SIGINT, 130),
        (train_verb, "mark_latest", signal.SIGTERM, 143),
    ],
)
def test_a_signal_from_then_on_leaves_a_run_to_resume(
    data, whole, tmp_path, monkeypatch, cli, module, place, number, code
):
    real = getattr(module, place)

    def signalled(*arguments, **options):
        os.kill(os.getpid(), number)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, place, signalled)
        done = cli("train", data, *SMALL_FLAGS)
    assert done.code == code
    run = tmp_path / "runs" / "colours-1"
    assert done.err.endswith(
        "interrupted; progress is saved, resume with: swinclf train --resume runs/colours-1\n"
    )
    assert cli("train", "--resume", run).code == 0
    assert_same(whole, run)


def test_a_signal_while_a_resumed_run_reads_its_images_leaves_it_to_resume(
    stopped, whole, monkeypatch, cli
):
    def signalled(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train_verb, "extract_run_features", signalled)
        done = cli("train", "--resume", stopped)
    assert done.code == 130
    assert done.err.endswith(
        f"interrupted; progress is saved, resume with: swinclf train --resume {stopped}\n"
    )
    assert cli("train", "--resume", stopped).code == 0
    assert_same(whole, stopped)


def test_a_second_signal_leaves_at_once():
    code = (
        "import os, signal, time; from swinclf.device import StopFlag\n"
        "stop = StopFlag()\n"
        "StopFlag.ENDS_PROCESS = True\n"
        "with stop.handling_signals(), stop.deferring_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); assert stop\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 143


def test_a_second_signal_does_not_end_a_notebook():
    after = []

    def work():
        stop = StopFlag()
        with stop.handling_signals(), stop.deferring_signals():
            for number in (1, 2):
                os.kill(os.getpid(), signal.SIGINT)
                after.append(number)

    with pytest.raises(Interrupted):
        work()
    assert after == [1], "the first one was deferred, the second one not"


def test_signals_that_python_does_not_handle_are_left_alone(monkeypatch):
    """As in a program in another language with a Python of its own."""
    monkeypatch.setattr(signal, "getsignal", lambda _number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("replaced"))
    with StopFlag().handling_signals():
        pass


def test_patience_ends_with_the_signal_that_was_not_obeyed():
    stop = StopFlag()
    with pytest.raises(Interrupted), stop.handling_signals(), stop.deferring_signals():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_killed_process_is_gone_on_with(data, whole, tmp_path, cli):
    process = WarmProcess("train", data, *SMALL_FLAGS, folder=tmp_path)
    process.wait_for("epoch")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    run = tmp_path / "runs" / "colours-1"
    assert run.with_name(".colours-1.lock").exists(), "nobody was there to remove it"
    (run / ".last.ckpt.1.tmp").write_bytes(b"half a")
    assert cli("train", "--resume", run).code == 0
    assert_same(whole, run)


# --- disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "number"),
    [  # of 15 files that this small training writes durably, one after the other
        (write, {5: errno.EROFS, 11: errno.EDQUOT}.get(write, errno.ENOSPC))
        for write in range(1, 16, 2)
    ],
)
def test_a_disk_that_fails_at_any_write_loses_nothing(
    data, whole, tmp_path, monkeypatch, cli, write, number
):
    real, written = os.fsync, []

    def fsync(handle):
        is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        written.extend([handle] * is_file)
        if is_file and len(written) >= write:
            raise OSError(number, os.strerror(number))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        done = cli("train", data, *SMALL_FLAGS, "--no-cache")  # whose writes would count
    assert done.code == 1, done.err
    expected, found, hint = error_lines(done)
    assert "runs" in expected
    assert os.strerror(number) in found
    assert "earlier files are not lost" in found
    run = tmp_path / "runs" / "colours-1"
    if run.exists():
        assert hint == "fix that, then: swinclf train --resume runs/colours-1"
        assert cli("train", "--resume", run).code == 0
        assert_same(whole, run)
    else:
        assert write <= 4, "before there was anything to save"
        assert not (tmp_path / "runs").exists()


def test_room_is_looked_for_before_anything_is_read(data, tmp_path, monkeypatch, cli):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    monkeypatch.setattr(train_verb, "extract_features", lambda *_, **__: pytest.fail("too late"))
    done = cli("train", data, *SMALL_FLAGS)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "MB free in 'runs" in expected
    assert found == "1.0 MB free on that disk"
    assert "--out" in hint
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_is_deleted_under_the_training(data, tmp_path, monkeypatch, cli):
    real = TrainingLoop.run

    def gone(self):
        shutil.rmtree(tmp_path / "runs" / "colours-1")
        real(self)

    monkeypatch.setattr(TrainingLoop, "run", gone)
    done = cli("train", data, *SMALL_FLAGS)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "the folder 'runs/colours-1'" in expected
    assert "it is gone" in found
    assert hint == "start again: swinclf train DATA"


# --- damage ---------------------------------------------------------------------------------------


def _damages(whole: bytes):
    """Single bits flipped, half of them in the header, and files cut short."""
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for number in range(30):
        place, bit = int(rng.integers(header if number % 2 else len(whole))), int(rng.integers(8))
        yield whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    for _ in range(10):
        yield whole[: int(rng.integers(len(whole)))]


def test_damage_to_a_checkpoint_is_noticed_and_the_one_before_taken(stopped):
    run = RunFolder(stopped)
    content = run.checkpoint.read_bytes()
    assert not read_checkpoint(run).newer_error
    for damaged in _damages(content):
        run.checkpoint.write_bytes(damaged)
        saved = read_checkpoint(run)
        assert saved.newer_error
        assert saved.path == run.previous_checkpoint
    run.previous_checkpoint.write_bytes(b"")
    with pytest.raises((RunError, WeightsError)) as error:
        read_checkpoint(run)
    assert "last.ckpt" in error.value.expected


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(stopped, whole, cli):
    (stopped / "last.ckpt").write_bytes(b"no longer what it was")
    done = cli("train", "--resume", stopped)
    assert done.code == 0
    assert "resuming from the previous checkpoint" in done.err
    assert_same(whole, stopped)


# --- what has changed since -----------------------------------------------------------------------


def _moved(stopped: Path, data: Path, to: Path) -> Path:
    """A copy of the data for a run of its own to change; the run is told of it."""
    shutil.copytree(data, to)
    config = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps({**config, "data": str(to)}))
    return to


def test_data_that_moved_and_grew_are_gone_on_with(stopped, whole, data, tmp_path, cli):
    moved = _moved(stopped, data, tmp_path / "colours")
    write_image(moved / "red" / "new.png", (1, 2, 3), seed=9)
    done = cli("train", "--resume", stopped, "--workers", "1")
    assert done.code == 0, done.err
    assert "changed since this run began: data" in done.err
    assert "1 new images, e.g. red/new.png: not used by this run" in done.err
    assert same_weights(weights_of(whole), weights_of(stopped))


def test_an_edited_image_is_refused(stopped, data, tmp_path, cli):
    moved = _moved(stopped, data, tmp_path / "colours")
    write_image(moved / "red" / "003.png", (1, 2, 3), seed=9)
    done = cli("train", "--resume", stopped)
    assert done.code == 1
    assert error_lines(done)[1] == "1 with changed content, e.g. red/003.png"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("config.json", '"epochs": 2', '"epochs": 3', "epochs 3 instead of 2"),
        ("split.csv", ",train", ",val", "changed content"),
        ("class_indices.json", "blue", "bleu", "changed content"),
        ("split.csv", "path,label", "road,label", "no column path"),
    ],
)
def test_a_run_s_own_files_must_be_as_they_were(stopped, cli, name, old, new, said):
    text = (stopped / name).read_text()
    assert old in text
    (stopped / name).write_text(text.replace(old, new))
    done = cli("train", "--resume", stopped)
    assert done.code == 1
    assert said in error_lines(done)[1]
    assert not (stopped / "model.safetensors").exists()


def test_other_versions_are_said(stopped, monkeypatch, cli):
    versions = device.versions()
    monkeypatch.setattr(
        "swinclf.training.resume_guard.versions", lambda: {**versions, "torch": "9.9"}
    )
    done = cli("train", "--resume", stopped)
    assert done.code == 0
    assert f"torch {versions['torch']} -> 9.9: results may differ" in done.err


def test_a_run_of_a_gpu_goes_on_where_there_is_none(stopped, whole, cli, monkeypatch):
    config = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps({**config, "device": "cuda:0"}))
    tensors, metadata = read_tensors(stopped / "last.ckpt", signed=True)
    record = json.loads(metadata["state"])
    record["origin"]["settings"]["device"] = "cuda:0"
    record["origin"]["machine"]["GPU"] = "NVIDIA H100"
    write_tensors(stopped / "last.ckpt", tensors, {"state": json.dumps(record)})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    done = cli("train", "--resume", stopped)
    assert done.code == 0, done.err
    assert "--device cuda:0: this machine has no CUDA device; using cpu instead" in done.err
    assert "GPU NVIDIA H100 -> none: results may differ by rounding" in done.err
    assert same_weights(weights_of(whole), weights_of(stopped))


def test_frozen_weights_must_be_the_ones_it_began_with(data, trained, tmp_path, monkeypatch, cli):
    shutil.copytree(trained.path, tmp_path / "base")
    settings = {**SMALL_SETTINGS, "freeze_layers": True, "weights": str(tmp_path / "base")}
    del settings["pretrained"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "run", _stop)
        with pytest.raises(Interrupted):
            swinclf.train(data, out=str(tmp_path / "runs"), name="head", **settings)
    other = swinclf.train(data, out=str(tmp_path / "runs"), **SMALL_SETTINGS).folder.model
    shutil.copy(other, tmp_path / "base" / "model.safetensors")
    done = cli("train", "--resume", tmp_path / "runs" / "head")
    assert done.code == 1
    assert "the pretrained weights that the run started with" in error_lines(done)[0]
    shutil.rmtree(tmp_path / "base")
    assert cli("train", "--resume", tmp_path / "runs" / "head").code == 1
    done = cli("train", "--resume", tmp_path / "runs" / "head", "--weights", trained.path)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "runs/head/config.json").read_text())["weights"] == str(
        trained.path
    )


# --- divergence -----------------------------------------------------------------------------------


def test_a_diverged_run_keeps_the_state_before(data, tmp_path, cli):
    done = cli("train", data, *SMALL_FLAGS, "--lr", "1e30", "--clip-norm", "0")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert expected == "a finite loss"
    assert "epoch 1, by step" in found
    assert found.endswith("runs/colours-1/last.ckpt is the last good checkpoint")
    assert hint == (
        f"swinclf train {data} --model test_vit --no-pretrained --img-size 32 --epochs 2 "
        "--batch-size 8 --clip-norm 0.0 --precision fp32 --lr 0.001"
    )
    saved = read_checkpoint(RunFolder(tmp_path / "runs" / "colours-1"))
    assert all(one.isfinite().all() for one in saved.tensors.values())


def test_a_diverged_run_keeps_its_best_weights(data, tmp_path, cli, monkeypatch):
    real = loop._train_step

    def step(state, *rest):
        real(state, *rest)
        if state.epoch == 1:
            next(state.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(loop, "_train_step", step)
    done = cli("train", data, *SMALL_FLAGS, "--lr", "0.002")
    assert done.code == 1
    run = tmp_path / "runs" / "colours-1"
    assert f"the weights of epoch 1 are saved: {Path('runs/colours-1')}" in error_lines(done)[1]
    assert error_lines(done)[2].endswith("--lr 0.0002"), "a tenth of the peak"
    assert all(np.isfinite(one).all() for one in weights_of(run).values())
    assert len(read_rows(run / "history.csv")) == 1
    assert not (run / "metrics.json").exists()
    monkeypatch.undo()
    assert cli("predict", data / "red", "--run", run).code == 0
