"""Distillation: the loss by plain torch, each kind of teacher, each regime, resumed to the bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    SMALL_FLAGS,
    SMALL_MODEL,
    SMALL_SETTINGS,
    error_lines,
    read_rows,
    resume_run,
    same_weights,
    stop_after,
    untimed_history,
    weights_of,
    write_dataset,
    write_image,
)
from torch import nn
from torch.nn import functional as F

import swinclf
from swinclf.commands import train as train_verb
from swinclf.data.unlabelled import read_unlabelled
from swinclf.device import choose_hardware
from swinclf.errors import ConfigError, ExitCode, Interrupted, RunError
from swinclf.models.compute import Computer
from swinclf.models.store import load_model, save_model
from swinclf.pipeline import distill, prepare
from swinclf.pipeline.distill import score_teacher
from swinclf.reporting.report_data import PredictionRow
from swinclf.training import loop
from swinclf.training.batches import UNLABELLED, Batch
from swinclf.training.feature_extraction import FeatureTable
from swinclf.training.objective import (
    CachedFeatures,
    CrossEntropy,
    Distillation,
    DistillationTerms,
    OnlineFeatures,
    feature_losses,
    soft_target_losses,
)
from swinclf.training.schedule import Schedule

MORE = {"one": (45, 65, 195), "other": (195, 55, 45)}


@pytest.fixture
def more(tmp_path):
    """Sixteen images in folders that are no classes, and a file that is no image."""
    folder = write_dataset(tmp_path / "more", per_class=8, colours=MORE)
    (folder / "one" / "deep").mkdir()
    (folder / "one" / "deep" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def facts_of(run: Path, name: str = "config") -> dict[str, object]:
    """What a JSON file of a run holds."""
    return json.loads((run / f"{name}.json").read_text(encoding="utf-8"))


# --- the loss -----------------------------------------------------------------------------------


def schedule(**changes):
    """A schedule of which only the loss matters."""
    values = {"label_smoothing": 0.1, "class_weights": None, **changes}
    return Schedule(epochs=1, lrf=1, warmup=0, clip_norm=0, patience=0, **values)


class Fixed:
    """A teacher whose features are given."""

    def __init__(self, features):
        self.given = features

    def features(self, _batch):
        return self.given


def test_a_teacher_is_scored_on_some_images_at_a_time(monkeypatch):
    torch.manual_seed(2)
    names, head, table, sizes = ("one", "other", "third"), nn.Linear(4, 3), FeatureTable(), []
    digests = {f"{number}.png": bytes([number]) * 16 for number in range(10)}
    table.add([digest + b"p" for digest in digests.values()], torch.randn(10, 4))
    plan = SimpleNamespace(
        teacher_data=SimpleNamespace(name="teacher", head=head.requires_grad_(False), table=table),
        extracted=SimpleNamespace(digests=digests),
        dataset=SimpleNamespace(classes=names),
    )
    rows = [PredictionRow(path, names[0], names[1], 0.5) for path in digests]
    whole = score_teacher(plan, rows)
    head.register_forward_hook(lambda _head, inputs, _logits: sizes.append(len(inputs[0])))
    monkeypatch.setattr(distill, "SCORED_AT_ONCE", 4)
    assert score_teacher(plan, rows) == whole
    assert sizes == [4, 4, 2]


def test_soft_targets_are_those_of_the_formula():
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 2.0, 5.0):
        theirs, ours = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
        expected = temperature**2 * (theirs * (theirs.log() - ours.log())).sum(1)
        found = soft_target_losses(student, teacher, temperature)
        assert torch.allclose(found, expected, atol=1e-6)
    assert soft_target_losses(teacher, teacher, 3.0).abs().max() < 1e-6


def test_the_loss_of_labelled_and_unlabelled_images_is_that_of_plain_torch():
    torch.manual_seed(1)
    features, seen = torch.randn(6, 4), torch.randn(50, 4) * 3 + 1
    head, model = nn.Linear(4, 3), nn.Linear(7, 3)
    objective = Distillation(Fixed(features), head, seen, DistillationTerms(4.0, 0.3, 0.7), width=7)
    targets = torch.tensor([0, 2, UNLABELLED, 1, UNLABELLED, 0])
    weights = torch.tensor([0.5, 1.0, 1.5])
    inputs = torch.randn(6, 7)
    logits = model(inputs)
    losses = objective.losses(
        (logits, inputs), Batch(inputs, targets), schedule(class_weights=weights)
    )
    for row, target in enumerate(targets.tolist()):
        p, q = F.softmax(head(features[row]) / 4, 0), F.softmax(logits[row] / 4, 0)
        wanted = 0.3 * 16 * (p * (p / q).log()).sum()
        standard = (features[row] - seen.mean(0)) / seen.std(0, correction=0)
        wanted += 0.7 * (
            1 - F.cosine_similarity(objective.projection(inputs[row]), standard, dim=0)
        )
        if target != UNLABELLED:
            wanted += (
                0.7
                * F.cross_entropy(
                    logits[row : row + 1],
                    torch.tensor([target]),
                    weight=weights,
                    label_smoothing=0.1,
                    reduction="none",
                ).squeeze()
            )
        assert torch.allclose(losses[row], wanted, atol=1e-5), row
    losses.sum().backward()
    assert objective.projection.weight.grad.abs().max() > 0
    assert {name for name, _ in objective.named_parameters()} == {
        "projection.weight",
        "projection.bias",
    }


def test_the_default_loss_is_the_cross_entropy_to_the_bit():
    logits, targets = torch.randn(9, 4), torch.arange(9) % 4
    plan = schedule(class_weights=torch.tensor([0.4, 0.9, 1.1, 1.6]))
    expected = F.cross_entropy(
        logits, targets, weight=plan.class_weights, label_smoothing=0.1, reduction="none"
    )
    assert torch.equal(CrossEntropy().losses((logits,), Batch(logits, targets), plan), expected)


def test_features_that_point_the_same_way_cost_nothing():
    features = torch.randn(5, 8)
    assert torch.allclose(feature_losses(3 * features, features), torch.zeros(5), atol=1e-6)
    assert torch.allclose(feature_losses(-features, features), torch.full((5,), 2.0))


def test_accuracy_counts_labelled_images_alone():
    sums = loop.EpochSums()
    targets = torch.tensor([0, UNLABELLED, 1, UNLABELLED])
    sums.add(torch.ones(4), F.one_hot(torch.zeros(4, dtype=torch.int64), 2).float(), targets)
    assert sums.means() == (1.0, 0.5)
    assert (sums.count, sums.labelled) == (4, 2)


# --- what is kept of the teacher ----------------------------------------------------------------


def test_the_table_holds_half_precision_in_one_array():
    table = FeatureTable(torch.float16)
    first, second = torch.randn(2, 4), torch.full((1, 4), 1e9)
    table.add([b"a", b"b"], first)
    table.add([b"c"], second)
    assert table.whole.shape == (3, 4)
    assert table.whole.dtype is torch.float16
    assert torch.equal(table.gather([b"b", b"a"]), first.flip(0).half().float())
    assert table.gather([b"c"]).isfinite().all()
    assert b"b" in table
    assert b"d" not in table
    batch = Batch(torch.zeros(2, 1), torch.zeros(2), views=torch.tensor([3, 0]))
    cached = CachedFeatures(table.whole, table.rows([b"b", b"a", b"a", b"a"]))
    assert torch.equal(cached.features(batch), first.flip(0).half().float()[[1, 0]])


def test_cached_and_online_teach_the_same_where_nothing_is_varied(trained, tmp_path, monkeypatch):
    taught = {}
    for views in ("cached", "online"):
        losses, distil = [], Distillation.losses

        def spy(self, *arguments, losses=losses, distil=distil):
            losses.append(distil(self, *arguments))
            return losses[-1]

        with monkeypatch.context() as patch:
            patch.setattr(Distillation, "losses", spy)
            swinclf.train(
                trained.data,
                **{**SMALL_SETTINGS, "epochs": 1},
                augment="none",
                teacher=str(trained.path),
                teacher_views=views,
                out=str(tmp_path / views),
            )
        taught[views] = torch.cat([one.detach() for one in losses])
    assert len(taught["cached"]) == len(taught["online"]) > 20
    # Half precision in the cache, and other roundings with other batches.
    assert torch.allclose(taught["cached"], taught["online"], atol=5e-3)


def test_online_the_teacher_sees_the_views_of_the_student_in_its_own_size_and_colours(trained):
    network, card = load_model(trained.path / "model.safetensors")
    computer = Computer(network, choose_hardware("cpu", "fp32"))
    pixels = torch.rand(4, 3, 32, 32)
    mean, std = (
        torch.tensor(one).view(1, 3, 1, 1) for one in (card.preprocess.mean, card.preprocess.std)
    )
    other = replace(card.preprocess, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    inputs = (pixels - torch.tensor(other.mean).view(1, 3, 1, 1)) / torch.tensor(other.std).view(
        1, 3, 1, 1
    )
    online = OnlineFeatures(computer, other, card.preprocess)
    found = online.features(Batch(inputs, torch.zeros(4)))
    assert torch.allclose(found, computer.features((pixels - mean) / std), atol=1e-4)
    large = F.interpolate(inputs, (64, 64), mode="bicubic", antialias=True)
    assert online.features(Batch(large, torch.zeros(4))).shape == found.shape
    assert not found.requires_grad
    assert not found.is_inference()


# --- teachers, through the program --------------------------------------------------------------


def test_a_run_teaches_and_the_report_compares(trained, cli, tmp_path, more):
    leaked = next(row for row in read_rows(trained.path / "split.csv") if row["split"] == "val")
    shutil.copy(trained.data / leaked["path"], more / "other" / "leak.png")
    done = cli(
        *("train", trained.data, *SMALL_FLAGS, "--name", "student", "--verbose"),
        *("--teacher", trained.path, "--unlabelled", more),
    )
    assert done.code == 3, done.err
    assert "1 unlabelled images excluded" in done.err
    assert "16 unlabelled training images" in done.err
    for line in ("teacher-temperature 2 (", "teacher-weight 0.5 (", "teacher-features 1 ("):
        assert line in done.err
    assert "teacher-views online (random crops" in done.err
    run = tmp_path / "runs" / "student"
    assert [row["path"] for row in read_rows(run / "skipped.csv")] == [
        str(more / "one" / "deep" / "broken.png")
    ]
    assert len(read_rows(run / "unlabelled.csv")) == 16
    scores = facts_of(run, "metrics")["teacher"]
    theirs = facts_of(trained.path, "metrics")
    assert scores["name"] == trained.path.name
    assert scores["accuracy"] == theirs["accuracy"]
    assert scores["accuracy_ci95"] == theirs["accuracy_ci95"]
    answers = read_rows(run / "predictions.csv")
    other = {row["path"]: row["predicted"] for row in read_rows(trained.path / "predictions.csv")}
    same = [row["predicted"] == other[row["path"]] for row in answers]
    assert scores["agreement"] == np.mean(same)
    assert scores["difference"] == pytest.approx(
        facts_of(run, "metrics")["accuracy"] - scores["accuracy"]
    )
    assert '<section id="teacher">' in (run / "report.html").read_text(encoding="utf-8")
    assert f"teacher {trained.path.name}: accuracy" in done.err
    config = facts_of(run)
    assert config["teacher"] == str(trained.path)
    assert len(config["teacher_digest"]) == 64
    names = set(weights_of(run))
    assert names == set(weights_of(trained.path)), "the projection is thrown away"
    again = cli("train", trained.data, "--config", run / "config.json", "--name", "again")
    assert again.code == 3, again.err
    assert same_weights(weights_of(run), weights_of(tmp_path / "runs" / "again"))


def test_the_embedded_model_is_given_a_head_and_its_features_are_kept(cli, tmp_path):
    dataset = write_dataset(tmp_path / "few", per_class=5)
    flags = ("--teacher", "embedded", "--teacher-views", "cached", "--augment", "crop")
    done = cli("train", dataset, *SMALL_FLAGS, *flags, "--epochs", "1")
    assert done.code == 0, done.err
    assert (
        "teacher: embedded, with a linear probe as its head, validation accuracy 100.0 %"
        in done.err
    )
    scores = facts_of(tmp_path / done.out.strip(), "metrics")["teacher"]
    assert (scores["name"], scores["accuracy"]) == ("embedded", 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Computer, "features", None)  # nothing is computed a second time
        again = cli("train", dataset, *SMALL_FLAGS, *flags, "--epochs", "1")
    assert again.code == 0, again.err
    assert same_weights(*(weights_of(tmp_path / one.out.strip()) for one in (done, again)))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1)
        stopped = cli("train", dataset, *SMALL_FLAGS, *flags, "--epochs", "1", "--name", "stopped")
    assert stopped.code == 130, stopped.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swinclf.pipeline.distill.fit_baseline", None)  # nor fitted
        resumed = resume_run(tmp_path / "runs" / "stopped")
    assert same_weights(weights_of(tmp_path / done.out.strip()), weights_of(resumed))
    assert facts_of(resumed, "metrics")["teacher"] == scores


def test_a_file_teaches_whatever_the_order_of_its_classes(trained, tmp_path, cli):
    network, card = load_model(trained.path / "model.safetensors")
    order = [2, 0, 1]
    head = network.get_classifier()
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        head.bias.copy_(head.bias[order].clone())
    file = tmp_path / "shuffled.safetensors"
    save_model(file, network, replace(card, classes=tuple(card.classes[one] for one in order)))
    done = cli("train", trained.data, *SMALL_FLAGS, "--teacher", file, "--epochs", "1")
    assert done.code == 0, done.err
    scores = facts_of(tmp_path / done.out.strip(), "metrics")["teacher"]
    assert scores["accuracy"] == facts_of(trained.path, "metrics")["accuracy"]


# --- regimes, resumed ---------------------------------------------------------------------------

REGIMES = {
    "head": {"freeze_layers": True, "epochs": 3},
    "part": {"freeze_stages": 2, "drop_path": 0.3},
    "full": {"freeze_layers": False, "drop_path": 0.3, "teacher_views": "cached"},
}


@pytest.mark.parametrize("regime", sorted(REGIMES))
def test_an_interrupted_student_ends_as_an_undisturbed_one(
    trained, more, tmp_path, monkeypatch, regime
):
    settings = {
        **SMALL_SETTINGS,
        "pretrained": True,
        "weights": str(trained.path),
        "teacher": str(trained.path),
        "unlabelled": str(more),
        "out": str(tmp_path / "runs"),
        **REGIMES[regime],
    }
    del settings["pretrained"]
    whole = swinclf.train(trained.data, name="whole", **settings).folder.path
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Interrupted):
            swinclf.train(trained.data, name="stopped", **settings)
    stopped = resume_run(tmp_path / "runs" / "stopped")
    assert same_weights(weights_of(whole), weights_of(stopped))
    assert untimed_history(whole) == untimed_history(stopped)
    for name in ("metrics.json", "predictions.csv", "unlabelled.csv", "skipped.csv"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name


@pytest.fixture
def interrupted(trained, more, tmp_path, monkeypatch):
    """A student that was stopped after its first step, and a copy of its teacher."""
    teacher = tmp_path / "teacher"
    shutil.copytree(trained.path, teacher)
    stop_after(monkeypatch, 1)
    settings = {**SMALL_SETTINGS, "teacher": str(teacher), "unlabelled": str(more)}
    with pytest.raises(Interrupted):
        swinclf.train(trained.data, out=str(tmp_path / "runs"), name="stopped", **settings)
    monkeypatch.undo()
    return tmp_path / "runs" / "stopped", teacher


def test_a_teacher_that_has_changed_or_gone_is_named(interrupted, cli, tmp_path):
    run, teacher = interrupted
    teacher.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError) as gone:
        resume_run(run)
    assert "the teacher that" in gone.value.expected
    assert gone.value.hint == f"swinclf train --resume '{run}' --teacher RUN, with its current path"
    done = cli("train", "--resume", run, "--teacher", tmp_path / "elsewhere")
    assert done.code == 3, done.err
    assert facts_of(run)["teacher"] == str(tmp_path / "elsewhere")


def test_a_damaged_digest_of_an_unlabelled_image_is_named(tmp_path):
    path = tmp_path / "unlabelled.csv"
    path.write_text("path,digest\na.png,zz\n", "utf-8")
    with pytest.raises(RunError, match="content digests in"):
        read_unlabelled(path, tmp_path)


def test_another_teacher_or_unlabelled_image_is_refused_in_a_resume(interrupted, more, trained):
    run, teacher = interrupted
    first = more / "one" / "000.png"
    content = first.read_bytes()
    write_image(first, (1, 2, 3), seed=5)
    with pytest.raises(RunError) as other:
        resume_run(run)
    assert other.value.found == f"{first}: its content has changed"
    assert "--unlabelled DIR" in other.value.hint
    first.write_bytes(content)
    network, card = load_model(teacher / "model.safetensors")
    with torch.no_grad():
        network.get_classifier().bias.add_(1)
    save_model(teacher / "model.safetensors", network, card)
    with pytest.raises(RunError) as changed:
        resume_run(run)
    assert "the teacher that the run started with" in changed.value.expected
    assert trained.path.is_dir()


# --- what is refused ----------------------------------------------------------------------------


def test_a_teacher_of_other_classes_is_refused_by_name(trained, cli, tmp_path):
    colours = {"blue": (40, 60, 200), "green": (40, 170, 60), "yellow": (200, 200, 40)}
    data = write_dataset(tmp_path / "other", per_class=4, colours=colours)
    done = cli("train", data, *SMALL_FLAGS, "--teacher", trained.path)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert expected == f"a teacher with the dataset's 3 classes, '{trained.path.name}'"
    assert found == "it lacks 'yellow'; the dataset has no 'red'"
    assert "--teacher embedded" in hint


@pytest.mark.parametrize(
    ("flags", "expected", "found"),
    [
        (
            ("--unlabelled", "x", "--teacher-weight", "0.3"),
            "valid settings",
            "--unlabelled has no effect without --teacher; "
            "--teacher-weight has no effect without --teacher",
        ),
        (
            ("--teacher", "no_such_network"),
            "a teacher: a run, its model.safetensors, or the name of a model",
            "nothing at the path 'no_such_network', and no model of this name",
        ),
        (("--teacher", "runs/none"), "a run at '", "no such file or folder"),
        (("--teacher", "vit"), "a teacher: a run", "a custom architecture without weights"),
        (("--teacher", "embedded", "--unlabelled", "empty"), "images in '", "none"),
    ],
)
def test_what_cannot_be_meant_is_said(cli, dataset, tmp_path, flags, expected, found):
    (tmp_path / "empty").mkdir()
    done = cli("train", dataset, *SMALL_FLAGS, *flags)
    assert done.code in (1, 2)
    lines = error_lines(done)
    assert lines[0].startswith(expected), lines
    assert found in lines[1], lines


@pytest.mark.parametrize(
    "changes", [{"teacher_views": "online"}, {"teacher_features": 1.0}], ids=["views", "features"]
)
def test_a_head_that_trains_alone_has_no_views_and_no_features_to_learn(trained, tmp_path, changes):
    with pytest.raises(ConfigError) as error:
        swinclf.train(
            trained.data,
            model=SMALL_MODEL,
            weights=str(trained.path),
            teacher=str(trained.path),
            out=str(tmp_path / "runs"),
            **changes,
        )
    assert "--no-freeze-layers" in error.value.hint


def test_all_unlabelled_images_may_be_those_to_check_with(trained, cli, tmp_path):
    leak = tmp_path / "leak"
    leak.mkdir()
    for row in read_rows(trained.path / "split.csv"):
        if row["split"] == "val":
            shutil.copy(trained.data / row["path"], leak / row["path"].replace("/", "-"))
    done = cli("train", trained.data, *SMALL_FLAGS, "--teacher", trained.path, "--unlabelled", leak)
    assert done.code == 1
    assert "0 unreadable" in error_lines(done)[1]


def test_no_teacher_forward_pass_is_made_for_cached_views(trained, tmp_path, monkeypatch):
    counts = []
    prepared = prepare.prepare_training
    features = Computer.features

    def counted(self, inputs):
        counts.append(len(inputs))
        return features(self, inputs)

    def begin(*arguments):
        counts.clear()
        return prepared(*arguments)

    monkeypatch.setattr(Computer, "features", counted)
    monkeypatch.setattr(train_verb, "prepare_training", begin)
    settings = {**SMALL_SETTINGS, "teacher": str(trained.path), "teacher_views": "cached"}
    with monkeypatch.context() as patch:
        patch.setattr(
            train_verb, "finish", lambda *_: (_ for _ in ()).throw(Interrupted(ExitCode.OK))
        )
        with pytest.raises(Interrupted):
            swinclf.train(trained.data, out=str(tmp_path / "runs"), **settings)
    assert counts == []
