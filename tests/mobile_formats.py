"""Exports to LiteRT and Core ML, with their converters; run by `make test-mobile`."""

from __future__ import annotations

import json
import sys
import zipfile

import coremltools
import pytest
from conftest import error_lines, write_image
from exported_models import write_model
from test_doc_commands import PROGRAMS

import swinclf
from swinclf.config import Impl
from swinclf.errors import ExportError
from swinclf.models.embedded import PREPROCESS
from swinclf.preprocess import Fit, Interpolation, Preprocess

NETWORKS = [
    ("embedded", Impl.TIMM),
    ("vit_tiny_patch16_224", Impl.TIMM),
    ("vit_tiny_patch16_224", Impl.NATIVE),
    ("swin_tiny_patch4_window7_224", Impl.TIMM),
    ("swin_tiny_patch4_window7_224", Impl.NATIVE),
]


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """64 images of many sizes."""
    folder = tmp_path_factory.mktemp("shots")
    colours = [(200, 50, 40), (40, 180, 60), (50, 60, 200), (128, 128, 128)]
    for number in range(64):
        size = (40 + 17 * (number % 13), 40 + 11 * (number % 7))
        write_image(folder / f"{number:02d}.png", colours[number % 4], seed=number, size=size)
    return folder


@pytest.fixture(scope="module")
def model_of(tmp_path_factory, shots):
    """Networks with a temperature and a rejection rule, each written once."""
    folder, done = tmp_path_factory.mktemp("models"), {}
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    cubic = Preprocess(
        height=224,
        width=224,
        crop_pct=0.9,
        fit=Fit.CROP,
        interpolation=Interpolation.BICUBIC,
        **colours,
    )

    def write(name, impl):
        if (name, impl) not in done:
            path, is_embedded = folder / f"{name}-{impl}.safetensors", name == "embedded"
            size = PREPROCESS if is_embedded else cubic
            write_model(name, size, shots, path, impl=impl, pretrained=is_embedded)
            done[name, impl] = path
        return done[name, impl]

    return write


@pytest.mark.parametrize(("name", "impl"), NETWORKS)
def test_a_litert_file_predicts_and_rejects_like_its_run(model_of, shots, tmp_path, name, impl):
    model, path = model_of(name, impl), tmp_path / "model.tflite"
    done = swinclf.load(model).export(path, export_format="litert", data=shots)
    assert done.parity.images == 64
    assert done.parity.largest < 1e-4
    files = sorted(shots.iterdir())
    ours = list(swinclf.load(model).predict(files, reject=0.9))
    theirs = list(swinclf.load(path).predict(files, reject=0.9))
    assert [one.label for one in ours] == [one.label for one in theirs]
    assert 0 < sum(one.label == "unknown" for one in ours) < len(files)


def test_the_program_without_this_package(model_of, shots, tmp_path, monkeypatch, capsys):
    model = model_of("embedded", Impl.TIMM)
    swinclf.load(model).export(tmp_path / "model.tflite", export_format="litert", data=shots)
    files = sorted(shots.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program.py", *map(str, files)])
    assert len(PROGRAMS["litert"].splitlines()) <= 25
    exec(compile(PROGRAMS["litert"], "litert", "exec"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    wanted = list(swinclf.load(model).predict(files, reject=0.9))
    assert [row[:2] for row in rows] == [[one.path, one.label] for one in wanted]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [one.probability for one in wanted], abs=1e-5
    )
    with zipfile.ZipFile("model.tflite") as archive:
        assert archive.read("labels.txt").decode().split() == ["blue", "green", "red"]


def test_damaged_and_foreign_litert_files_are_refused(model_of, shots, cli, tmp_path):
    path = tmp_path / "model.tflite"
    swinclf.load(model_of("embedded", Impl.TIMM)).export(path, export_format="litert", data=shots)
    content = path.read_bytes()
    for damaged in (content[:1000], b"no network", content[: content.rindex(b"PK\x01\x02")]):
        path.write_bytes(damaged)
        done = cli("predict", shots, "--run", path)
        assert done.code == 1
        assert str(path) in error_lines(done)[0]


@pytest.mark.parametrize(("name", "impl"), NETWORKS)
def test_a_core_ml_file_has_the_outputs_and_the_metadata(
    model_of, shots, cli, tmp_path, name, impl
):
    path = tmp_path / "model.mlpackage"
    for _ in range(2):  # the second one is written over the first
        words = ("export", "--run", model_of(name, impl), "--format", "coreml", "--output", path)
        done = cli(*words, "--data", shots, "--json")
        assert done.code == 0, done.err
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    description = model.get_spec().description
    shapes = {one.name: list(one.type.multiArrayType.shape) for one in description.input}
    assert shapes == {"pixels": [1, 3, 224, 224]}
    assert [one.name for one in description.output] == ["logits", "features", "ood_score"]
    assert json.loads(model.user_defined_metadata["classes"]) == ["blue", "green", "red"]
    if sys.platform == "darwin":
        assert json.loads(done.out)["parity"]["largest"] < 1e-3
    else:
        assert json.loads(done.out)["parity"] is None
        refused = cli("predict", shots, "--run", path)
        assert refused.code == 1
        assert "expected macOS, to compute a Core ML file" in refused.err


def test_a_folder_with_other_files_is_not_overwritten(model_of, shots, tmp_path):
    folder = tmp_path / "mine.mlpackage"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="a new folder for the export"):
        swinclf.load(model_of("embedded", Impl.TIMM)).export(
            folder, export_format="coreml", data=shots
        )
    assert (folder / "notes.txt").is_file()
