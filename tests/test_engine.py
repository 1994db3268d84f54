"""predict --engine: an export computes a run on the CPU where it agrees and is faster."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import error_lines

import swinclf
from swinclf.config import Engine
from swinclf.errors import ConfigError
from swinclf.exporting import engine as engines
from swinclf.exporting.engine import open_engine
from swinclf.inference.exported_predictor import OnnxPredictor
from swinclf.inference.predictor import InferenceOptions, TorchPredictor
from swinclf.parallel_batches import ParallelBatches
from swinclf.reporter import SILENT

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(trained, known_graph, tmp_path_factory):
    """A copy of a run with its export to ONNX."""
    path = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(trained.path, path)
    with known_graph():
        open_engine(path / "model.safetensors", Engine.ONNX, InferenceOptions(), SILENT)
    return path


@pytest.fixture
def copied_export(run, monkeypatch):
    """Exporting takes seconds: what is written is a copy of the export of the run."""
    content = (run / "model.onnx").read_bytes()
    monkeypatch.setattr(
        "swinclf.exporting.writers.export_onnx", lambda _source, path: path.write_bytes(content)
    )


def open_auto(run, monkeypatch, speeds):
    """Open the run with --engine auto; torch and the export have these speeds."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(
        engines, "measure_speed", lambda one, _s: speeds[isinstance(one, OnnxPredictor)]
    )
    return open_engine(run / "model.safetensors", Engine.AUTO, InferenceOptions(), SILENT)


def test_a_named_engine_gives_the_predictions_of_torch(run, trained, cli):
    assert (run / "model.onnx").is_file()
    words = ("predict", trained.data, "--run", run, "--format", "json")
    ours, theirs = (json.loads(cli(*words, "--engine", one).out) for one in ("torch", "onnx"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_features_are_computed_by_a_named_engine(run, trained):
    files = sorted(trained.data.rglob("*.png"))[:9]
    ours, theirs = (swinclf.load(run, engine=one) for one in ("torch", "onnx"))
    assert np.allclose(ours.embed(files), theirs.embed(files), atol=1e-4)
    assert isinstance(theirs._predictor, OnnxPredictor)
    assert isinstance(pickle.loads(pickle.dumps(theirs))._predictor, OnnxPredictor)
    with pytest.raises(ConfigError, match="engine torch or auto or openvino or onnx"):
        swinclf.load(run, engine="tensorrt")


def test_auto_takes_an_export_only_if_it_is_much_faster(run, monkeypatch):
    assert isinstance(open_auto(run, monkeypatch, (100.0, 200.0)), OnnxPredictor)
    assert isinstance(open_auto(run, monkeypatch, (100.0, 120.0)), TorchPredictor)
    assert isinstance(open_auto(run, monkeypatch, (100.0, 50.0)), TorchPredictor)


def test_the_speed_is_that_of_as_many_batches_at_a_time_as_predict_computes():
    both, sizes = Barrier(2, timeout=30), []

    def outputs(pixels):
        sizes.append(len(pixels))
        if len(sizes) > 1:  # the first one warms up
            both.wait()

    size = SimpleNamespace(preprocess=SimpleNamespace(height=2, width=3))
    parallel = ParallelBatches(2, size=4)
    own = SimpleNamespace(card=size, parallel=parallel, outputs=outputs)
    assert engines.measure_speed(own, 0.0) > 0
    assert sizes == [4, 4, 4]


def test_auto_never_takes_an_export_that_differs(run, monkeypatch, copied_export):
    del copied_export
    monkeypatch.setattr("swinclf.exporting.verified_export.DEFAULT_TOLERANCE", -1.0)
    assert isinstance(open_auto(run, monkeypatch, (100.0, 1000.0)), TorchPredictor)


def test_an_export_that_does_not_belong_to_the_run_is_written_again(run, tmp_path, copied_export):
    del copied_export
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "model.onnx").write_bytes(b"damaged")
    open_engine(copy / "model.safetensors", Engine.ONNX, InferenceOptions(), SILENT)
    assert (copy / "model.onnx").stat().st_size > 1000


def test_an_exported_file_is_its_own_engine(run):
    file = run / "model.onnx"
    assert isinstance(open_engine(file, Engine.AUTO, InferenceOptions(), SILENT), OnnxPredictor)
    with pytest.raises(ConfigError, match="a run on the CPU for --engine onnx"):
        open_engine(file, Engine.ONNX, InferenceOptions(), SILENT)


def test_a_named_engine_without_its_extra_says_so(run, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = cli("predict", "x.png", "--run", run, "--engine", "openvino")
    assert done.code == 1
    assert error_lines(done)[2] == "pip install 'swinclf[openvino]'"


def test_a_model_file_without_stored_images_is_computed_by_torch(run, trained, cli, tmp_path):
    """Nothing shows there that an export agrees; `predict` has no --data to hint at."""
    shutil.copy(run / "model.safetensors", tmp_path)
    words = ("predict", next(trained.data.rglob("*.png")), "--run", tmp_path / "model.safetensors")
    done = cli(*words, "--engine", "auto")
    assert done.code == 0
    assert "engine: torch, as there are no images" in " ".join(done.err.split())
    done = cli(*words, "--engine", "onnx")
    assert done.code == 1
    assert error_lines(done)[2] == "--engine torch"
