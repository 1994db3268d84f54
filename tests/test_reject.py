"""Answers withheld: predict --reject, eval --reject, and what a run stores for them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    SMALL_MODEL,
    TrainedRun,
    error_lines,
    read_rows,
    stored_confidence,
    train_poorly,
    write_dataset,
)

from swinclf.cli.tables import rejection_text
from swinclf.confidence.selective import Confidence, RejectionScores, Threshold, auroc
from swinclf.inference.stream import ImageOutput, to_prediction

KNOWN = {"grey": (120, 120, 120), "red": (150, 110, 110), "blue": (110, 110, 150)}
OTHERS = {"white": (250, 250, 250), "pink": (250, 20, 250)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on three colours that are easily confused, with images of two it never saw beside."""
    root = tmp_path_factory.mktemp("reject")
    data = write_dataset(root / "data", per_class=60, colours=KNOWN)
    path = train_poorly(data, epochs=20)
    write_dataset(root / "mixed", per_class=20, colours={**KNOWN, **OTHERS})
    return TrainedRun(path, root / "mixed")


def report_of(run):
    """The report of the last evaluation."""
    newest = max(run.path.glob("eval-*/report.html"), key=lambda file: file.stat().st_mtime_ns)
    return newest.read_text("utf-8")


def test_a_run_stores_thresholds_that_are_true_of_its_held_out_images(run):
    rows = read_rows(run.path / "predictions.csv")
    right = np.array([row["label"] == row["predicted"] for row in rows])
    probability = np.array([float(row["probability"]) for row in rows])
    thresholds = stored_confidence(run.path)["thresholds"]
    assert thresholds
    for precision, lowest, coverage in thresholds:
        kept = probability >= lowest - 1e-6
        assert right[kept].mean() >= precision - 0.03  # but for those withheld as strange
        assert 0 < coverage <= kept.mean() + 1e-6


def test_predict_says_unknown_rather_than_guess(run, cli):
    precision = stored_confidence(run.path)["thresholds"][-1][0]
    words = ("predict", run.data, "--run", run.path, "--format", "jsonl")
    plain, careful = cli(*words), cli(*words, "--reject", precision)
    assert careful.code == 0, careful.err
    before, after = (
        [json.loads(line) for line in one.out.splitlines()] for one in (plain, careful)
    )
    assert "unknown" not in {one["label"] for one in before}
    labels = {one["label"] for one in after}
    assert labels > {"unknown"}
    for one, other in zip(before, after, strict=True):
        assert (one["probability"], one["top"]) == (other["probability"], other["top"])
        assert other["label"] in (one["label"], "unknown")
    for colours, most in ((KNOWN, 0.9), (OTHERS, 1.0)):
        of = [one for one in after if one["path"].split("/")[-2] in colours]
        share = np.mean([one["label"] == "unknown" for one in of])
        assert share <= most
        assert colours is KNOWN or share > 0.6


def test_a_class_named_unknown_may_be_rejected():
    confidence = Confidence(thresholds=(Threshold(0.9, 0.95, 1.0),))
    card = SimpleNamespace(classes=("unknown", "rose"), confidence=confidence)
    for probability, is_unknown in ((0.9, True), (0.99, False)):
        output = ImageOutput(np.array([probability, 1 - probability]), "")
        found = to_prediction("a.png", output, card, top_k=1, reject=0.9)
        assert (found.label, found.is_unknown) == ("unknown", is_unknown)
        assert found.withheld["withheld_label"] == ("unknown" if is_unknown else "")


def test_reject_without_a_value_is_095(run, cli):
    words = ("predict", run.data, "--run", run.path, "--format", "csv")
    assert cli(*words, "--reject").out == cli(*words, "--reject", "0.95").out


def test_eval_compares_known_with_unknown_classes(run, cli):
    done = cli("eval", run.data, "--run", run.path, "--reject", "0.9")
    assert done.code == 3, "images of classes that the model does not know are not scored"
    known = re.search(r"known classes +([\d.]+) % of 60 images accepted, ([\d.]+) % of", done.err)
    unknown = re.search(r"unknown classes +([\d.]+) % of 40 images accepted", done.err)
    area = re.search(r"AUROC ([\d.]+) by probability, ([\d.]+) by OOD score", done.err)
    assert None not in (known, unknown, area), done.err
    assert float(unknown[1]) < float(known[1])
    assert max(map(float, area.groups())) > 0.8
    gap = re.search(
        r"unknown images are accepted less often: by ([\d.]+) to ([\d.]+) points", done.err
    )
    assert gap, done.err
    assert 0 < float(gap[1]) < float(known[1]) - float(unknown[1]) <= float(gap[2])
    assert "The accepted share is smaller for unknown classes" in report_of(run)
    assert "--split all --reject 0.9<" in report_of(run)
    done = cli("eval", run.data, "--run", run.path, "--reject", "0.9", "--json")
    found = json.loads(done.out)["rejection"]
    assert (found["precision"], found["known"], found["unknown"]) == (0.9, 60, 40)
    assert f"{100 * found['known_accepted']:.1f} % of 60 images accepted" in done.err
    assert found["difference"] == pytest.approx(
        [float(end) / 100 for end in gap.groups()], abs=6e-4
    )


def test_what_cannot_be_computed_is_null_in_json(run, cli):
    done = cli("eval", "--run", run.path, "--reject", "0.9", "--json")
    found = json.loads(done.out, parse_constant=pytest.fail)["rejection"]
    assert found["auroc_probability"] is found["unknown_accepted"] is None, "no unknown classes"
    assert found["difference"] == [None, None]
    assert "rejection" not in json.loads(cli("eval", "--run", run.path, "--json").out)


def test_eval_says_which_images_set_the_thresholds(run, cli, tmp_path):
    said = "the thresholds of --reject were set on these images"
    assert said in cli("eval", "--run", run.path, "--reject", "0.9").err
    for name in ("train", "val"):
        write_dataset(tmp_path / "foreign" / name, per_class=5, colours=KNOWN)
    words = ("eval", tmp_path / "foreign", "--split", "val", "--run", run.path, "--reject", "0.9")
    done = cli(*words)
    assert done.code == 0, done.err
    assert said not in done.err


def test_what_cannot_be_computed_is_not_printed():
    """The share of no predictions, and the AUROC of a model without a feature space."""
    nan = float("nan")
    scores = RejectionScores(0.9, 10, 0.0, nan, 5, 0.0, 0.7, nan, (-0.3, 0.2))
    text = rejection_text(scores)
    assert "nan" not in text
    assert "0.0 % of 10 images accepted\n" in text
    assert "AUROC 0.700 by probability\n" in text
    assert "95 % interval: -30.0 to +20.0 points" in text
    text = rejection_text(replace(scores, auroc_probability=nan, difference=(0.1, 0.3)))
    assert "AUROC" not in text
    assert "by 10.0 to 30.0 points" in text


def test_eval_says_where_the_unknown_are_not_kept_out(run, cli, tmp_path):
    """Classes of other names whose images are those of the known ones."""
    mixed = write_dataset(tmp_path / "mixed", per_class=20, colours=KNOWN)
    for name in KNOWN:
        shutil.copytree(mixed / name, mixed / f"{name}ish")
    done = cli("eval", mixed, "--run", run.path, "--reject", "0.9")
    assert done.code == 3
    gap = re.search(
        r"not significantly less accepted .*interval: (\S+) to (\S+) points\)", done.err
    )
    assert gap, done.err
    assert float(gap[1]) <= 0 < float(gap[2])
    assert "do not rely on --reject" in done.err
    assert "The accepted share is not significantly smaller" in report_of(run)


def test_a_precision_that_was_not_reached_is_refused_before_any_work(run, cli):
    done = cli("predict", "nowhere.jpg", "--run", run.path, "--reject", "0.9999")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "0.9999" in expected
    assert "at most" in found
    assert re.fullmatch(r"--reject 0\.\d+", hint)


def test_a_run_without_held_out_images_cannot_reject(tmp_path, cli):
    data = write_dataset(tmp_path / "few", per_class=1)
    flags = (
        "--model",
        SMALL_MODEL,
        "--no-pretrained",
        "--img-size",
        "32",
        "--epochs",
        "1",
        "--val-split",
        "0",
    )
    assert cli("train", data, *flags, "--out", tmp_path / "runs").code == 0
    done = cli("predict", data, "--run", tmp_path / "runs" / "latest", "--reject", "0.9")
    assert done.code == 1
    assert "held out" in error_lines(done)[1]


def test_the_area_counts_equal_values_half():
    low, high = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    assert auroc(low, high) == pytest.approx(4.5 / 6)
    assert np.isnan(auroc(low, np.array([])))
    assert np.isnan(auroc(low, np.array([np.nan])))
