"""A frozen network without --epochs and --lr: the head is the optimum that L-BFGS finds."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import timm
import torch
from conftest import (
    SMALL_MODEL,
    error_lines,
    read_rows,
    resume_run,
    same_weights,
    untimed_history,
    weights_of,
)
from PIL import Image
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

import swinclf
from swinclf.commands import train as train_verb
from swinclf.errors import ExitCode, Interrupted
from swinclf.metrics import PROBE_NOTE, SELECTION_NOTE
from swinclf.training import logistic_regression
from swinclf.training.logistic_regression import fits_all

FLAGS = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", "32", "--freeze-layers")
SETTINGS = {
    "model": SMALL_MODEL,
    "pretrained": False,
    "img_size": 32,
    "precision": "fp32",
    "freeze_layers": True,
}


class Allocations(TorchDispatchMode):
    """The bytes of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.sizes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        done = func(*args, **(kwargs or {}))
        if isinstance(done, torch.Tensor):
            storage = done.untyped_storage()
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return done


def test_the_features_of_the_training_images_are_copied_once(dataset, tmp_path, monkeypatch):
    allocated, build = Allocations(), train_verb.build_feature_batches

    def counted(*arguments):
        with allocated:
            built.append(build(*arguments))
        return built[0]

    built = []
    monkeypatch.setattr(train_verb, "build_feature_batches", counted)
    swinclf.train(dataset, out=str(tmp_path), mirror=True, **SETTINGS)
    features = built[0].train_features
    assert features.shape[0] == 2
    assert sum(allocated.sizes.values()) < 1.5 * features.nbytes


def history_of(run):
    return read_rows(run / "history.csv")


@pytest.mark.usefixtures("plots")
def test_the_probe_is_the_head_and_its_scores_are_the_runs(cli, dataset, tmp_path):
    done = cli("train", dataset, *FLAGS)
    assert done.code == 0, done.err
    run = tmp_path / done.out.strip()
    assert "used as the head" in done.err
    assert "epoch 1" not in done.err
    assert "no effect" not in done.err
    assert SELECTION_NOTE not in done.err  # no epoch was selected on the held-out images
    (row,) = history_of(run)
    baseline, metrics, config = (
        json.loads((run / f"{name}.json").read_text("utf-8"))
        for name in ("baseline", "metrics", "config")
    )
    assert (row["epoch"], row["lr"]) == ("0", "0.0")
    assert float(row["val_accuracy"]) == baseline["val_accuracy"] == metrics["accuracy"]
    assert float(row["val_loss"]) == baseline["val_loss"]
    assert 0 < float(row["train_loss"]) < 1.2
    assert (config["epochs"], config["lr"]) == (0, 0.0)
    page = (run / "report.html").read_text("utf-8")
    assert PROBE_NOTE in page
    assert "selected the epoch" not in page
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 1000


def test_the_training_scores_are_those_of_the_head(dataset, tmp_path):
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), mirror=False, **SETTINGS).folder.path
    (row,) = history_of(run)
    model = swinclf.load(run)
    paths = [one["path"] for one in read_rows(run / "split.csv") if one["split"] == "train"]
    answers = model.predict([dataset / path for path in paths])
    right = [one.label == path.split("/")[0] for one, path in zip(answers, paths, strict=True)]
    assert float(row["train_accuracy"]) == pytest.approx(np.mean(right))


def test_a_network_without_a_linear_head_is_fine_tuned_without_a_probe(cli, dataset, tmp_path):
    weights = tmp_path / "dla.safetensors"
    save_file(timm.create_model("dla46_c").state_dict(), weights)
    flags = ("--model", "dla46_c", "--weights", weights, "--img-size", "32", "--epochs", "1")
    refused = cli("train", dataset, *flags)
    assert refused.code == 1
    assert "--no-freeze-layers" in error_lines(refused)[2]
    done = cli("train", dataset, *flags, "--no-freeze-layers")
    assert done.code == 0, done.err
    assert not (tmp_path / done.out.strip() / "baseline.json").exists()


@pytest.mark.parametrize("words", [("--epochs", "3"), ("--lr", "0.01")])
def test_epochs_or_a_rate_ask_for_the_loop(cli, dataset, tmp_path, words):
    done = cli("train", dataset, *FLAGS, *words)
    assert done.code == 0, done.err
    run = tmp_path / done.out.strip()
    assert len(history_of(run)) == (3 if words[0] == "--epochs" else 100)
    assert PROBE_NOTE not in (run / "report.html").read_text("utf-8")
    baseline, metrics = (
        json.loads((run / name).read_text("utf-8")) for name in ("baseline.json", "metrics.json")
    )
    assert metrics["probe_accuracy"] == baseline["val_accuracy"] > 0


def test_what_only_epochs_use_is_named(cli, dataset):
    words = ("--batch-size", "4", "--weight-decay", "0.1", "--optimizer", "muon")
    done = cli("train", dataset, *FLAGS, *words)
    assert done.code == 0, done.err
    assert "--optimizer muon: no effect, as the network does not train" in done.err
    assert "--batch-size, --weight-decay: no effect on a linear probe" in done.err


@pytest.mark.parametrize("words", [(), ("--epochs", "1")])
def test_what_only_a_network_that_trains_uses_is_named(cli, dataset, words):
    given = (
        *("--rotate", "0.1", "--zoom", "0.5", "--augment", "trivial", "--min-crop", "0.1"),
        *("--drop-path", "0.3", "--layer-decay", "0.5", "--train-size", "32", "--compile", "off"),
    )
    done = cli("train", dataset, *FLAGS, *given, *words)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "the head alone trains;" in line)
    names, _, rest = line.removeprefix("warning: ").partition(": ")
    assert set(names.split(", ")) == set(given[::2])
    assert rest.endswith("--no-freeze-layers trains the whole network")


def test_those_settings_do_have_no_effect(dataset, tmp_path):
    given = {"rotate": 0.1, "zoom": 0.5, "augment": "trivial", "min_crop": 0.1}
    given |= {"drop_path": 0.3, "layer_decay": 0.5}
    one = swinclf.train(dataset, out=str(tmp_path / "runs"), **SETTINGS)
    other = swinclf.train(dataset, out=str(tmp_path / "runs"), **SETTINGS, **given)
    assert same_weights(weights_of(one.path), weights_of(other.path))


def test_without_held_out_images_it_is_the_head_too(cli, dataset, tmp_path):
    done = cli("train", dataset, *FLAGS, "--val-split", "0")
    assert done.code == 0, done.err
    (row,) = history_of(tmp_path / done.out.strip())
    assert (row["epoch"], row["val_loss"], row["val_accuracy"]) == ("0", "", "")


def test_where_only_a_part_can_be_fitted_epochs_follow(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(logistic_regression, "FIT_FLOPS", 1e4)
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **SETTINGS).folder.path
    assert len(history_of(run)) == 100
    monkeypatch.undo()
    assert fits_all(3_000, views=2, width=1280, classes=5)
    assert not fits_all(1_280_000, views=2, width=1280, classes=1000)


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ({"val_split": 0.2}, "val"),
        ({}, "cross-validation"),
        ({"test_split": 0.25}, "test"),
    ],
    ids=["val", "default", "test"],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    dataset, trained, tmp_path, monkeypatch, given, split
):
    def interrupt(*_):
        raise Interrupted(ExitCode.INTERRUPTED)

    settings = {"weights": str(trained.path), "precision": "fp32", **given}
    done = swinclf.train(dataset, out=str(tmp_path / "whole"), **settings)
    assert done.metrics.split == split
    whole = done.folder.path
    monkeypatch.setattr(train_verb, "finish", interrupt)
    with pytest.raises(Interrupted):
        swinclf.train(dataset, out=str(tmp_path / "runs"), **settings)
    monkeypatch.undo()
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    resumed = resume_run(run)
    assert same_weights(weights_of(whole), weights_of(resumed))
    assert untimed_history(whole) == untimed_history(resumed)
    for name in ("model.safetensors", "metrics.json", "predictions.csv", "split.csv"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
