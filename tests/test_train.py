"""Training: the files of a run and how they agree, what each regime changes, what is chosen."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from conftest import (
    COLOURS,
    SMALL_FLAGS,
    SMALL_MODEL,
    SMALL_SETTINGS,
    error_lines,
    read_rows,
    same_weights,
    weights_of,
    write_dataset,
    write_image,
)
from safetensors import safe_open
from torch import nn

import swinclf
from swinclf.commands import train as train_verb
from swinclf.config import SETTINGS, OptimizerName
from swinclf.data import loader
from swinclf.device import Hardware, Precision
from swinclf.errors import ConfigError
from swinclf.models.compute import Computer
from swinclf.pipeline import prepare
from swinclf.pipeline.plan import _warn_of_settings
from swinclf.reporter import SILENT
from swinclf.training import loop
from swinclf.training.defaults import (
    ClassWeights,
    Regime,
    class_weights,
    default_batch_size,
    default_micro_batch,
    is_sided,
)
from swinclf.training.gradient import LocalGradient
from swinclf.training.linear_probe import Probe
from swinclf.training.schedule import Schedule
from swinclf.training.state import build_state

# So near each other that a short training confuses them.
NEAR = {"a grey": (120, 120, 120), "b grey": (128, 124, 120), "c grey": (120, 128, 132)}
HISTORY = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds,images_per_second"


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """A run that gets some of its images wrong, so that its measures are no ones and zeros."""
    root = tmp_path_factory.mktemp("mistaken")
    data = write_dataset(root / "greys", per_class=40, colours=NEAR)
    (data / "a grey" / "broken.jpg").write_bytes(b"no picture")
    settings = {**SMALL_SETTINGS, "val_split": 0.4, "epochs": 3, "lr": 3e-4}
    return swinclf.train(data, out=str(root / "runs"), **settings), data


class Notes:
    """A reporter that stores the notes."""

    def __init__(self, notes):
        self.note = notes.append

    def __getattr__(self, name):
        return getattr(SILENT, name)


@pytest.fixture
def spied_steps(monkeypatch):
    """What every training step saw: (model, rates of the groups before it, images)."""
    seen = []
    step = loop._train_step

    def spy(state, batch, schedule, hardware):
        seen.append(
            (state.model, [group["lr"] for group in state.optimizer.param_groups], len(batch[1]))
        )
        step(state, batch, schedule, hardware)

    monkeypatch.setattr(loop, "_train_step", spy)
    return seen


# --- the files of a run -------------------------------------------------------------------------


def test_a_finished_run_holds_exactly_its_files(mistaken):
    run, _ = mistaken
    files = {path.name for path in run.folder.path.iterdir()}
    assert files == {
        *("config.json", "class_indices.json", "split.csv", "skipped.csv", "history.csv"),
        "events.jsonl",
        *("model.safetensors", "neighbours.safetensors", "metrics.json", "predictions.csv"),
        *("confusion_matrix.png", "confusion_matrix.csv", "curves.png", "report.html", "samples"),
    }


def test_without_a_bad_file_nothing_is_listed_as_skipped(trained):
    assert not (trained.path / "skipped.csv").exists()
    assert not (trained.path / "last.ckpt").exists()


def test_skipped_files_are_listed_with_their_reason(mistaken):
    run, _ = mistaken
    rows = read_rows(run.folder.skipped)
    assert [row["path"] for row in rows] == ["a grey/broken.jpg"]
    assert rows[0]["reason"]
    assert [one.path for one in run.skipped] == ["a grey/broken.jpg"]


def test_metrics_agree_with_sklearn_on_the_predictions(mistaken):
    run, _ = mistaken
    metrics = json.loads(run.folder.metrics.read_text("utf-8"))
    rows = read_rows(run.folder.path / "predictions.csv")
    truth = [row["label"] for row in rows]
    said = [row["predicted"] for row in rows]
    classes = metrics["classes"]
    assert 0.2 < metrics["accuracy"] < 1, "the fixture has to make mistakes"
    assert metrics["split"] == "val"
    assert metrics["images"] == len(rows)
    assert metrics["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    balanced = reference.balanced_accuracy_score(truth, said)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced)
    f1 = reference.f1_score(truth, said, average="macro", zero_division=0)
    assert metrics["macro_f1"] == pytest.approx(f1)
    matrix = reference.confusion_matrix(truth, said, labels=classes)
    assert metrics["confusion_matrix"] == matrix.tolist()
    values = reference.precision_recall_fscore_support(truth, said, labels=classes, zero_division=0)
    for name, *wanted in zip(classes, *values, strict=True):
        found = metrics["per_class"][name]
        keys = ("precision", "recall", "f1", "support")
        assert [found[key] for key in keys] == pytest.approx(wanted)
    low, high = metrics["accuracy_ci95"]
    assert 0 <= low < metrics["accuracy"] < high <= 1
    assert metrics["top5_accuracy"] == 1  # of three classes
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
    assert metrics.pop("skipped") == 1
    assert metrics.pop("verdict")["kinds"] == ["too few images"]
    assert run.metrics.to_dict() == metrics


def test_the_confusion_matrix_as_csv_is_the_one_in_the_metrics(mistaken):
    run, _ = mistaken
    metrics = json.loads(run.folder.metrics.read_text("utf-8"))
    rows = read_rows(run.folder.path / "confusion_matrix.csv")
    assert [row["true/predicted"] for row in rows] == metrics["classes"]
    found = [[int(row[name]) for name in metrics["classes"]] for row in rows]
    assert found == metrics["confusion_matrix"]


def test_predictions_are_of_the_held_out_images(mistaken):
    run, _ = mistaken
    split = read_rows(run.folder.split)
    held_out = [(row["path"], row["label"]) for row in split if row["split"] == "val"]
    rows = read_rows(run.folder.path / "predictions.csv")
    assert [(row["path"], row["label"]) for row in rows] == held_out


def test_class_names_are_the_same_everywhere(mistaken):
    run, _ = mistaken
    indices = json.loads(run.folder.class_indices.read_text("utf-8"))
    with safe_open(run.folder.model, framework="np") as file:
        metadata = file.metadata()
    assert indices == {"0": "a grey", "1": "b grey", "2": "c grey"}
    assert json.loads(metadata["classes"]) == list(indices.values())
    assert metadata["model"] == SMALL_MODEL
    assert json.loads(metadata["preprocessing"])["height"] == 32
    assert json.loads(metadata["calibration"])["temperature"] > 0
    assert json.loads(metadata["versions"])["swinclf"] == swinclf.__version__
    assert swinclf.load(run.folder.path).classes == ("a grey", "b grey", "c grey")


def test_the_split_is_disjoint_and_stratified(mistaken):
    run, data = mistaken
    rows = read_rows(run.folder.split)
    on_disk = {path.relative_to(data).as_posix() for path in data.glob("*/*.png")}
    assert len(rows) == len(on_disk)
    assert {row["path"] for row in rows} == on_disk
    assert all(row["path"].startswith(row["label"] + "/") for row in rows)
    for label in NEAR:
        held_out = [row["split"] for row in rows if row["label"] == label].count("val")
        assert held_out == 16  # of 40


def test_history_has_its_columns_and_a_row_an_epoch(mistaken):
    run, _ = mistaken
    assert run.folder.history.read_text("utf-8").splitlines()[0] == HISTORY
    rows = read_rows(run.folder.history)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["lr"]) == pytest.approx(3e-4 * 0.01)
    assert all(float(row["seconds"]) > 0 and float(row["images_per_second"]) > 0 for row in rows)


def test_the_metrics_are_those_of_the_epoch_of_least_loss(mistaken):
    run, _ = mistaken
    best = min(read_rows(run.folder.history), key=lambda row: float(row["val_loss"]))
    assert run.metrics.accuracy == pytest.approx(float(best["val_accuracy"]))
    assert run.metrics.loss <= float(best["val_loss"]) + 1e-4, "with a temperature if it helps"


def test_config_tells_every_value_and_where_it_came_from(mistaken, planned, dataset, tmp_path):
    saved = json.loads(mistaken[0].folder.config.read_text("utf-8"))
    assert (
        saved.keys() - {"sources", "reasons", "command", "versions", "data_from_run"}
        == SETTINGS.keys()
    )
    assert f"--model {SMALL_MODEL}" in saved["command"]
    (tmp_path / "mine.toml").write_text('min-crop = 0.5\nbatch_size = 4\nfit = "pad"\n')
    config, said = planned(dataset, *SMALL_FLAGS, "--config", tmp_path / "mine.toml")
    assert config["sources"].keys() == SETTINGS.keys()
    assert all(config[name] is not None for name in ("lr", "epochs", "workers", "device", "mirror"))
    wanted = {
        **dict.fromkeys(("data", "model", "epochs", "batch_size", "precision"), "flag"),
        **dict.fromkeys(("min_crop", "fit"), "file"),
        **dict.fromkeys(
            ("lr", "patience", "mirror", "augment", "device", "workers", "impl"), "auto"
        ),
        **dict.fromkeys(("seed", "lrf", "warmup", "val_split"), "default"),
    }
    assert {name: config["sources"][name] for name in wanted} == wanted
    assert (config["batch_size"], config["min_crop"], config["fit"]) == (8, 0.5, "pad")
    chosen = {name for name, source in config["sources"].items() if source == "auto"}
    assert config["reasons"].keys() == chosen
    for name, reason in config["reasons"].items():
        assert reason
        assert name == "device" or reason in said, name
    assert "batch 8, lr 0.00049" in said
    assert "3 classes" in said


def test_a_runs_own_config_gives_the_same_run_again(cli, dataset, tmp_path):
    first = Path(cli("train", dataset, *SMALL_FLAGS, "--seed", "3").out.strip())
    config = tmp_path / first / "config.json"
    second = cli("train", dataset, "--config", config)
    assert second.code == 0, second.err
    assert same_weights(weights_of(tmp_path / first), weights_of(tmp_path / second.out.strip()))


def test_samples_are_a_few_small_pictures(trained):
    from PIL import Image

    kept = sorted((trained.path / "samples").iterdir())
    assert 0 < len(kept) <= 16
    for path in kept:
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            assert max(picture.size) <= 48


def test_runs_are_numbered_a_name_is_used_once_and_latest_is_the_newest(cli, dataset, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in dataset.rglob("*"))
    for words, run in (((), "colours-1"), ((), "colours-2"), (("--name", "mine"), "mine")):
        assert cli("train", dataset, *SMALL_FLAGS, *words).out == f"runs/{run}\n"
        assert str((tmp_path / "runs" / "latest").readlink()) == run
    again = cli("train", dataset, *SMALL_FLAGS, "--name", "mine")
    assert again.code == 2
    assert "'mine' already exists" in error_lines(again)[1]
    assert cli("train", dataset, *SMALL_FLAGS, "--out", dataset / "runs").code == 2
    assert sorted((path, path.stat().st_mtime_ns) for path in dataset.rglob("*")) == before


# --- the frozen regime --------------------------------------------------------------------------


def test_a_hundred_frozen_epochs_read_no_image_again(dataset, tmp_path, monkeypatch):
    reads = []
    read = loader.image_bytes
    monkeypatch.setattr(loader, "image_bytes", lambda path: reads.append(path) or read(path))

    def reads_of(epochs):
        reads.clear()
        settings = {**SMALL_SETTINGS, "epochs": epochs, "freeze_layers": True}
        run = swinclf.train(dataset, out=str(tmp_path / "runs"), **settings)
        assert len(read_rows(run.folder.history)) == epochs
        return len(reads)

    assert reads_of(1) == reads_of(100) == 36


def test_a_frozen_backbone_keeps_every_bit(trained, tmp_path):
    others = {
        "warm": (220, 120, 30),
        "cold": (30, 120, 220),
        "dark": (20, 20, 20),
        "pale": (230,) * 3,
    }
    data = write_dataset(tmp_path / "others", colours=others)
    run = swinclf.train(
        data, weights=str(trained.path), epochs=20, precision="fp32", out=str(tmp_path / "runs")
    )
    before, after = weights_of(trained.path), weights_of(run.folder.path)
    heads = {"head.weight", "head.bias"}
    assert before.keys() == after.keys()
    assert all(
        before[name].tobytes() == after[name].tobytes() for name in before if name not in heads
    )
    assert after["head.weight"].shape[0] == 4
    assert np.abs(after["head.weight"]).max() > 0
    assert run.metrics.classes == ("cold", "dark", "pale", "warm")
    assert run.metrics.accuracy > 0.8, "features of one training serve the next"
    saved = json.loads(run.folder.config.read_text("utf-8"))
    assert (saved["model"], saved["img_size"], saved["freeze_layers"]) == (SMALL_MODEL, 32, True)
    assert {saved["sources"][name] for name in ("model", "img_size", "freeze_layers")} == {"auto"}


@pytest.mark.parametrize("name", [SMALL_MODEL, "test_swin"])
def test_a_folded_probe_gives_the_same_logits(name, tiny_swin):  # noqa: ARG001 - made known
    import timm

    network = timm.create_model(name, num_classes=5, img_size=32)
    computer = Computer(network, Hardware("cpu", Precision.FP32, ""))
    inputs = torch.randn(7, 3, 32, 32)
    features = computer.features(inputs)
    probe = Probe(features, 5)
    torch.nn.init.normal_(probe.linear.weight)
    torch.nn.init.normal_(probe.linear.bias)
    probe.install(network)
    torch.testing.assert_close(
        computer.logits(inputs), probe(features).detach(), rtol=1e-4, atol=1e-4
    )


def test_with_a_frozen_network_the_head_alone_is_trained(dataset, tmp_path, spied_steps):
    settings = {**SMALL_SETTINGS, "freeze_layers": True}
    swinclf.train(dataset, out=str(tmp_path / "runs"), **settings)
    assert {type(model) for model, _, _ in spied_steps} == {Probe}


# --- part of the network ------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "count"), [(SMALL_MODEL, 0), (SMALL_MODEL, 2), ("test_swin", 2)])
def test_freeze_stages_changes_exactly_what_is_above(
    dataset, tmp_path, monkeypatch, tiny_swin, model, count
):
    del tiny_swin
    modes = {}
    step = loop._train_step

    def spy(state, *rest):
        if not isinstance(state.model, Probe):
            modes.update({name: one.training for name, one in state.model.named_modules()})
        step(state, *rest)

    first = swinclf.train(
        dataset, out=str(tmp_path / "runs"), **{**SMALL_SETTINGS, "model": model, "epochs": 1}
    )
    monkeypatch.setattr(loop, "_train_step", spy)
    second = swinclf.train(
        dataset,
        weights=str(first.folder.path),
        out=str(tmp_path / "runs"),
        **{**SMALL_SETTINGS, "model": model, "freeze_stages": count, "lr": 1e-2},
    )
    before, after = weights_of(first.folder.path), weights_of(second.folder.path)

    def is_frozen(name):
        part, _, rest = name.partition(".")
        if part in ("blocks", "layers"):
            return int(rest.partition(".")[0]) < count
        return part in ("cls_token", "pos_embed", "patch_embed")

    for name in before:
        unchanged = before[name].tobytes() == after[name].tobytes()
        assert unchanged == is_frozen(name), name
    for name, is_training in modes.items():
        if any(parameter.startswith(f"{name}.") for parameter in before) and name:
            below = [one for one in before if one.startswith(f"{name}.")]
            assert is_training == (not all(map(is_frozen, below))), name
    saved = json.loads(second.folder.config.read_text("utf-8"))
    assert (saved["freeze_stages"], saved["freeze_layers"]) == (count, False)


# --- the whole network --------------------------------------------------------------------------


def test_fine_tuning_starts_from_the_baselines_head(trained, tmp_path, monkeypatch, cli):
    fitted, first = [], []
    fit_baseline, step = prepare.fit_baseline, loop._train_step

    def spy_fit(*arguments, **options):
        fitted.append(fit_baseline(*arguments, **options))
        return fitted[0]

    def spy_step(state, *rest):
        if not first:
            head = state.model.get_classifier()
            first.append((head.weight.detach().cpu().clone(), head.bias.detach().cpu().clone()))
        step(state, *rest)

    monkeypatch.setattr(prepare, "fit_baseline", spy_fit)
    monkeypatch.setattr(loop, "_train_step", spy_step)
    done = cli(
        "train", trained.data, "--weights", trained.path, "--no-freeze-layers", *SMALL_FLAGS[3:]
    )
    assert done.code == 0, done.err
    probe = fitted[0].probe
    weight = probe.linear.weight / probe.std
    assert torch.equal(first[0][0], weight.detach())
    assert torch.equal(first[0][1], (probe.linear.bias - weight @ probe.mean).detach())
    assert "linear probe (L-BFGS): validation accuracy 100.0 %, fitted in " in done.err
    assert "used as the initial head" in done.err
    before = weights_of(trained.path)
    after = weights_of(tmp_path / done.out.strip())
    assert all(before[name].tobytes() != after[name].tobytes() for name in before)


@pytest.mark.parametrize("how", [["--no-freeze-layers"], ["--freeze-stages", "2"], []])
def test_a_training_that_ends_below_the_baseline_keeps_the_baseline(
    trained, tmp_path, cli, how, monkeypatch
):
    monkeypatch.setattr(loop, "validate", lambda *_: (1.0, 0.25))
    done = cli("train", trained.data, "--weights", trained.path, *SMALL_FLAGS[3:], *how)
    assert done.code == 0, done.err
    assert "validation accuracy of the linear probe (100.0 %): the model is the probe" in done.err
    run = tmp_path / done.out.strip()
    before, after = weights_of(trained.path), weights_of(run)
    heads = {"head.weight", "head.bias"}
    for name in before:
        assert (before[name].tobytes() == after[name].tobytes()) == (name not in heads), name
    assert json.loads((run / "metrics.json").read_text("utf-8"))["accuracy"] == 1
    saved = json.loads((run / "baseline.json").read_text("utf-8"))
    assert (saved["val_accuracy"], saved["train_images"]) == (1.0, 30)


def test_a_training_as_good_as_the_baseline_is_kept(trained, tmp_path, cli, monkeypatch):
    monkeypatch.setattr(loop, "validate", lambda *_: (9.0, 1.0))
    done = cli("train", trained.data, "--weights", trained.path, *SMALL_FLAGS[3:], "--lr", "0.01")
    assert "the model is the probe" not in done.err
    saved = json.loads((tmp_path / done.out.strip() / "baseline.json").read_text("utf-8"))
    assert saved["l2"] > 0


@pytest.mark.parametrize(
    ("select", "errors", "is_probe"),
    [("loss", 0.9, False), ("loss", 1.1, True), ("accuracy", 0.9, True)],
)
def test_by_loss_an_epoch_may_be_a_standard_error_less_accurate_than_the_baseline(
    trained, cli, monkeypatch, select, errors, is_probe
):
    """Or the floor would select by accuracy, which is mostly luck on few images."""
    fit_baseline = prepare.fit_baseline
    monkeypatch.setattr(
        prepare,
        "fit_baseline",
        lambda *one, **two: replace(fit_baseline(*one, **two), accuracy=0.8),
    )
    monkeypatch.setattr(
        loop,
        "validate",
        lambda _, batches, *__: (1.0, 0.8 - errors * 0.4 / math.sqrt(batches.val_count)),
    )
    done = cli(
        "train", trained.data, "--weights", trained.path, *SMALL_FLAGS[3:], "--no-freeze-layers",
        "--select", select,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert ("the model is the probe" in done.err) == is_probe


def test_an_interrupted_baseline_leaves_no_run(trained, tmp_path, cli, monkeypatch):
    fit_baseline = prepare.fit_baseline

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return fit_baseline(*arguments, **options)

    monkeypatch.setattr(prepare, "fit_baseline", interrupted)
    done = cli("train", trained.data, "--weights", trained.path, *SMALL_FLAGS[3:])
    assert done.code == 130
    assert not list(tmp_path.glob("runs/[!.]*"))


def test_a_random_network_starts_from_no_probe(dataset, tmp_path, spied_steps):
    swinclf.train(dataset, out=str(tmp_path / "runs"), **SMALL_SETTINGS)
    assert not any(isinstance(model, Probe) for model, _, _ in spied_steps)
    assert not list(tmp_path.glob("runs/*/baseline.json"))


def test_layer_decay_is_chosen_by_the_network_and_only_for_trained_weights(trained, planned):
    fine, _ = planned(
        trained.data, "--weights", trained.path, "--no-freeze-layers", *SMALL_FLAGS[3:]
    )
    scratch, _ = planned(trained.data, *SMALL_FLAGS)
    assert (fine["layer_decay"], scratch["layer_decay"]) == (0.75, 1.0)


def test_a_convolutional_network_has_a_recipe_of_its_own(trained, tmp_path, monkeypatch):
    shapes = []
    step = loop._train_step

    def spy(state, batch, schedule, hardware):
        shapes.append((tuple(batch.inputs.shape[2:]), state.frozen_statistics))
        assert not any(
            one.training
            for one in state.model.modules()
            if state.frozen_statistics and isinstance(one, torch.nn.BatchNorm2d)
        )
        step(state, batch, schedule, hardware)

    monkeypatch.setattr(loop, "_train_step", spy)
    settings = {**SMALL_SETTINGS, "model": "embedded", "img_size": 96, "epochs": 1}
    del settings["pretrained"]
    chosen = []
    for pretrained in (True, False):
        run = swinclf.train(
            trained.data,
            pretrained=pretrained,
            freeze_layers=False,
            out=str(tmp_path),
            **settings,
        )
        saved = json.loads(run.folder.config.read_text("utf-8"))
        assert saved["reasons"]["train_size"] == "random crops enlarge objects"
        names = ("train_size", "layer_decay", "optimizer", "lr", "augment")
        chosen.append(tuple(saved[name] for name in names))
    assert chosen == [
        (64, 0.9, "adamw", 0.00049, "crop"),
        (64, 1.0, "muon", 0.00049, "trivial"),
    ]
    assert shapes == [((64, 64), True)] * 4 + [((64, 64), False)] * 4
    with safe_open(run.folder.model, framework="np") as file:
        assert json.loads(file.metadata()["preprocessing"])["height"] == 96


def test_a_transformer_sees_one_size_in_training_and_in_prediction(cli, dataset):
    done = cli("train", dataset, *SMALL_FLAGS, "--train-size", "24")
    assert done.code == 2
    expected, found, hint = error_lines(done)
    assert "--train-size 32" in expected
    assert found == "24"
    assert "--img-size" in hint
    assert cli("train", dataset, *SMALL_FLAGS, "--train-size", "32").code == 0


def test_a_rate_that_destroys_trained_weights_is_warned_about(trained, planned):
    words = ("--weights", trained.path, "--no-freeze-layers", *SMALL_FLAGS[3:], "--lr", "0.01")
    _, said = planned(trained.data, *words)
    assert "warning: --lr 0.01 is known to destroy pretrained weights" in said


def test_settings_that_ignore_pixels_or_cannot_train_are_warned_about():
    with torch.device("meta"):
        network = nn.Module()
        network.patch_embed, network.head = nn.Module(), nn.Linear(4000, 4000)
        network.patch_embed.proj = nn.Conv2d(3, 8, 16, 16)

    def warnings(lr, img_size, images):
        said, report = [], swinclf.Reporter()
        report.warn = said.append
        plan = SimpleNamespace(
            config=SimpleNamespace(
                epochs=9, lr=lr, img_size=img_size, optimizer=OptimizerName.ADAMW, model="swin_big"
            ),
            start=SimpleNamespace(network=network, regime=Regime.FULL, trained_weights=False),
            dataset=SimpleNamespace(rows=lambda _: range(images)),
            settings=SimpleNamespace(is_given=lambda name: name in ("model", "img_size")),
            teacher_data=None,
        )
        _warn_of_settings(plan, report)
        return said

    rate, pixels, parameters = warnings(0.1, 100, 500)
    assert rate.startswith("--lr 0.1 is too high")
    assert "--img-size 100 does not end with a patch of 16 px: 4 rows" in pixels
    assert "swin_big has 16 million parameters" in parameters
    assert warnings(0.05, 96, 20_000) == []


# --- what is chosen, and what is obeyed ---------------------------------------------------------


def test_severe_imbalance_is_weighted_and_a_mild_one_is_not(dataset, planned):
    def weights():
        config, _ = planned(dataset, *SMALL_FLAGS)
        return config["class_weights"], config["sources"]["class_weights"]

    assert weights() == ("none", "auto")
    for number in range(12, 60):
        write_image(dataset / "blue" / f"{number:03d}.png", COLOURS["blue"], seed=number)
    for path in sorted((dataset / "red").iterdir())[4:]:
        path.unlink()
    assert weights() == ("balanced", "auto")


@pytest.mark.parametrize("kind", [ClassWeights.SQRT, ClassWeights.BALANCED])
def test_class_weights_are_one_on_average_over_the_images(kind):
    counts = [100, 25, 4]
    weights = class_weights(kind, counts)
    assert np.average(weights, weights=counts) == pytest.approx(1)
    power = 1 if kind is ClassWeights.BALANCED else 0.5
    assert weights[2] / weights[0] == pytest.approx(25**power)


def test_class_weights_reach_the_loss():
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    schedule = Schedule(
        epochs=1,
        lrf=1,
        warmup=0,
        clip_norm=0,
        label_smoothing=0,
        class_weights=torch.tensor([3.0, 0.5, 1.0]),
        patience=0,
    )
    model = torch.nn.Linear(3, 3)
    hardware = Hardware("cpu", Precision.FP32, "")
    state = build_state(model, torch.optim.SGD(model.parameters(), 0.0), hardware)
    model.weight.data.zero_()
    model.bias.data.zero_()
    gradient = LocalGradient(state, schedule, hardware)
    loop._train_step(state, loop.Batch(logits, targets), schedule, gradient)
    state.sums.fetch()
    assert state.sums.loss == pytest.approx(3.5 * math.log(3))


@pytest.mark.parametrize("settled", [set(), {0, 1, 2, 3, 4}, {1, 3}])
def test_sums_are_the_same_whenever_they_are_settled(settled):
    generator = torch.Generator().manual_seed(0)
    sums, loss, correct = loop.EpochSums(), 0.0, 0
    for number, size in enumerate((7, 1, 5, 7, 3)):
        logits = 100 * torch.randn(size, 4, generator=generator)
        targets = torch.randint(4, (size,), generator=generator)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        sums.add(losses, logits, targets)
        if number in settled:
            sums.fetch()
        loss += float(losses.double().sum())
        correct += int((logits.argmax(1) == targets).sum())
    sums.fetch()
    assert (sums.loss, sums.correct, sums.count) == (loss, correct, 23)  # to the bit
    assert sums.means() == (loss / 23, correct / 23)


@pytest.mark.parametrize(
    ("names", "mirror", "augment"),
    [
        (("0", "1"), False, "crop"),
        (("hand left", "hand right"), False, "crop"),
        (("copyright", "leftover"), True, "trivial"),
    ],
)
def test_mirroring_is_off_where_a_mirror_image_is_another_class(
    tmp_path, planned, names, mirror, augment
):
    colours = dict(zip(names, [(200, 40, 40), (40, 40, 200)], strict=True))
    data = write_dataset(tmp_path / "data", per_class=4, colours=colours)
    config, _ = planned(data, *SMALL_FLAGS)
    assert (config["mirror"], config["augment"]) == (mirror, augment)
    assert config["sources"]["mirror"] == "auto"


@pytest.mark.parametrize(
    ("name", "sided"),
    [
        *[(name, True) for name in ("7", "10", "b", "turn_left", "RightHand", "left-1", "LEFT")],
        *[(name, False) for name in ("bright", "rose 7", "cleft", "dog")],
    ],
)
def test_sides_in_class_names(name, sided):
    assert is_sided(name) == sided


def test_a_frozen_network_looks_at_mirror_images_where_mirroring_is_on(
    dataset, tmp_path, monkeypatch
):
    views = []
    build_feature_batches = train_verb.build_feature_batches

    def spy(*arguments):
        batches = build_feature_batches(*arguments)
        views.append(batches.train_features)
        return batches

    monkeypatch.setattr(train_verb, "build_feature_batches", spy)
    for mirror in (True, False):
        settings = {**SMALL_SETTINGS, "freeze_layers": True, "mirror": mirror}
        swinclf.train(dataset, out=str(tmp_path / "runs"), **settings)
    (both, plain) = views
    assert (both.shape[0], plain.shape[0]) == (2, 1)
    assert torch.equal(both[0], plain[0])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("freeze", [True, False])
def test_given_numbers_are_obeyed_exactly(dataset, tmp_path, spied_steps, freeze):
    run = swinclf.train(
        dataset,
        out=str(tmp_path / "runs"),
        **{
            **SMALL_SETTINGS,
            **{"epochs": 2, "batch_size": 5, "lr": 0.00123, "lrf": 0.25, "warmup": 0.3},
            "freeze_layers": freeze,
        },
    )
    trained_on = [row["split"] for row in read_rows(run.folder.split)].count("train")
    steps = math.ceil(trained_on / 5)
    assert len(spied_steps) == 2 * steps
    assert [images for *_, images in spied_steps[: steps - 1]] == [5] * (steps - 1)
    assert sum(images for *_, images in spied_steps) == 2 * trained_on
    rates = [max(rates) for _, rates, _ in spied_steps]
    warmup = int(0.3 * 2 * steps)
    assert rates.index(max(rates)) == warmup
    assert max(rates) == 0.00123
    assert rates[-1] == pytest.approx(0.00123 * 0.25)
    assert len(read_rows(run.folder.history)) == 2


@pytest.mark.parametrize(
    ("device", "images", "batch"),
    [("cpu", 10**6, 32), ("cuda", 6_399, 32), ("cuda:1", 6_400, 64), ("cuda", 12_800, 128)],
)
def test_a_gpu_gets_larger_batches_where_there_are_images_for_a_hundred(device, images, batch):
    assert default_batch_size(device, images)[0] == batch


@pytest.mark.parametrize(
    ("device", "batch", "side", "at_once"),
    [
        *[("cpu", 32, 224, 16), ("cpu", 16, 224, None), ("cpu", 64, 32, None)],
        *[("cpu", 32, 9000, 1), ("cuda", 128, 224, None)],
    ],
)
def test_a_cpu_takes_a_batch_of_large_pictures_in_parts(device, batch, side, at_once):
    assert default_micro_batch(device, batch, side) == at_once


def test_a_seed_chooses_another_split_and_other_weights(dataset, tmp_path):
    runs = [
        swinclf.train(dataset, out=str(tmp_path / "runs"), **{**SMALL_SETTINGS, "seed": seed})
        for seed in (0, 1)
    ]
    splits = [run.folder.split.read_text("utf-8") for run in runs]
    assert splits[0] != splits[1]
    assert not same_weights(*(weights_of(run.folder.path) for run in runs))


def test_all_problems_of_the_settings_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        swinclf.train("x", epoch=3, lr=-1.0, fit="stretch", freeze_layers=True, freeze_stages=1)
    for part in ("'epoch'", "did you mean 'epochs'", "lr is more than 0", "fit", "--freeze-stages"):
        assert part in error.value.found


def test_early_stopping_keeps_the_epoch_of_least_loss(dataset, tmp_path, monkeypatch):
    losses = iter([1.0, 0.8, 0.9, 0.9, 0.95, 0.9, 0.9, 0.9])
    accuracies = iter([0.2, 0.5, 0.9, 0.4, 0.9, 0.9, 0.1, 0.1])
    ended_with, notes = [], []

    def scripted(model, *_):
        ended_with.append({name: one.clone() for name, one in model.state_dict().items()})
        return next(losses), next(accuracies)

    monkeypatch.setattr(loop, "validate", scripted)
    settings = {**SMALL_SETTINGS, "epochs": 8, "patience": 3}
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), report=Notes(notes), **settings)
    history = read_rows(run.folder.history)
    assert [row["val_accuracy"] for row in history] == ["0.2", "0.5", "0.9", "0.4", "0.9", "0.9"]
    assert any("stopped after epoch 6" in note and "for 3 epochs" in note for note in notes)
    best = {name: one.cpu().numpy() for name, one in ended_with[1].items()}
    assert same_weights(weights_of(run.folder.path), best)


def test_patience_is_chosen_only_where_the_epochs_are(dataset, planned, monkeypatch):
    monkeypatch.setattr("swinclf.training.defaults._epochs_for", lambda _count: 4)
    given, chosen = (planned(dataset, *words)[0] for words in (SMALL_FLAGS, SMALL_FLAGS[:5]))
    assert [(one["epochs"], one["patience"]) for one in (given, chosen)] == [(2, 0), (12, 4)]


# --- the same again -----------------------------------------------------------------------------


def test_the_same_command_gives_the_same_head_whoever_reads_the_images(dataset, tmp_path):
    settings = {**SMALL_SETTINGS, "freeze_layers": True, "out": str(tmp_path / "runs")}
    runs = [swinclf.train(dataset, **settings, workers=workers) for workers in (0, 2)]
    assert same_weights(*(weights_of(run.folder.path) for run in runs))
    predictions = {(run.folder.path / "predictions.csv").read_bytes() for run in runs}
    assert len(predictions) == 1


def test_training_runs_in_bf16_and_keeps_float32_weights(dataset, tmp_path):
    run = swinclf.train(
        dataset,
        out=str(tmp_path / "runs"),
        **{**SMALL_SETTINGS, "precision": "bf16", "lr": 1e-3, "augment": "none", "epochs": 6},
    )
    assert {one.dtype for one in weights_of(run.folder.path).values()} == {np.dtype("float32")}
    assert run.metrics.accuracy > 0.8
    card = swinclf.load(run.folder.path)._predictor.card
    assert card.precision is Precision.BF16


# --- folders that say what is held out ----------------------------------------------------------


@pytest.fixture
def three_folders(tmp_path):
    """Folders train, val and test of the same classes and other images."""
    data = tmp_path / "three"
    for number, split in enumerate(("train", "val", "test")):
        write_dataset(data / split, per_class=4)
        for label, colour in COLOURS.items():
            for one in range(4):
                write_image(
                    data / split / label / f"{one:03d}.png", colour, seed=1000 * number + one
                )
    return data


def test_a_test_folder_is_scored_on_request_and_chooses_nothing(cli, three_folders, tmp_path):
    run = cli("train", three_folders, *SMALL_FLAGS).out.strip()
    rows = read_rows(tmp_path / run / "split.csv")
    assert {(row["path"].split("/")[0], row["split"]) for row in rows} == {
        ("train", "train"),
        ("val", "val"),
        ("test", "test"),
    }
    metrics = json.loads((tmp_path / run / "metrics.json").read_text("utf-8"))
    assert (metrics["split"], metrics["images"]) == ("val", 12)
    done = cli("eval", "--split", "test", "--output", tmp_path / "scores")
    assert done.code == 0, done.err
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text("utf-8"))
    assert (scores["split"], scores["images"]) == ("test", 12)
    predictions = read_rows(tmp_path / "scores" / "predictions.csv")
    assert all(row["path"].startswith("test/") for row in predictions)
    before = weights_of(tmp_path / run)
    shutil.rmtree(three_folders / "test")
    again = cli("train", three_folders, *SMALL_FLAGS).out.strip()
    assert same_weights(before, weights_of(tmp_path / again))


def test_val_names_another_folder(cli, dataset, tmp_path):
    write_dataset(tmp_path / "held", per_class=2)
    done = cli("train", dataset, *SMALL_FLAGS, "--val", tmp_path / "held")
    rows = read_rows(tmp_path / done.out.strip() / "split.csv")
    assert [row["split"] for row in rows].count("val") == 6
    assert [row["split"] for row in rows].count("train") == 36
    assert cli("eval", "--format", "json").code == 0


@pytest.mark.parametrize("freeze", ["--freeze-layers", "--no-freeze-layers"])
def test_without_a_val_split_everything_trains_and_the_last_epoch_is_kept(
    cli, dataset, tmp_path, freeze
):
    done = cli("train", dataset, *SMALL_FLAGS, "--val-split", "0", freeze)
    assert done.code == 0, done.err
    assert "training images (no validation images)" in done.err
    run = tmp_path / done.out.strip()
    assert {row["split"] for row in read_rows(run / "split.csv")} == {"train"}
    history = read_rows(run / "history.csv")
    assert [(row["val_loss"], row["val_accuracy"]) for row in history] == [("", ""), ("", "")]
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert (metrics["split"], metrics["images"]) == ("train", 36)
    assert (run / "curves.png").stat().st_size > 0
    scored = cli("eval", "--format", "json")
    assert json.loads(scored.out)["split"] == "train"
