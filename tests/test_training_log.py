"""What a training prints and writes while it runs: its log, its time, its plan and its events."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import (
    SMALL_FLAGS,
    SMALL_MODEL,
    error_lines,
    metrics_from,
    read_rows,
    write_dataset,
)
from torch import nn

import swinclf
from swinclf import terminal
from swinclf.data.folder import FolderIndex, ImageFile
from swinclf.data.split import SplitRule
from swinclf.durations import duration_text, parse_duration
from swinclf.event_log import EventLog
from swinclf.pipeline import budget, fit, forecast
from swinclf.pipeline.finish import result_warnings
from swinclf.pipeline.plan import Plan
from swinclf.reporter import SILENT, EpochRow
from swinclf.terminal import ConsoleReporter, wrapped
from swinclf.training import time_estimate
from swinclf.training.defaults import Regime
from swinclf.training.time_estimate import TimeEstimate

HEAD = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", "32", "--freeze-layers")


def row(epoch=1, train_loss=1.0, val_loss=1.0):
    return EpochRow(epoch, train_loss, 0.5, val_loss, 0.5, 1e-3, 1.0, 10.0)


def read_events(run):
    text = (run / "events.jsonl").read_text("ascii")
    return [json.loads(line) for line in text.splitlines()]


# The log


def test_the_log_of_a_training_fits_into_80_columns(cli, dataset):
    done = cli("train", dataset.name, *SMALL_FLAGS)
    assert done.code == 0, done.err
    lines = done.raw_err.splitlines()
    assert max(map(len, lines)) <= 80
    for start in ("data: 3 classes, ", f"model: {SMALL_MODEL}, 32 px, on cpu", "recipe: whole"):
        assert sum(line.startswith(start) for line in lines) == 1
    assert "drop-path" not in done.err, "single settings are for --verbose"
    assert len([line for line in lines if line.startswith("epoch ")]) == 2
    assert done.err.count("* is the best one so far") == 1
    assert re.search(r"^2 epochs in [\d.]+ s; best: epoch \d, val loss", done.err, re.M)
    assert len(lines) < 30


def test_verbose_tells_how_long_each_step_after_training_takes(cli, dataset):
    done = cli("train", dataset.name, *SMALL_FLAGS, "--verbose")
    steps = re.findall(r"^([a-z ]+): \d+\.\d s$", done.err, re.M)
    assert steps == [
        *("calibration and rejection", "scores", "sample images"),
        *("nearest training images", "plots and report"),
    ]
    (defaults,) = re.findall(r"^defaults: .*", done.err, re.M)
    assert "test-split 0, " in defaults
    assert "weights not set, " in defaults
    assert "\n  epochs 2 (by flag)\n" in done.err
    assert "\n  pretrained no (by flag)\n" in done.err
    frozen = cli("train", dataset.name, *HEAD, "--verbose")
    assert re.search(r"^label errors: \d", frozen.err, re.M)
    assert re.search(r"^learning curve: \d", frozen.err, re.M)


def test_all_epochs_of_a_head_are_one_line(cli, dataset):
    done = cli("train", dataset.name, *HEAD, "--epochs", 40)
    assert done.err.count("epoch 4") <= 1
    assert re.search(r"^40 epochs in .* best: epoch \d+, val loss .*, accuracy", done.err, re.M)
    assert len(done.raw_err.splitlines()) < 30


def test_quiet_prints_warnings_and_the_result_only(cli, dataset):
    done = cli("train", dataset.name, *HEAD, "--epochs", 2, "--quiet")
    first, *rest = done.err.splitlines()
    assert first == "warning: " + (
        "only the head trains, on a backbone of random weights: expect low accuracy"
    )
    assert rest[0].startswith(("done", "warning: "))
    assert "recipe" not in done.err
    assert done.out == "runs/colours-1\n"


def test_only_spaces_are_broken():
    text = "a " * 50 + "/a/path/that/is/" + "x" * 100 + " end\n  --flag " + "b" * 90
    lines = wrapped(text).splitlines()
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in lines)
    assert lines[1].startswith("    a")
    assert re.sub(r"\n {4}", " ", wrapped(text)) == text


# Time


def test_durations_are_read_as_they_are_given():
    assert [parse_duration(text) for text in ("90s", "10m", "1h", "1h30m")] == [90, 600, 3600, 5400]
    for text in (" ", "10", "m", "0s", "1d", "-5m", "5 m x"):
        with pytest.raises(ValueError, match=re.escape(text)):
            parse_duration(text)
    assert [duration_text(one) for one in (0.04, 59, 95, 3599, 7200)] == (
        ["0.0 s", "59 s", "2 min", "1 h", "2 h"]
    )


@pytest.mark.parametrize(
    ("epochs", "steps", "step_s", "first_s", "val_s", "later"),
    [
        (90, 5, 9.0, 20.0, 6.0, 1.0),  # a large network on few images
        (12, 50, 0.5, 4.0, 3.0, 0.9),  # the embedded network, decoded images cached
        (3, 1000, 0.1, 5.0, 12.0, 0.95),  # a GPU
        (30, 6, 0.3, 2.0, 0.5, 0.85),
        (1, 40, 2.0, 8.0, 10.0, 1.0),  # a single epoch
    ],
)
def test_the_first_estimate_is_within_a_quarter(
    monkeypatch, epochs, steps, step_s, first_s, val_s, later
):
    """Simulated: three slow steps at first, and faster epochs after the first one."""
    now, announced, lefts = [0.0], [], []
    monkeypatch.setattr(time_estimate.time, "perf_counter", lambda: now[0])
    estimate = TimeEstimate(
        epochs, steps, 0.8 * val_s / step_s, lambda left: announced.append((now[0], left))
    )
    for epoch in range(epochs):
        estimate.begin_epoch(0)
        for step in range(steps):
            slow = first_s if epoch == 0 and step < 3 else 0.0
            now[0] += step_s * (later if epoch else 1.0) + slow
            left = estimate.after_step(epoch, step + 1)
            if left is not None:
                lefts.append((now[0], left))
        now[0] += val_s
        estimate.end_epoch()
    ((at, left),) = announced
    assert at <= 3 * first_s + 11 * step_s + 2 * val_s, "after ten steps"
    assert abs(left - (now[0] - at)) <= 0.25 * (now[0] - at)
    at, left = lefts[-1]
    assert math.isclose(left, now[0] - at, rel_tol=0.2, abs_tol=0.2 * val_s)


def test_from_the_second_epoch_the_estimate_is_of_its_own_steps(monkeypatch):
    """Simulated: images are decoded in the first epoch; the first validation is slow, too."""
    now, lefts = [0.0], {}
    monkeypatch.setattr(time_estimate.time, "perf_counter", lambda: now[0])
    estimate = TimeEstimate(10, 20, 4.0, lambda _: None)
    for epoch in range(10):
        estimate.begin_epoch(0)
        for step in range(20):
            now[0] += (1.0 if epoch else 6.0) + (2.0 if step == 0 else 0.0)
            lefts[epoch, step] = now[0], estimate.after_step(epoch, step + 1)
        now[0] += 4.0 if epoch else 90.0
        estimate.end_epoch()
    for at, left in (lefts[1, 3], lefts[1, 19], lefts[2, 5]):
        assert left == pytest.approx(now[0] - at, rel=0.15)


def test_the_time_of_a_resumed_training_is_of_the_epochs_left(monkeypatch):
    monkeypatch.setattr(fit, "SHORT_S", 0.0)
    monkeypatch.setattr(time_estimate, "MIN_S", 0.0)
    notes, events, report = [], [], swinclf.Reporter()
    report.note, report.record = notes.append, lambda *event: events.append(event)
    config = SimpleNamespace(epochs=90, img_size=32, train_size=32, patience=0)
    batches = SimpleNamespace(train_count=400, val_count=0, batch_size=4)
    plan = SimpleNamespace(config=config, start=SimpleNamespace(regime=Regime.PART))
    estimate = fit._time_estimate(plan, batches, report, done=60)
    estimate.begin_epoch(0)
    for step in range(12):
        estimate.after_step(60, step + 1)
    assert re.fullmatch(r"about .* for the 30 epochs left \(until .*\)", notes[0])
    ((kind, values),) = events
    assert (kind, values["epochs"]) == ("estimate", 30)


def test_a_validation_of_a_convolutional_network_is_cheaper():
    config = SimpleNamespace(epochs=3, img_size=224, train_size=160, patience=0)
    batches = SimpleNamespace(train_count=1280, val_count=320, batch_size=32)

    def estimated(regime):
        start = SimpleNamespace(regime=regime, network=nn.Sequential(nn.Conv2d(3, 8, 3)))
        plan = SimpleNamespace(config=config, start=start)
        return fit._time_estimate(plan, batches, swinclf.Reporter(), done=0)._val_steps

    assert estimated(Regime.FULL) == pytest.approx(0.18 * 1.96 * 10)
    assert estimated(Regime.PART) == pytest.approx(1.96 * 10 / 3)


def test_the_time_is_said_once_and_what_would_be_faster(cli, dataset, monkeypatch):
    flags = [word if word != "2" else "4" for word in SMALL_FLAGS]
    monkeypatch.setattr(fit, "SHORT_S", 0.0)
    monkeypatch.setattr(time_estimate, "MIN_S", 0.0)
    done = cli("train", dataset, *flags)
    assert len(re.findall(r"^about .* for 4 epochs \(until \d\d:\d\d\)$", done.err, re.M)) == 1
    assert "faster:" not in done.err
    (event,) = (e for e in read_events(Path(done.out.strip())) if e["event"] == "estimate")
    assert event["seconds"] > 0
    assert event["epochs"] == 4
    monkeypatch.setattr(fit, "LONG_S", 0.0)
    done = cli("train", dataset, *flags, "--patience", 3)
    assert "at most about " in done.err
    assert "faster: --model embedded" in done.err


@pytest.mark.parametrize(
    ("is_trained", "regime", "words"),
    [
        (False, Regime.FULL, "64.1 % instead of 30.0 %"),
        (True, Regime.FULL, "(4.5 points less accurate on photographs of flowers, docs/recipe.md)"),
        (True, Regime.PART, "--epochs 15 takes half, at some cost in accuracy"),
        (True, Regime.HEAD, "--epochs 6; a head rarely becomes more accurate"),
    ],
)
def test_what_is_faster_has_its_cost_in_accuracy(is_trained, regime, words):
    start = SimpleNamespace(trained_weights=is_trained, regime=regime)
    plan = SimpleNamespace(config=SimpleNamespace(epochs=30), start=start)
    assert words in fit._faster(plan)


def test_what_was_done_before_does_not_count_in_the_rate(monkeypatch, capsys):
    """A resumed epoch: its first images were read by another process."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with ConsoleReporter().track("epoch 2/8", 7000, done=600) as advance:
        now[0] = 20.0
        advance(100)
    assert capsys.readouterr().err == "epoch 2/8: 700/7,000 images, 5 images/s, 21 min left\n"


def test_a_rate_below_one_is_not_zero(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with ConsoleReporter().track("cross-validating", 40, "folds") as advance:
        now[0] = 40.0
        advance(7)
    assert capsys.readouterr().err == "cross-validating: 7/40 folds, 0.17 folds/s, 3 min left\n"


def test_the_table_of_a_resumed_training_has_no_empty_line():
    training = terminal._Training(terminal.error_console(), has_table=True, is_head=False)
    training.add(row(5), total=8, best=False)
    assert training._table().renderables[0].plain.startswith("epoch 5/8")


# The plan


def test_a_dry_run_writes_nothing(cli, dataset, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = cli("train", dataset, *SMALL_FLAGS, "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["settings"]["epochs"] == 2
    assert plan["images"]["train"] + plan["images"]["val"] == 36
    cost = plan["forecast"]
    assert cost["seconds"] == pytest.approx(
        cost["features_s"] + cost["epochs_s"] + cost["evaluation_s"]
    )
    assert cost["epochs_s"] > 0
    assert cost["disk_bytes"] > 1e5
    for said in ("drop-path 0.1 (the network trains)", "time    about ", "disk    ", "evaluation"):
        assert said in done.err
    assert "0 once cached" not in done.err, "no features are computed"
    assert sorted(tmp_path.rglob("*")) == before
    quiet = cli("train", dataset, *SMALL_FLAGS, "--epochs", 1, "--dry-run", "--quiet")
    assert quiet.code == 0, quiet.err
    assert "recipe:" not in quiet.err
    refused = cli("train", "--resume", "x", "--dry-run")
    assert refused.code != 0


def test_a_dry_run_refuses_what_a_training_refuses(cli, dataset, tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "splits" / "train").parent
    write_dataset(data / "test", per_class=1)
    (dataset / "red" / "broken.png").write_bytes(b"no image")
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    monkeypatch.setattr("swinclf.training.compilation.why_no_compiler", lambda _: "no g++")
    for words, expected in (
        ((data, "--test-split", "0.2"), "--test-split for a dataset without a test folder"),
        ((dataset, "--strict"), "only readable image files, as --strict requires"),
        ((dataset, "--compile", "on"), "a compiler that torch.compile can use on cpu"),
        ((dataset, "--name", "taken"), "a --name that is free in 'runs'"),
        ((dataset, "--out", dataset / "runs"), "--out outside the dataset"),
    ):
        errors = [cli("train", *words, *SMALL_FLAGS, *dry) for dry in ((), ("--dry-run",))]
        assert error_lines(errors[0]) == error_lines(errors[1]), words
        assert error_lines(errors[1])[0].startswith(expected)


def evaluation_s(counts, forward_s, *, regime=Regime.FULL, **config):
    """The forecast of the evaluation of a training on so many images of each split."""
    images = tuple(
        ImageFile(f"{split}/{number}", "a", split)
        for split, count in counts.items()
        for number in range(count)
    )
    settings = {"epochs": 0, "mirror": False, "folds": 0, "test_split": 0.0} | config
    start = SimpleNamespace(regime=regime, extracts_features=False, bytes_on_disk=0)
    dataset = FolderIndex(Path(), ("a",), images, (), has_val=False)
    plan = Plan(None, SimpleNamespace(**settings), start, dataset, None)
    return forecast.forecast(plan, forward_s, 0.0).evaluation_s


@pytest.mark.parametrize(
    ("counts", "test_split", "images"),
    [
        ({"train": 100, "val": 20}, 0.0, 100 + 20 + 20),
        ({"train": 10_000, "val": 6000}, 0.0, 2000 + 5000 + 6000),  # samples, and all of them
        ({"train": 100, "val": 20, "test": 30}, 0.2, 100 + 20 + 30),
        ({"train": 100, "val": 20, "test": 30}, 0.0, 100 + 20 + 20),  # in a folder, for eval
        ({"train": 100}, 0.0, 100),  # nothing to calibrate on
    ],
)
def test_a_forecast_counts_the_images_that_the_network_runs_on(counts, test_split, images):
    costs = [evaluation_s(counts, one, test_split=test_split) for one in (0.0, 1.0)]
    assert costs[1] - costs[0] == pytest.approx(images)


def test_a_forecast_counts_the_heads_of_a_cross_validation():
    costs = [evaluation_s({"train": 100}, 0.0, regime=Regime.HEAD, folds=k) for k in (0, 5)]
    assert costs[1] - costs[0] == pytest.approx(5 * 100 * forecast.PROBE_IMAGE_S)


def test_the_size_of_each_split_is_known_before_an_image_is_read():
    images = tuple(ImageFile(f"a/{number}", "a", "") for number in range(200))
    index = FolderIndex(Path(), ("a",), images, (), has_val=False)
    counts = Counter(
        one.split for one in forecast.rough_dataset(index, SplitRule(0.2, 0.15)).images
    )
    for split, count in (("train", 130), ("val", 40), ("test", 30)):
        assert counts[split] == pytest.approx(count, abs=2)
    assert not forecast.rough_dataset(index, SplitRule(0.0)).rows("val")


def test_a_dry_run_says_that_a_teacher_is_not_included(cli, dataset):
    done = cli("train", dataset, *HEAD, "--teacher", "x", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert "the forecast does not include the teacher" in done.err
    assert json.loads(done.out)["settings"]["epochs"] > 0, "no linear probe is a student"


def fixed_speed(monkeypatch, *, forward_s, train_s):
    """As if the machine had this speed, so that the choice does not depend on it."""
    for module in (budget, forecast):
        monkeypatch.setattr(module, "measure_forward", lambda *_: forward_s)
        monkeypatch.setattr(module, "measure_training", lambda *_: train_s)


@pytest.mark.parametrize(
    ("train_s", "given", "wanted"),
    [
        (1.0, {}, {"freeze_layers": False, "epochs": 30, "patience": 10}),
        (10.0, {}, {"freeze_layers": False, "epochs": 20, "patience": 6}),
        (1e3, {}, {"freeze_layers": True}),
        (1.0, {"folds": 3}, {}),  # which are of the head alone
        (1.0, {"val_split": 0.7}, {"freeze_layers": False, "epochs": 30, "patience": 10}),
        (10.0, {"epochs": 5}, {"freeze_layers": False}),
        (1e3, {"freeze_layers": False, "epochs": 5}, {}),  # obeyed, though it does not fit
        (1e3, {"freeze_layers": False}, {"epochs": 1, "patience": 3, "img_size": 128}),
    ],
)
def test_a_budget_decides_what_is_not_given(dataset, monkeypatch, train_s, given, wanted):
    from swinclf.data.folder import scan_folder
    from swinclf.device import Hardware, Precision, StopFlag
    from swinclf.pipeline.plan import Context
    from swinclf.settings import gather_settings

    warnings = []
    report = swinclf.Reporter()
    report.warn = warnings.append
    fixed_speed(monkeypatch, forward_s=0.001, train_s=train_s)
    settings = gather_settings({"data": str(dataset), "model": "embedded", **given})
    context = Context(Hardware("cpu", Precision.FP32, ""), report, StopFlag())
    chosen = budget.fit_budget(settings, 6000.0, scan_folder(dataset), context)
    reasons = dict(chosen.reasons)
    assert reasons.pop("compile") == "--budget does not include compiling"
    assert {name: getattr(chosen.config, name) for name in reasons} == wanted
    assert all(one.startswith("to fit --budget 100m: about ") for one in reasons.values())
    assert {name: getattr(chosen.config, name) for name in given} == given
    assert bool(warnings) == (train_s == 1e3 and "freeze_layers" in given)


def test_what_a_budget_has_chosen_is_repeated_from_the_config(cli, dataset, tmp_path, monkeypatch):
    fixed_speed(monkeypatch, forward_s=0.001, train_s=10.0)
    words = [word for word in SMALL_FLAGS if word not in ("--epochs", "2")]
    done = cli("train", dataset, *words, "--budget", "1000s", "--name", "first")
    assert done.code == 0, done.err
    first = json.loads((tmp_path / "runs/first/config.json").read_text("utf-8"))
    assert "budget 1000s: epochs 3, patience 3, about" in done.err
    assert first["sources"]["epochs"] == "auto"
    assert "--epochs 3 " in first["command"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = cli("train", "--config", "runs/first/config.json")
    assert done.out.strip() == "runs/colours-1", "the name is taken"
    second = json.loads((tmp_path / "runs/colours-1/config.json").read_text("utf-8"))
    assert [second[name] for name in ("epochs", "patience", "lr")] == (
        [first[name] for name in ("epochs", "patience", "lr")]
    )
    assert cli("train", dataset, "--budget", "soon").code == 2


# The result


def test_the_result_as_json_and_every_event(cli, dataset, tmp_path):
    done = cli("train", dataset, *SMALL_FLAGS, "--json")
    result = json.loads(done.out)
    run = Path(result["run"])
    metrics = json.loads((tmp_path / run / "metrics.json").read_text("utf-8"))
    assert {name: result[name] for name in ("accuracy", "accuracy_ci95", "split")} == (
        {name: metrics[name] for name in ("accuracy", "accuracy_ci95", "split")}
    )
    assert 1 / 3 <= result["majority_accuracy"] < 1
    events = read_events(tmp_path / run)
    kinds = [event["event"] for event in events]
    assert kinds.count("plan") == kinds.count("result") == 1
    assert [one["epoch"] for one in events if one["event"] == "epoch"] == [1, 2]
    assert events[-1] | result == events[-1], "the result has all that is printed"
    assert [one["time"] for one in events] == sorted(one["time"] for one in events)
    plan = events[kinds.index("plan")]
    assert plan["settings"]["epochs"] == 2
    notes = [one["text"] for one in events if one["event"] == "note"]
    assert any(text.startswith("recipe: ") for text in notes)


def test_events_are_appended_on_resume(dataset, tmp_path):
    class Stop(swinclf.Reporter):
        def epoch(self, row, *, total, best):  # noqa: ARG002
            raise KeyboardInterrupt

    from conftest import SMALL_SETTINGS, resume_run

    with pytest.raises(KeyboardInterrupt):
        swinclf.train(dataset, report=Stop(), out=tmp_path / "runs", **SMALL_SETTINGS)
    run = resume_run(tmp_path / "runs" / "colours-1")
    kinds = [one["event"] for one in read_events(run)]
    assert kinds.count("plan") == 2
    assert kinds[-1] == "result"


def test_the_report_is_opened(cli, dataset, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr("webbrowser.open", lambda page: pages.append(page) or True)
    done = cli("train", dataset, *HEAD, "--epochs", 1, "--open")
    assert pages == [(tmp_path / done.out.strip() / "report.html").as_uri()]


def test_a_result_near_guessing_is_a_warning(cli, tmp_path):
    same = {"one": (90, 90, 90), "two": (90, 90, 90)}
    data = write_dataset(tmp_path / "same", per_class=10, colours=same)
    done = cli("train", data, *SMALL_FLAGS)
    assert "not significantly better than always answering the largest class (" in done.err
    assert "\ndone, but read the warning\n" in done.err
    assert "always answering the largest class: " in done.err
    assert len(read_rows(tmp_path / "runs" / "same-1" / "history.csv")) == 2


def test_an_exploded_loss_is_a_warning():
    import numpy as np

    good = metrics_from("ab", np.array([[0.9, 0.1], [0.1, 0.9]] * 50), [0, 1] * 50)
    assert list(result_warnings(good, [row(1), row(2, 0.5)])) == []
    (text,) = result_warnings(good, [row(1), row(2, 12_684.0)])
    assert "exploded: 1.268e+04" in text


def test_events_are_valid_json_whatever_their_numbers(tmp_path):
    claim = SimpleNamespace(run=SimpleNamespace(path=tmp_path))
    log = EventLog(SILENT, claim)
    log.record("result", {"loss": math.nan, "ci": [math.inf, 1.5], "of": {"é": -math.inf}})
    line = (tmp_path / "events.jsonl").read_text("ascii")
    event = json.loads(line, parse_constant=pytest.fail)
    assert (event["loss"], event["ci"], event["of"]) == (None, [None, 1.5], {"é": None})
