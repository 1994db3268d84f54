"""export: one file that answers as the run does, for any number of pictures, without torch."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_SETTINGS, error_lines, read_rows

import swinclf
from swinclf.confidence.selective import Confidence, Threshold
from swinclf.exporting import writers
from swinclf.exporting.parity import Answers, Parity, compare_answers, worst_parity
from swinclf.inference.predictor import open_predictor

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def swin(trained, tiny_swin, tmp_path_factory):
    """A finished run of a small Swin on the same pictures."""
    out = tmp_path_factory.mktemp("swin")
    settings = {**SMALL_SETTINGS, "model": tiny_swin, "augment": "none", "lr": 2e-3, "epochs": 3}
    return swinclf.train(trained.data, out=str(out), **settings).folder.path


@pytest.fixture(scope="module")
def exported(trained, swin, known_graph, tmp_path_factory):
    """The ONNX file of each run."""
    folder = tmp_path_factory.mktemp("exported")
    files = {}
    for name, run in (("vit", trained.path), ("swin", swin)):
        files[name] = folder / f"{name}.onnx"
        with known_graph() if name == "vit" else nullcontext():
            done = swinclf.load(run).export(files[name])
        assert done.path == files[name]
        assert done.parity.agrees
        assert done.parity.images > 0
    return files


@pytest.fixture(params=["vit", "swin"])
def pair(request, trained, swin, exported):
    """A run and its ONNX file."""
    return (trained.path if request.param == "vit" else swin), exported[request.param]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_number_of_pictures_gets_the_runs_answers(pair, trained, size):
    run, file = pair
    files = sorted(trained.data.rglob("*.png"))[::3][:size]
    ours = open_predictor(run / "model.safetensors")
    theirs = open_predictor(file)
    pixels = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
    theirs_out, ours_out = theirs.outputs(pixels), ours.outputs(pixels)
    temperature = ours.card.confidence.temperature
    np.testing.assert_allclose(theirs_out.features, ours_out.features, rtol=0, atol=1e-4)
    np.testing.assert_allclose(theirs_out.logits, ours_out.logits / temperature, rtol=0, atol=1e-4)
    scores = ours.card.confidence.space.ood_scores(ours_out.features)
    np.testing.assert_allclose(theirs_out.ood_score, scores, rtol=1e-3)
    wanted = swinclf.load(run).predict(files)
    for one, other in zip(wanted, swinclf.load(file).predict(files), strict=True):
        assert one.label == other.label
        assert dict(one.top) == pytest.approx(dict(other.top), abs=1e-5)


def test_the_file_can_be_used_without_this_program(pair, trained):
    run, file = pair
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (inputs,), (outputs, features, score) = session.get_inputs(), session.get_outputs()
    assert (inputs.name, inputs.type, inputs.shape[1:]) == ("pixels", "tensor(float)", [3, 32, 32])
    assert isinstance(inputs.shape[0], str), "the number of pictures is free"
    assert (outputs.name, outputs.shape[1], features.name) == ("logits", 3, "features")
    assert (score.name, len(score.shape)) == ("ood_score", 1)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["blue", "green", "red"]
    how = json.loads(metadata["preprocessing"])
    assert (how["height"], how["width"], how["fit"]) == (32, 32, "crop")
    assert len(how["mean"]) == len(how["std"]) == 3
    card = open_predictor(run / "model.safetensors").card
    applied = replace(card, confidence=replace(card.confidence, temperature=1.0))
    assert open_predictor(file).card.to_metadata() == applied.to_metadata()
    # By the metadata alone: a plain picture of one colour, scaled and normalised by hand.
    red = np.full((1, 3, 32, 32), 0, np.float32)
    for channel, value in enumerate((200, 50, 40)):
        red[:, channel] = (value / 255 - how["mean"][channel]) / how["std"][channel]
    logits, *_ = session.run(None, {"pixels": red})
    assert json.loads(metadata["classes"])[int(logits.argmax())] == "red"
    assert trained.data.is_dir()


def test_it_is_one_valid_file_without_data_beside_it(exported):
    for file in exported.values():
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.load(str(file), load_external_data=False)
        assert not any(one.external_data for one in model.graph.initializer)
    folder = next(iter(exported.values())).parent
    assert {path.name for path in folder.iterdir()} == {"vit.onnx", "swin.onnx"}


def test_predict_and_eval_give_the_runs_rows(trained, exported, cli, tmp_path):
    file = exported["vit"]
    for form in ("json", "csv"):
        words = ("predict", trained.data, "--format", form)
        ours, theirs = (cli(*words, "--run", run) for run in (trained.path, file))
        assert theirs.code == 0, theirs.err
        if form == "json":
            for one, other in zip(json.loads(ours.out), json.loads(theirs.out), strict=True):
                assert (one["path"], one["label"]) == (other["path"], other["label"])
                assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
    for name, run in (("ours", trained.path), ("theirs", file)):
        done = cli("eval", trained.data, "--run", run, "--output", tmp_path / name)
        assert done.code == 0, done.err
    ours, theirs = (read_rows(tmp_path / name / "predictions.csv") for name in ("ours", "theirs"))
    assert [row["path"] for row in ours] == [row["path"] for row in theirs]
    assert [row["predicted"] for row in ours] == [row["predicted"] for row in theirs]
    metrics = [
        json.loads((tmp_path / name / "metrics.json").read_text("utf-8"))
        for name in ("ours", "theirs")
    ]
    assert metrics[0]["confusion_matrix"] == metrics[1]["confusion_matrix"]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], abs=1e-4)


def test_an_export_predicts_and_evaluates_without_torch(trained, exported, tmp_path):
    code = """
import sys
from swinclf.cli.app import main
for words in (sys.argv[1:5], ["eval", sys.argv[2], *sys.argv[3:5], "--output", sys.argv[5]]):
    sys.argv = ["swinclf", *words] if words[0] == "predict" else ["swinclf", *words]
    try:
        main()
    except SystemExit as ending:
        assert not ending.code, ending.code
    sys.argv = ORIGINAL
print(sorted({"torch", "timm", "torchvision"} & sys.modules.keys()))
""".replace("import sys\n", "import sys\nORIGINAL = list(sys.argv)\n", 1)
    words = ["predict", str(trained.data), "--run", str(exported["vit"]), str(tmp_path / "scores")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "scores" / "metrics.json").is_file()


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def quick_export(monkeypatch, exported):
    """Exporting takes seconds: the command writes a file that was exported before."""

    def write(_source, path):
        path.write_bytes(exported["vit"].read_bytes())

    monkeypatch.setattr("swinclf.exporting.writers.export_onnx", write)


def test_the_command_says_how_near_the_answers_are(trained, cli, tmp_path, quick_export):
    del quick_export
    path = tmp_path / "new" / "out.onnx"
    done = cli("export", "--run", trained.path, "--format", "onnx", "--output", path)
    assert done.code == 0, done.err
    assert done.out == f"{path}\n"
    assert "probabilities differ by" in done.err
    assert re.search(r"\b0 of \d+ labels differ", done.err), done.err
    assert "tolerance 0.001" in done.err


def test_without_an_output_it_goes_into_the_run(cli, dataset, quick_export, tmp_path):
    del quick_export
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **SMALL_SETTINGS).folder.path
    cli("export")  # the file is of another run: whether it agrees is not the question here
    assert (run / "model.onnx").is_file()


def test_other_images_to_compare_on(trained, cli, tmp_path, quick_export):
    del quick_export
    words = ("export", "--run", trained.path, "--output", tmp_path / "out.onnx")
    done = cli(*words, "--data", trained.data / "red")
    assert done.code == 0
    assert "on 12 images" in done.err
    for verb in (("export", "--run"), ("inspect",)):
        done = cli(*verb, trained.path, "--output", trained.data / "new")
        assert "nothing is ever written into a dataset" in done.err
    (tmp_path / "empty").mkdir()
    none = cli(*words, "--data", tmp_path / "empty")
    assert none.code == 1
    assert "--data DIR" in error_lines(none)[2]


def test_a_tolerance_that_is_exceeded_ends_in_4(trained, cli, tmp_path, quick_export):
    del quick_export
    words = ("export", "--run", trained.path, "--output", tmp_path / "out.onnx")
    assert cli(*words, "--tolerance", "1e-12").code == 4


def test_a_damaged_weight_ends_in_4(trained, cli, tmp_path, exported, monkeypatch):
    model = onnx.load(str(exported["vit"]))
    tensor = next(one for one in model.graph.initializer if list(one.dims) == [3, 64])
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] *= -1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    def write(_source, path):
        path.write_bytes(model.SerializeToString())

    monkeypatch.setattr("swinclf.exporting.writers.export_onnx", write)
    done = cli("export", "--run", trained.path, "--output", tmp_path / "out.onnx")
    assert done.code == 4
    expected, found, _ = error_lines(done)
    assert "within 0.001" in expected
    assert "probabilities differ by" in found
    assert "labels differ" in found


def test_an_export_cannot_be_exported(exported, cli):
    done = cli("export", "--run", exported["vit"])
    assert done.code == 1
    assert "an export itself" in error_lines(done)[1]


def test_a_damaged_file_is_no_run(exported, cli, tmp_path):
    content = exported["vit"].read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("empty", b""), ("text", b"hi")):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(damaged)
        done = cli("predict", "x.png", "--run", path)
        assert done.code == 1, done.err
        assert str(path) in error_lines(done)[0]


def test_another_programs_onnx_file_is_refused(exported, cli, tmp_path):
    model = onnx.load(str(exported["vit"]))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    done = cli("predict", "x.png", "--run", tmp_path / "foreign.onnx")
    assert done.code == 1
    assert "a model of swinclf" in error_lines(done)[0]


@pytest.mark.parametrize("option", ["--device cuda", "--precision bf16", "--impl timm"])
def test_onnx_runs_on_the_cpu_only_and_as_it_was_written(exported, cli, option):
    done = cli("predict", "x.png", "--run", exported["vit"], *option.split())
    assert done.code == 1
    assert "--device cpu" in error_lines(done)[0]
    assert error_lines(done)[1] == option


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_the_missing_extra_is_named(trained, cli, monkeypatch, exported, module):
    monkeypatch.setitem(sys.modules, module, None)
    words = (
        ("predict", "x.png", "--run", exported["vit"])
        if module == "onnxruntime"
        else ("export", "--run", trained.path)
    )
    done = cli(*words)
    assert done.code == 1
    assert error_lines(done)[2] == "pip install 'swinclf[onnx]'"


def test_a_network_that_cannot_be_written_is_an_error(trained, cli, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr(writers.torch.onnx, "export", fail)
    done = cli("export", "--run", trained.path)
    assert done.code == 1
    assert "no such operator" in error_lines(done)[1]


# --- the comparison -----------------------------------------------------------------------------


def answers(probabilities, *, names=("a", "b"), rejects_above=math.inf, threshold=0.0):
    """Answers of a model whose third image is out of distribution."""
    rows = (Threshold(0.9, threshold, 1.0),)
    confidence = Confidence(thresholds=rows, ood_threshold=rejects_above)
    return Answers(names, probabilities, np.arange(len(probabilities)) / 2, confidence)


def compare(ours, theirs, *, tolerance):
    return compare_answers(answers(ours), answers(theirs), tolerance=tolerance)


def test_parity_compares_classes_by_name_and_rejections_by_the_files_own_thresholds():
    ours = np.array([[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]], np.float32)
    swapped = answers(ours[:, ::-1], names=("b", "a"))
    assert compare_answers(answers(ours), swapped, tolerance=0).agrees
    assert not compare_answers(answers(ours), answers(ours, names=("b", "a")), tolerance=1).agrees
    assert not compare_answers(answers(ours), answers(ours, names=("b", "c")), tolerance=1).agrees
    for wrong in (answers(ours, threshold=0.55), answers(ours, rejects_above=0.9)):
        parity = compare_answers(answers(ours), wrong, tolerance=1e-3)
        assert (parity.rejections, parity.flips, parity.agrees) == (1, 0, False)
    # The run itself is this near to its threshold: rounding decides.
    near = answers(ours - np.float32(1e-6), threshold=0.6)
    assert compare_answers(answers(ours, threshold=0.6), near, tolerance=1e-3).agrees


def test_the_worst_parity_is_one_that_does_not_agree():
    """With the preprocessing in the file a label may differ, but no probability by so much."""
    near = Parity(images=500, largest=0.001, flips=1, tolerance=0.01, most_flips=1)
    far = Parity(images=500, largest=0.4, flips=0, tolerance=0.01, most_flips=1)
    assert worst_parity([near, far, near]) is far
    assert worst_parity([near, Parity(500, 0.009, 0, 0.01)]) is near


def test_parity_counts_flips_and_the_largest_difference():
    ours = np.array([[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]], np.float32)
    same = compare(ours, ours, tolerance=0)
    assert (same.images, same.largest, same.flips, same.agrees) == (3, 0, 0, True)
    near = compare(ours, ours + np.float32(0.01), tolerance=0.02)
    assert near.agrees
    assert near.largest == pytest.approx(0.01, abs=1e-6)
    flipped = compare(ours, ours[:, ::-1], tolerance=1)
    assert flipped.flips == 2
    assert not flipped.agrees


def test_no_number_is_the_largest_difference():
    ours = np.array([[0.6, 0.4]], np.float32)
    broken = compare(ours, np.array([[np.nan, 0.4]], np.float32), tolerance=0.5)
    assert broken.largest == 1
    assert not broken.agrees
