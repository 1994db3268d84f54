"""export --precision fp16|int8: smaller files, what they cost, and their refusal."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import error_lines

from swinclf.exporting.parity import Parity
from swinclf.exporting.quantize import INT8_ONNXRUNTIME

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
IS_OLD = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < INT8_ONNXRUNTIME


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_reduced_file_is_smaller_and_predicts_as_its_run(
    trained, network_graph, cli, tmp_path, precision
):
    del network_graph
    words = ("export", "--run", trained.path, "--precision", precision, "--embed", "preprocess")
    done = cli(*words, "--output", "m.onnx", "--json")
    if precision == "int8" and IS_OLD:
        assert error_lines(done)[0] == "ONNX Runtime 1.32 or later for --precision int8"
        return
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["bytes"] == (tmp_path / "m.onnx").stat().st_size
    effect = record["reduction"]
    shrunk = effect["size_bytes"] / effect["fp32_size_bytes"]
    assert shrunk < (0.7 if precision == "fp16" else 0.5)
    assert min(effect["images_per_second"], effect["fp32_images_per_second"]) > 0
    assert record["precision"] == precision
    assert record["parity"]["tolerance"] == (0.005 if precision == "fp16" else 0.02)
    assert record["parity"]["mean"] > 0, "a lower precision differs"
    # The held-out images of the run's dataset have labels.
    metrics = json.loads((trained.path / "metrics.json").read_text("utf-8"))
    assert record["parity"]["images"] == metrics["images"]
    assert record["fp32_accuracy"] == pytest.approx(metrics["accuracy"])
    assert record["accuracy"] is not None
    for text in ("images/s instead of", "labels differ", f"the network in {precision}"):
        assert text in done.err
    model = onnx.load(str(tmp_path / "m.onnx"))
    kind = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.INT8
    assert sum(one.data_type == kind for one in model.graph.initializer) > 10
    ours, theirs = (
        json.loads(cli("predict", trained.data, "--format", "json", "--run", run).out)
        for run in (trained.path, "m.onnx")
    )
    same = sum(one["label"] == other["label"] for one, other in zip(ours, theirs, strict=True))
    assert same >= len(ours) - 1


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_only_a_file_of_the_format_is_written(trained, cli, tmp_path, precision):
    weights = tmp_path / "model.safetensors"
    shutil.copy(trained.path / "model.safetensors", weights)
    before = weights.read_bytes()
    for output in (weights, tmp_path / "exports"):
        done = cli("export", "--run", weights, "--precision", precision, "--output", output)
        assert "an --output that ends in .onnx" in error_lines(done)[0]
    assert weights.read_bytes() == before
    assert not (tmp_path / "exports").exists()


def test_no_accuracy_of_training_images_is_given(trained, network_graph, cli, tmp_path):
    """A cross-validated run has no others."""
    del network_graph
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    rows = (run / "split.csv").read_text("utf-8")
    (run / "split.csv").write_text(rows.replace(",val", ",train"), "utf-8")
    done = cli("export", "--run", run, "--precision", "fp16", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["accuracy"] is None
    assert json.loads(done.out)["parity"]["most_flips"] == 1, "of however few images"


def test_beyond_the_tolerance_it_is_refused_with_what_was_found(
    trained, network_graph, cli, monkeypatch
):
    del network_graph

    def spoil(model, _pixels):
        bias = next(one for one in model.graph.initializer if list(one.dims) == [3])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([9, 0, 0]), bias.name))
        return model

    monkeypatch.setattr("swinclf.exporting.quantize._to_int8", spoil)
    done = cli("export", "--run", trained.path, "--precision", "int8", "--output", "m.onnx")
    assert done.code == 4
    expected, found, hint = error_lines(done)
    assert "within 0.02 on average" in expected
    assert "accuracy 3" in found, "a third, as it always gives the same class"
    assert "labels differ" in found
    assert hint.startswith("--precision fp16")


def test_without_labels_it_is_compared_on_images_alone(trained, network_graph, cli, tmp_path):
    del network_graph
    data = tmp_path / "mixed"
    data.mkdir()
    for number, path in enumerate(sorted(trained.data.rglob("*.png"))[::4]):
        shutil.copy(path, data / f"{number}.png")
    words = ("export", "--run", trained.path, "--precision", "fp16", "--output", "m.onnx")
    record = json.loads(cli(*words, "--data", data, "--json").out)
    assert (record["parity"]["images"], record["accuracy"]) == (9, None)
    (tmp_path / "empty").mkdir()
    none = cli(*words, "--data", tmp_path / "empty")
    assert none.code == 1
    assert "--data DIR" in error_lines(none)[2]


def test_the_missing_extra_is_named(trained, network_graph, cli, monkeypatch):
    del network_graph
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    done = cli("export", "--run", trained.path, "--precision", "int8", "--output", "m.onnx")
    assert done.code == 1
    assert error_lines(done)[2] == "pip install 'swinclf[onnx]'"


def test_the_tolerance_is_of_the_mean_and_of_the_share_of_labels():
    near = Parity(100, 0.9, 2, 0.02, rejections=2, most_flips=2, mean=0.02, is_of_mean=True)
    assert near.agrees, "a single image may differ by more"
    for wrong in ({"mean": 0.021}, {"flips": 3}, {"rejections": 3}, {"metadata": ("reject",)}):
        assert not replace(near, **wrong).agrees


@pytest.mark.parametrize("option", [("--precision", "int8"), ("--embed", "preprocess")])
def test_formats_without_variants_are_refused(trained, cli, option):
    done = cli("export", "--run", trained.path, "--format", "timm", *option)
    assert done.code == 2
    assert error_lines(done)[0] == f"--format onnx or web, for {' '.join(option)}"
    both = cli("export", "--run", trained.path, "--all", *option)
    assert both.code == 2
    assert error_lines(both)[1] == f"--all and {' '.join(option)}"
