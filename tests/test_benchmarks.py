"""The benchmarks run, small: each prints lines of JSON that say what was measured."""

from __future__ import annotations

import json
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import COLOURS, SMALL_MODEL, write_dataset
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from swinclf.training import compilation, device_images

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def output(name, *words):
    """What a benchmark prints. It runs in this process, as importing torch takes seconds."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", [name, *map(str, words)])
        patch.syspath_prepend(BENCHMARKS)
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    return printed.getvalue().splitlines()


def lines(name, *words):
    return [json.loads(line) for line in output(name, *words)]


def test_a_folder_of_many_links_is_scanned_and_split(tmp_path):
    folder = tmp_path / "many"
    lines("scale.py", "--step", "links", "--files", 600, "--classes", 3, folder)
    (row,) = lines("scale.py", "--step", "scan", folder)
    assert row["images"] == 600


def test_photographs_are_drawn_and_read_by_both_sides(tmp_path):
    lines("photos.py", tmp_path / "photos", "--count", 10, "--size", "200x150", "--split")
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg"))
    assert [file.parts[1] for file in files] == ["train"] * 5 + ["val"] * 5
    (row,) = lines("predict.py", "--read", tmp_path / "photos", "--large", 4)
    assert row["swinclf_ms"] > 0
    assert row["times_as_fast"] > 0


def test_swapped_labels_are_planted_and_looked_for(tmp_path):
    for number in range(120):
        side = (number % 2 + 1) * 8
        squares = np.indices((48, 48)).sum(0) // side % 2 * 255
        file = tmp_path / f"{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray((squares + number % 7).astype(np.uint8)).save(file)
    small = ("--model", SMALL_MODEL, "--seeds", 2)
    rows = lines("audit.py", "suspects", tmp_path, *small)
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(row["swapped"] == 60 and 0 <= row["recall"] <= 1 for row in rows)


def test_classes_are_left_out_and_shown(tmp_path):
    photos = write_dataset(tmp_path / "photos", per_class=60, colours=COLOURS)
    small = ("--model", SMALL_MODEL, "--held", 15, "--leave-out", "red")
    (row,) = lines("reject.py", photos, "--precision", 0.5, *small)
    assert row["left_out"] == "red"
    assert (row["known"], row["unknown"]) == (30, 15)
    assert 0 <= row["auroc_probability"] <= 1


def test_the_figures_of_runs_are_compared_with_fresh_images(tmp_path):
    photos = write_dataset(tmp_path / "photos", per_class=20)
    words = ("--held-out", 6, "--seeds", 2, "--way", "folds", "--random-weights")
    (row,) = lines("held_out.py", photos, *words)
    assert (row["held_out"], row["way"], row["seeds"]) == (6, "folds", 2)
    assert row["reported_minus_fresh"] == pytest.approx(row["reported"] - row["fresh"], abs=2e-4)
    assert row["reject_0.9"]["reached"] <= row["reject_0.9"]["offered"] <= 2


def test_forecasts_of_the_learning_curve_are_compared_with_more_images(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(180):  # two classes that overlap: the error falls slowly
        pixels = draw.normal(110 + 30 * (number % 2), 40, (4, 4, 3)).clip(0, 255).astype(np.uint8)
        file = tmp_path / f"{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(file)
    words = ("--images", 30, "--held-out", 45, "--seeds", 4, "--model", SMALL_MODEL)
    (row,) = lines("learning.py", tmp_path, *words)
    assert (row["images"], row["held_out"]) == (30, 45)
    assert row["forecasts"] >= 1
    assert row["error"] == pytest.approx(row["forecast"] - row["actual"], abs=2e-4)
    assert 0 <= row["covered"] <= 1


def test_evidence_is_compared_with_random_cells(tmp_path):
    photos = write_dataset(tmp_path / "photos", per_class=20, colours=COLOURS)
    before, *rows = lines("evidence.py", photos, "--part", 0.5, "--model", "vit_tiny_patch16_224")
    assert before["images"] == 12
    assert [row["cells"] for row in rows] == ["most evidence", "random", "least evidence"]
    assert rows[0]["without"] == rows[2]["alone"]


def test_weights_of_the_classes_are_compared_on_a_rare_class(tmp_path):
    colours = {name: COLOURS[name] for name in ("red", "blue")}
    photos = write_dataset(tmp_path / "photos", per_class=14, colours=colours)
    words = ("--most", 8, "--ratio", 4, "--seeds", 1, "--model", SMALL_MODEL)
    rows = lines("imbalance.py", photos, *words)
    assert [row["class_weights"] for row in rows] == ["none", "sqrt", "balanced"]
    assert all(row["trainings"] == 2 and 0 <= row["recall_of_rare"] <= 1 for row in rows)


def test_accuracies_are_measured_for_each_number_of_images_and_variant(tmp_path):
    photos = write_dataset(
        tmp_path / "photos", per_class=20, colours={name: COLOURS[name] for name in ("red", "blue")}
    )
    words = ("--per-class", 2, "all", "--test", 3, "--model", SMALL_MODEL)
    settings = ("pretrained=false", "img_size=32", "precision=fp32", "epochs=1")
    printed = output("recipe.py", photos, *words, "--", *settings)
    rows = [json.loads(line) for line in printed if line.startswith("{")]
    assert [(row["per_class"], row["variant"]) for row in rows] == [
        *((2, "frozen"), (2, "fine-tuned")),
        *(("all", "frozen"), ("all", "fine-tuned")),
    ]
    assert {row["test_images"] for row in rows} == {6}
    assert {(row["per_class"], row["images"]) for row in rows} == {(2, 4), ("all", 34)}
    assert all(0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 for row in rows)
    assert {row["epochs"] for row in rows} == {1}
    assert len([line for line in printed if line.startswith("|")]) == 6


def test_networks_are_timed_in_turns():
    words = ("--models", "vit_tiny_patch16_224", "--dtypes", "fp32", "--modes", "forward")
    _, row = lines("networks.py", *words, "--batches", 1, "--seconds", 0.1, "--cpu-time")
    assert row["rounds"] >= 3
    assert min(row[f"{name}_ms"] for name in ("accelerated", "reference", "timm")) > 0


def test_what_speeds_up_convolutional_networks_is_measured():
    _, *rows = lines("convolutions.py", "--rounds", 1, "--px", 64, "--batch", 2)
    kinds = [row["what"].partition(",")[0] for row in rows]
    assert kinds == ["forward"] * 4 + ["training step"] * 12
    assert all(row["images_per_cpu_second"] > 0 for row in rows)
    errors = {row["what"]: row["error"] for row in rows[:4]}
    assert errors["forward, 64 px: fp32, folded"] < 1e-5
    assert errors["forward, 64 px: bf16, folded"] < 0.1


def test_the_textbooks_network_is_timed_next_to_a_plain_port():
    rows = lines("textbook.py", "--batch", 2, "--rounds", 1, "--precision", "fp32", "--cpu-time")
    names = ["plain", "plain, no attention dropout", "swinclf"]
    assert [row["what"] for row in rows[1:]] == names
    assert all(row["seconds"] > 0 and row["speedup"] > 0 for row in rows[1:])


def test_the_graph_of_an_export_is_compared_with_pillow(trained, network_graph, cli, tmp_path):
    pytest.importorskip("onnxruntime")
    del network_graph
    words = ("export", "--run", trained.path, "--embed", "preprocess", "--output", "m.onnx")
    assert cli(*words).code == 0
    (row,) = lines("deployed.py", "graph", trained.path, tmp_path / "m.onnx", trained.data)
    assert (row["images"], row["label_flips"]) == (36, 0)
    assert row["mean_difference_of_255"] < 0.25


def test_every_step_of_the_benchmark_of_a_gpu_runs_on_a_cpu(cli, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import timing

    def run(command, **_):
        if command[1] != "-m":
            name = Path(command[1]).name
            return timing.Measured(1, 0, "\n".join(output(name, *command[2:])))
        with redirect_stdout(StringIO()):
            assert cli(*command[3:]).code == 0
        return timing.Measured(1, 0, "")

    build_loader = DataLoader.__init__

    def without_processes(loader, images, num_workers, persistent_workers, **options):
        assert persistent_workers == (num_workers > 0)
        build_loader(loader, images, **options)

    monkeypatch.setattr(timing, "run", run)  # here, and so without importing torch eight times
    monkeypatch.setattr(DataLoader, "__init__", without_processes)
    monkeypatch.setattr(nn.Module, "compile", compiled := Mock())
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    reduced = Mock(wraps=device_images.reduce_images)
    monkeypatch.setattr(device_images, "reduce_images", reduced)
    for split in ("train", "val"):
        write_dataset(tmp_path / "photos-12-split" / split, per_class=2)
    small = ("--model", SMALL_MODEL, "--count", 12, "--batch", 3, "--steps", 1, "--epochs", 1)
    _, *rows = lines("gpu.py", "--device", "cpu", "--compile", "--work", tmp_path, *small)
    rows = {row.pop("what"): row for row in rows}
    training, predict = rows["swinclf, training, eager"], rows["swinclf, predict"]
    plain = rows["plain loop, training"]["images_per_second"]
    assert training["of_plain"] == pytest.approx(training["images_per_second"] / plain, rel=0.01)
    assert training["after_last_epoch_seconds"] > 0
    assert predict["images"] == rows["plain loop, predict"]["images"] == 12
    assert compiled.call_count == len([name for name in rows if "compiled" in name]) == 2
    reading = [row["epochs"] for name, row in rows.items() if name.startswith("reading alone")]
    assert [len(epochs) for epochs in reading] == 8 * [2]
    assert reduced.call_count == 2 * 2  # batches by each number of threads; none not augmented
