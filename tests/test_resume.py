"""Interrupting a training and going on with it: nothing is lost, and no bit comes out otherwise."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import (
    SMALL_FLAGS,
    SMALL_SETTINGS,
    error_lines,
    resume_run,
    same_weights,
    stop_after,
    untimed_history,
    weights_of,
    write_dataset,
)
from warm_processes import WarmProcess

import swinclf
from swinclf.commands import train as train_verb
from swinclf.data.split import read_split
from swinclf.device import Hardware, Precision, StopFlag
from swinclf.errors import DataError, ExitCode, Interrupted, RunError, SwinclfError, WeightsError
from swinclf.pipeline import prepare
from swinclf.pipeline.resume import resume_settings
from swinclf.run_folder import RunFolder
from swinclf.settings import gather_settings
from swinclf.training import checkpoint, loop
from swinclf.training.linear_probe import Probe

REGIMES = {
    "head": {"freeze_layers": True, "epochs": 4, "label_smoothing": 0.1},
    "part": {"freeze_stages": 2, "drop_path": 0.3},
    "full": {"freeze_layers": False, "drop_path": 0.3, "patience": 2, "epochs": 3},
}


def _settings(regime: str, trained, out: Path) -> dict[str, object]:
    settings = {**SMALL_SETTINGS, **REGIMES[regime], "out": str(out)}
    del settings["pretrained"]
    return {**settings, "weights": str(trained.path)}


def _assert_same_run(one: Path, other: Path) -> None:
    assert same_weights(weights_of(one), weights_of(other))
    assert untimed_history(one) == untimed_history(other)
    names = ["predictions.csv", "metrics.json", "split.csv", "class_indices.json"]
    for name in names + ["baseline.json"] * (one / "baseline.json").exists():
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert not (other / "last.ckpt").exists()


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    """A run of each regime that nobody interrupted."""
    out = tmp_path_factory.mktemp("undisturbed")
    return {
        regime: swinclf.train(trained.data, **_settings(regime, trained, out)).folder.path
        for regime in REGIMES
    }


# 32 training images in batches of 8: an epoch is 4 steps.
@pytest.mark.parametrize(("regime", "steps"), [("full", 6), ("head", 4), ("part", 8)])
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    trained, undisturbed, tmp_path, cli, monkeypatch, regime, steps
):
    stop_after(monkeypatch, steps)
    with pytest.raises(Interrupted) as interrupted:
        swinclf.train(trained.data, **_settings(regime, trained, tmp_path / "runs"))
    assert interrupted.value.exit_code == 130
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert interrupted.value.resume == f"swinclf train --resume {run}"
    assert not (run / "metrics.json").exists()
    assert len(untimed_history(run)) == (steps - 1) // 4
    monkeypatch.undo()
    words = shlex.split(interrupted.value.resume)[1:]
    done = cli(*words)
    assert done.code == 0, done.err
    assert done.out.strip() == str(run)
    epochs = {**SMALL_SETTINGS, **REGIMES[regime]}["epochs"]
    assert f"resuming after epoch {(steps - 1) // 4} of {epochs}\n" in done.err
    _assert_same_run(undisturbed[regime], run)


def test_an_interrupted_convolutional_network_ends_as_an_undisturbed_one(
    trained, tmp_path, monkeypatch, cli
):
    """Its weights lie in memory with the channels last, those of a checkpoint do not."""
    settings = {**SMALL_SETTINGS, "model": "test_efficientnet", "out": str(tmp_path / "runs")}
    settings["drop_path"] = 0.3
    whole = swinclf.train(trained.data, name="whole", **settings).folder.path
    stop_after(monkeypatch, 6)
    with pytest.raises(Interrupted) as interrupted:
        swinclf.train(trained.data, name="stopped", **settings)
    monkeypatch.undo()
    done = cli(*shlex.split(interrupted.value.resume)[1:])
    assert done.code == 0, done.err
    _assert_same_run(whole, tmp_path / "runs" / "stopped")


def test_a_run_may_be_interrupted_again_and_again_with_other_workers(
    trained, undisturbed, tmp_path, monkeypatch
):
    settings = _settings("full", trained, tmp_path / "runs")
    run = None
    for workers in range(40):
        with monkeypatch.context() as patch:
            stop_after(patch, 3)
            # A resumed run takes its workers from the settings; fewer cores must change nothing.
            make = prepare.build_image_batches
            patch.setattr(
                prepare,
                "build_image_batches",
                lambda plan, context, make=make, workers=workers: make(
                    replace(plan, config=replace(plan.config, workers=workers % 3)), context
                ),
            )
            try:
                if run is None:
                    swinclf.train(trained.data, **settings)
                else:
                    resume_run(run)
            except Interrupted:
                run = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
            else:
                break
    assert workers > 3, "it was interrupted after every third step"
    _assert_same_run(undisturbed["full"], run)


def test_a_killed_run_goes_on_from_the_checkpoint_before(
    trained, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint.CheckpointSaver, "is_due", lambda _: True)
    step, taken = loop._train_step, []

    def dying(state, *rest):
        if not isinstance(state.model, Probe):
            taken.append(1)
        if len(taken) == 7:
            raise MemoryError
        step(state, *rest)

    monkeypatch.setattr(loop, "_train_step", dying)
    with pytest.raises(SwinclfError):
        swinclf.train(trained.data, **_settings("part", trained, tmp_path / "runs"))
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "last.ckpt").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    _assert_same_run(undisturbed["part"], resume_run(run))


def test_the_best_epoch_may_lie_before_the_interruption(dataset, tmp_path, monkeypatch):
    def script():
        accuracies = iter([0.9, 0.5, 0.4])
        monkeypatch.setattr(loop, "validate", lambda *_: (1.0, next(accuracies)))

    settings = {**SMALL_SETTINGS, "epochs": 3, "out": str(tmp_path / "runs")}
    script()
    whole = swinclf.train(dataset, **settings)
    with monkeypatch.context():
        script()
        stop_after(monkeypatch, 6)
        with pytest.raises(Interrupted):
            swinclf.train(dataset, name="stopped", **settings)
    monkeypatch.setattr(train_verb, "StopFlag", StopFlag)
    _assert_same_run(whole.folder.path, resume_run(tmp_path / "runs" / "stopped"))


def test_no_resumed_epoch_is_chosen_that_is_less_accurate_than_the_probe(
    trained, tmp_path, monkeypatch
):
    """Nor is the probe's accuracy forgotten, though a checkpoint's network has no probe."""

    def script():
        losses = iter([0.9, 0.5, 0.4])
        monkeypatch.setattr(loop, "validate", lambda *_: (next(losses), 0.1))

    settings = {**_settings("full", trained, tmp_path / "runs"), "select": "loss"}
    script()
    whole = swinclf.train(trained.data, name="whole", **settings)
    script()
    stop_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        swinclf.train(trained.data, name="stopped", **settings)
    monkeypatch.setattr(train_verb, "StopFlag", StopFlag)
    run = RunFolder(tmp_path / "runs" / "stopped")
    resumed = train_verb.train(resume_settings(run), resume=run)
    _assert_same_run(whole.folder.path, run.path)
    assert resumed.probe_accuracy == whole.probe_accuracy > 0.1


def test_a_test_folder_with_a_class_of_its_own_does_not_stop_a_resume(tmp_path, monkeypatch):
    data = tmp_path / "three"
    for split in ("train", "val", "test"):
        write_dataset(data / split, per_class=4)
    write_dataset(data / "test", per_class=2, colours={"another": (9, 9, 9)})
    settings = {**SMALL_SETTINGS, "out": str(tmp_path / "runs")}
    whole = swinclf.train(data, **settings)
    stop_after(monkeypatch, 1)
    with pytest.raises(Interrupted):
        swinclf.train(data, name="stopped", **settings)
    monkeypatch.undo()
    _assert_same_run(whole.folder.path, resume_run(tmp_path / "runs" / "stopped"))


def _section(run: Path, name: str) -> str:
    text = (run / "report.html").read_text("utf-8")
    return text[text.index(f'<section id="{name}">') :].partition("</section>")[0]


def test_the_report_of_a_resumed_run_tells_what_was_wrong_with_the_dataset(
    tmp_path, cli, monkeypatch
):
    data = tmp_path / "faulty"
    for split in ("train", "val"):
        write_dataset(data / split)  # the very same pictures
    pictures = sorted((data / "train" / "red").iterdir())
    for number, file in enumerate(pictures[:8]):  # more than a report shows
        shutil.copy(file, data / "train" / "blue" / f"red-{number}\udcff.png")
    for file in pictures[9:]:
        file.unlink()
    settings = {**SMALL_SETTINGS, "out": str(tmp_path / "runs")}
    whole = swinclf.train(data, name="whole", **settings).folder.path
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        swinclf.train(data, name="stopped", **settings)
    monkeypatch.undo()
    stopped = tmp_path / "runs" / "stopped"
    done = cli("train", "--resume", stopped)
    assert done.code == 0, done.err
    audit = _section(stopped, "audit")
    assert audit == _section(whole, "audit")
    for words in (
        "8 images under two or more labels",
        "on both sides of a split",
        "fewer than 10 images",
    ):
        assert words in audit
    assert audit.count("<img ") == 6 + 6 + 6, "of two labels, of leaks, of copies"
    _assert_same_run(whole, stopped)


@pytest.mark.parametrize("start", [train_verb.train, train_verb.forecast_training])
def test_the_random_state_that_is_saved_is_that_of_the_gpu_in_use(dataset, monkeypatch, start):
    """That of torch's current GPU: it is the one in use whenever images are read."""
    current = [None]

    @contextmanager
    def using(device):
        current.append(device)
        try:
            yield
        finally:
            current.pop()

    def read(*_, **__):
        raise DataError("an image", found=f"current: {current[-1]}", hint="")

    monkeypatch.setattr(torch.cuda, "device", using)
    monkeypatch.setattr(train_verb, "scan_folder", read)
    for device, wanted in (("cuda:1", "cuda:1"), ("cuda", None), ("cpu", None)):
        hardware = Hardware(device, Precision.FP32, "")
        monkeypatch.setattr(train_verb, "choose_hardware", lambda *_, it=hardware: it)
        with pytest.raises(DataError, match=f"current: {wanted}\n"):
            start(gather_settings({"data": str(dataset)}))


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """A dataset and a run that was stopped after its third step."""
    home = tmp_path_factory.mktemp("began")
    data = write_dataset(home / "colours")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            swinclf.train(data, out=str(home / "runs"), name="stopped", **SMALL_SETTINGS)
    return home


@pytest.fixture
def interrupted(began, tmp_path):
    """A copy of them, in which the run takes itself for the first."""
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "stopped"
    config = run / "config.json"
    config.write_text(config.read_text("utf-8").replace(str(began), str(tmp_path)), "utf-8")
    return run


def test_a_finished_run_is_not_resumed(trained, cli):
    done = cli("train", "--resume", trained.path)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "an interrupted run" in expected
    assert found == "a finished one"
    assert f"--weights '{trained.path}'" in hint


def test_a_run_that_saved_nothing_is_not_resumed(interrupted, cli):
    (interrupted / "last.ckpt").unlink()
    (interrupted / "previous.ckpt").unlink()
    done = cli("train", "--resume", interrupted)
    assert done.code == 1
    assert "stopped before the first checkpoint" in error_lines(done)[1]


def test_a_run_of_a_version_with_other_settings_is_refused(interrupted, cli):
    path = interrupted / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["mean"]
    path.write_text(json.dumps(config), encoding="utf-8")
    done = cli("train", "--resume", interrupted)
    assert done.code == 1
    assert error_lines(done) == (
        f"every setting of the run in '{path}'",
        "no 'mean': the run was started by another version of swinclf",
        "resume it with that version, or start a new run: swinclf train DATA",
    )


def test_something_that_is_no_run_is_not_resumed(cli, tmp_path):
    for name in (".", "nowhere"):
        done = cli("train", "--resume", tmp_path / name)
        assert done.code == 1
        assert "a run at" in error_lines(done)[0]


@pytest.mark.parametrize(
    "other", [["--epochs", "9"], ["--lr", "0.1"], ["--no-mirror"], ["--config", "c.json"]]
)
def test_a_resume_takes_no_other_options(interrupted, cli, other):
    done = cli("train", "--resume", interrupted, *other)
    assert done.code == 2
    expected, found, hint = error_lines(done)
    assert "--resume alone" in expected
    assert other[0].replace("--no-", "--") in found
    assert hint == f"swinclf train --resume '{interrupted}'"


def test_a_resume_that_names_its_own_dataset_goes_on(interrupted, dataset, cli):
    done = cli("train", dataset, "--resume", interrupted)
    assert done.code == 0, done.err


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [_flip, lambda content: content[:-100], lambda _: b"", lambda _: b"garbage" * 100],
    ids=["flipped", "cut", "empty", "garbage"],
)
def test_a_damaged_checkpoint_is_refused(interrupted, cli, damage):
    for name in ("last.ckpt", "previous.ckpt"):
        path = interrupted / name
        path.write_bytes(damage(path.read_bytes()))
    done = cli("train", "--resume", interrupted)
    assert done.code == 1
    assert "last.ckpt" in error_lines(done)[0]
    assert not (interrupted / "model.safetensors").exists()


def test_the_checkpoint_of_another_training_is_refused(interrupted, trained, tmp_path):
    settings = {**SMALL_SETTINGS, "freeze_layers": True, "out": str(tmp_path / "other")}
    with pytest.MonkeyPatch.context() as patch:
        flag = StopFlag()
        flag.exit_code = ExitCode.INTERRUPTED
        real = loop.TrainingLoop.run
        patch.setattr(loop.TrainingLoop, "run", lambda self: real(replace(self, stop=flag)))
        with pytest.raises(Interrupted):
            swinclf.train(trained.data, **settings)
    (other,) = (tmp_path / "other").iterdir()
    (other / "last.ckpt").replace(interrupted / "last.ckpt")
    with pytest.raises((RunError, WeightsError)) as error:
        resume_run(interrupted)
    config = interrupted / "config.json"
    assert f"the original settings in '{config}'" in error.value.expected


def test_an_image_that_a_frozen_network_can_no_longer_read_is_named(
    trained, dataset, tmp_path, monkeypatch, cli
):
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        swinclf.train(dataset, name="stopped", **_settings("head", trained, tmp_path / "runs"))
    monkeypatch.undo()
    run = tmp_path / "runs" / "stopped"
    path = next(one.path for one in read_split(run / "split.csv") if one.split == "train")
    (dataset / path).write_bytes(b"no image")
    done = cli("train", "--resume", run)
    assert done.code == 1
    assert f"1 now unreadable, e.g. {path}" in error_lines(done)[1]


@pytest.mark.parametrize("command", [["predict", "x.png"], ["eval"], ["export"]])
def test_an_interrupted_run_cannot_be_used_yet(interrupted, cli, command):
    done = cli(*command, "--run", interrupted)
    assert done.code == 1
    _, found, hint = error_lines(done)
    assert found == "an unfinished run"
    assert hint == f"swinclf train --resume '{interrupted}'"


def test_an_interrupted_run_is_not_the_latest(interrupted, cli):
    assert interrupted.is_dir()
    done = cli("predict", "x.png")
    assert done.code == 1
    assert "a finished run" in error_lines(done)[0]


# --- a real process -----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_how_to_go_on(dataset, tmp_path, number, code):
    process = WarmProcess("train", dataset, *SMALL_FLAGS, "--epochs", 100_000, folder=tmp_path)
    process.wait_for("epoch")
    process.send_signal(number)
    assert process.wait(timeout=60) == code, process.stderr
    assert process.stdout == "", "a run's folder is printed when it is finished"
    assert process.stderr.splitlines()[-1] == (
        "interrupted; progress is saved, resume with: swinclf train --resume runs/colours-1"
    )
    assert "Traceback" not in process.stderr
    run = tmp_path / "runs" / "colours-1"
    assert (run / "last.ckpt").stat().st_size > 0
    assert json.loads((run / "config.json").read_text("utf-8"))["epochs"] == 100_000
