"""Frozen first stages run once where an image is always shown alike; what comes out is the same."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import SMALL_FLAGS, SMALL_SETTINGS

import swinclf
from swinclf.config import Impl
from swinclf.models.build import Architecture, build_network
from swinclf.models.prefix import can_be_cut, features_above, output_of_first
from swinclf.pipeline import prepare
from swinclf.training import prefix_batches, regimes
from swinclf.verbs import train as train_verb

FIXED = {**SMALL_SETTINGS, "freeze_stages": 2, "augment": "none", "epochs": 3, "drop_path": 0.0}


@pytest.mark.parametrize("impl", list(Impl))
@pytest.mark.parametrize(
    ("model", "stages"),
    [("swin_tiny_patch4_window7_224", 4), ("deit_tiny_distilled_patch16_224", 12)],
)
def test_the_two_parts_give_what_the_whole_gives(model, stages, impl):
    torch.manual_seed(0)
    network = build_network(Architecture(model, impl, 3, 64)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = network.forward_features(images)
        for count in (0, 1, stages):
            tokens = output_of_first(network, count, images)
            assert torch.equal(features_above(network, count, tokens), whole)
    assert can_be_cut(network, stages, images)
    assert not can_be_cut(network, stages + 1, images)


def test_a_network_made_in_another_way_is_not_cut():
    network = build_network(Architecture("test_resnet", Impl.TIMM, 3)).eval()
    assert not can_be_cut(network, 1, torch.randn(1, 3, 64, 64))


def history_of(run):
    with (run.folder.path / "history.csv").open(encoding="utf-8", newline="") as file:
        return [
            {key: float(row[key]) for key in ("train_loss", "val_loss", "val_accuracy")}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("mirror", [True, False])
def test_epochs_are_those_of_images_to_rounding(dataset, tmp_path, monkeypatch, mirror):
    shown = []
    original = prefix_batches.output_of_first

    def spy(network, stages, images):
        shown.append(len(images))
        return original(network, stages, images)

    monkeypatch.setattr(prefix_batches, "output_of_first", spy)
    settings = {**FIXED, "mirror": mirror, "out": str(tmp_path / "runs")}
    once = swinclf.train(dataset, name="once", **settings)
    assert shown, "the frozen stages ran by themselves"
    monkeypatch.setattr(prepare, "room_for_pictures", lambda: 0)
    anew = swinclf.train(dataset, name="anew", **settings)
    for one, other in zip(history_of(once), history_of(anew), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "room", "said"),
    [
        (("--augment", "none"), None, "the frozen stages run once: what they give is kept"),
        (("--augment", "none"), 0, "of 0.0 GiB that may be taken"),
        ((), None, "with --augment none they would run once"),
    ],
)
def test_it_is_said_whether_they_run_once(cli, dataset, monkeypatch, words, room, said):
    if room is not None:
        monkeypatch.setattr(prepare, "room_for_pictures", lambda: room)
    done = cli("train", dataset, *SMALL_FLAGS, "--freeze-stages", "2", *words)
    assert done.code == 0, done.err
    assert said in done.err
    pictures_kept = "decoded images are kept in memory for later epochs" in done.err
    assert pictures_kept == ("they would run once" in said or room == 0)


def test_it_is_said_where_the_network_cannot_be_cut(cli, dataset, monkeypatch):
    monkeypatch.setattr(prefix_batches, "can_be_cut", lambda *_: False)
    done = cli("train", dataset, *SMALL_FLAGS, "--freeze-stages", "2", "--augment", "none")
    assert done.code == 0, done.err
    assert "this network cannot be cut there" in done.err


def test_it_is_said_where_the_network_is_compiled_whole(cli, dataset, monkeypatch):
    monkeypatch.setattr(train_verb, "require_compiler", lambda _: None)
    monkeypatch.setattr(regimes, "compile_network", lambda _: None)
    words = ("--freeze-stages", "2", "--augment", "none", "--compile")
    done = cli("train", dataset, *SMALL_FLAGS, *words)
    assert done.code == 0, done.err
    assert "--compile makes one piece of all stages" in done.err


def test_a_file_that_goes_bad_before_they_run_is_left_out(dataset, tmp_path, monkeypatch):
    keep, gone = prepare.keep_frozen_tokens, []

    def spoil(batches, *rest, **more):
        gone.append(batches.train_files[0])
        gone[0].write_bytes(b"no image")
        return keep(batches, *rest, **more)

    monkeypatch.setattr(prepare, "keep_frozen_tokens", spoil)
    told = []
    monkeypatch.setattr(
        prepare, "_bad_file_teller", lambda *_, **__: lambda path, _: told.append(path)
    )
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **FIXED)
    assert set(told) == set(gone)
    assert len(history_of(run)) == FIXED["epochs"]
