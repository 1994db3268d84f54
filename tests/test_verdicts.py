"""The verdict that a report opens with: its rules on simulated runs, its words on plain figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_benchmarks import lines

from swinclf.metrics import wilson_interval
from swinclf.reporting.verdict import (
    LabelReview,
    RunFigures,
    VerdictKind,
    find_kinds,
    find_weak_sections,
    judge,
)

GOOD = RunFigures(
    accuracy=0.95, interval=wilson_interval(380, 400), images=400, majority=0.25, probe_accuracy=0.9
)


def test_each_kind_is_found_where_it_applies_and_hardly_elsewhere():
    rows = {row["kind"]: row for row in lines("verdicts.py", "--runs", 200)}
    assert set(rows) == set(VerdictKind)
    for row in rows.values():
        assert row["found"] >= 0.9
        assert row["elsewhere_most"] <= 0.05


def test_a_good_run_is_called_good_with_its_baselines():
    verdict = judge(GOOD)
    assert verdict.kinds == (VerdictKind.GOOD,)
    good, certain, following = verdict.lines
    assert good.startswith("95.0 % of the images are classified correctly (95 % interval 92.4 %")
    assert good.endswith("most frequent class would reach 25.0 %, a linear probe 90.0 %.")
    assert certain == "Measured on 400 images: the interval is 4.3 points wide."
    assert "swinclf export" in following


def test_it_says_what_selected_the_epoch():
    assert "also selected the epoch" in judge(replace(GOOD, is_selected=True)).lines[1]


@pytest.mark.parametrize(("scored", "held_out"), [(400, 60), (60, 400), (60, None), (400, None)])
def test_a_learning_curve_is_judged_by_its_own_images(scored, held_out):
    figures = replace(GOOD, images=scored, curve_images=held_out)
    reason = find_weak_sections(figures, None).get("learning", "")
    assert reason.startswith("60 held-out images are too few") == ((held_out or scored) == 60)


def test_images_that_were_trained_on_make_no_model_good():
    verdict = judge(replace(GOOD, is_trained_on=True))
    assert verdict.kinds == ()
    assert "says nothing about new images" in verdict.lines[1]
    assert "swinclf eval OTHER" in verdict.lines[2]


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"interval": (0.2, 0.4)}, {VerdictKind.NEAR_CHANCE}),
        ({"images": 30}, {VerdictKind.TOO_FEW_IMAGES}),
        ({"gain": (0.05, 0.01)}, {VerdictKind.TOO_FEW_IMAGES}),
        ({"gain": (0.05, -0.01)}, {VerdictKind.GOOD}),
        (
            {"labels": LabelReview(images=500, confident=300, contradicted=40)},
            {VerdictKind.LABEL_NOISE},
        ),
        (
            {
                "labels": LabelReview(images=500, confident=300, contradicted=40),
                "train_counts": {"a": 10, "b": 12},
            },
            {VerdictKind.TOO_FEW_IMAGES},
        ),
        # A weak model is confident of few labels, and wrong about many of these.
        (
            {"labels": LabelReview(images=500, confident=20, contradicted=10)},
            {VerdictKind.GOOD},
        ),
        ({"image_px": 32, "input_px": 224}, {VerdictKind.WRONG_RESOLUTION}),
        ({"image_px": 4000, "input_px": 224}, {VerdictKind.GOOD}),
        ({"interval": (0.6, 0.7)}, set()),
    ],
)
def test_what_stands_out(changes, kinds):
    figures = replace(GOOD, **changes)
    assert set(find_kinds(figures)) == kinds
    assert all(judge(figures).lines)


def test_a_run_stores_its_verdict(trained):
    stored = json.loads((trained.path / "metrics.json").read_text("utf-8"))["verdict"]
    assert VerdictKind.TOO_FEW_IMAGES in stored["kinds"]
    page = (trained.path / "report.html").read_text("utf-8")
    assert stored["lines"][0].replace(" %", "\xa0%") in page
