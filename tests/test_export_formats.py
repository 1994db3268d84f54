"""export: other formats answer as the run does, in their own programs too; tampering is noticed."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import zipfile
from dataclasses import replace

import pytest
import timm
import torch
from conftest import error_lines
from exported_models import CLASSES
from PIL import Image

import swinclf
from swinclf.card import ModelCard
from swinclf.commands import export as export_verb
from swinclf.config import ExportFormat, Impl
from swinclf.device import Precision, import_openvino
from swinclf.errors import ExportError, MismatchError, RunError
from swinclf.export_formats import FORMATS, find_export
from swinclf.exporting.timm_writer import divide_logits
from swinclf.exporting.verified_export import Export
from swinclf.files import write_text
from swinclf.inference.predictor import open_predictor
from swinclf.models.build import build_network
from swinclf.models.embedded import PREPROCESS
from swinclf.models.names import Architecture
from swinclf.models.store import save_model
from swinclf.preprocess import Preprocess
from swinclf.run_folder import RunFolder, find_data_folder, find_enclosing_run

CASES = [
    *(("vit", one) for one in ("onnx", "timm", "torch-export", "openvino")),
    *(("swin", one) for one in ("timm", "torch-export")),
    *(("lite", one) for one in ("timm", "openvino")),
]


@pytest.mark.parametrize(("name", "export_format"), CASES)
def test_an_export_predicts_and_rejects_like_its_run(
    export_of, export_models, photos, name, export_format
):
    files = sorted(photos.iterdir())
    ours = list(swinclf.load(export_models[name]).predict(files, reject=0.9))
    theirs = list(swinclf.load(export_of(name, export_format)).predict(files, reject=0.9))
    assert [one.label for one in ours] == [one.label for one in theirs]
    assert 0 < sum(one.label == "unknown" for one in ours) < len(files)
    for one, other in zip(ours, theirs, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
        assert one.ood_score == pytest.approx(other.ood_score, rel=1e-3)


def test_an_export_is_accepted_wherever_a_run_is(export_of, cli, trained, tmp_path):
    for export_format in ("timm", "torch-export", "openvino"):
        path = export_of("vit", export_format)
        out = tmp_path / export_format
        done = cli("eval", trained.data, "--run", path, "--output", out, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["images"] == 36
    folder = export_of("vit", "timm")
    assert cli("eval", trained.data, "--run", folder).code == 0
    assert (folder.parent / "eval-1" / "metrics.json").is_file()
    for path in (folder, folder / "swinclf.json", folder / "model.safetensors"):
        assert find_export(path) == (FORMATS["timm"], folder / "swinclf.json")
    assert find_export(trained.path) is None
    done = cli("predict", trained.data / "red" / "003.png", "--run", folder, "--engine", "auto")
    assert "engine" not in done.err, done.err


def test_the_run_of_a_folder_exported_into_it_is_found(trained, tmp_path):
    inside = trained.path / "model-timm" / "model.safetensors"
    assert find_enclosing_run(inside) == RunFolder(trained.path.resolve())
    assert find_data_folder(inside) == trained.data
    assert find_enclosing_run(tmp_path / "model-timm" / "model.safetensors") is None


# --- timm and transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "swin", "lite"])
def test_timm_computes_the_same_logits_from_image_files(export_of, export_models, photos, name):
    folder, files = export_of(name, "timm"), sorted(photos.iterdir())
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**data, is_training=False)
    pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        logits = network(pixels)
    wanted = list(swinclf.load(export_models[name]).predict(files, top_k=3))
    names = network.pretrained_cfg["label_names"]
    for row, one in zip(logits.softmax(1), wanted, strict=True):
        found = dict(zip(names, row.tolist(), strict=True))
        assert found == pytest.approx(dict(one.top), abs=1e-5)


def test_transformers_computes_the_same_probabilities(export_of, export_models, photos):
    transformers = pytest.importorskip("transformers")
    files = sorted(photos.iterdir())[::5]
    pipe = transformers.pipeline("image-classification", model=str(export_of("vit", "timm")))
    wanted = swinclf.load(export_models["vit"]).predict(files, top_k=3)
    for file, one in zip(files, wanted, strict=True):
        found = {row["label"]: row["score"] for row in pipe(str(file), top_k=3)}
        assert found == pytest.approx(dict(one.top), abs=1e-5)


def test_the_folder_has_a_model_card_and_the_thresholds(export_of, export_models):
    folder = export_of("lite", "timm")
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "reject.safetensors", "README.md", "swinclf.json"),
    }
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith('---\nlibrary_name: "timm"\npipeline_tag: "image-classification"\n')
    assert "`blue`, `green`, `red`" in text
    rest = json.loads((folder / "swinclf.json").read_text("utf-8"))
    confidence = open_predictor(export_models["lite"]).card.confidence
    assert rest["reject"] == {
        "min_probability": {"0.9": confidence.thresholds[0].probability},
        "max_ood_score": confidence.ood_threshold,
    }
    assert rest["license"] == "unknown"  # it is no run, which would say what it started from


def test_the_card_of_a_run_has_its_scores_and_license(trained, cli, tmp_path):
    done = cli("export", "--run", trained.path, "--format", "timm", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| accuracy | " in text
    assert "The training started from random weights." in text


def test_a_folder_with_other_files_is_not_overwritten(export_models, photos, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExportError, match="an empty or a new folder"):
        swinclf.load(export_models["vit"]).export(tmp_path, export_format="timm", data=photos)
    assert (tmp_path / "config.json").read_text() == "{}"
    with pytest.raises(ExportError, match="found: a file"):
        swinclf.load(export_models["vit"]).export(
            tmp_path / "config.json", export_format="timm", data=photos
        )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("volo_d1_224", (2, 9, 384)),  # adds the logits of an auxiliary head
        ("levit_128s", (2, 9, 384)),  # two heads, each with a batch norm
        ("caformer_s18", (2, 512, 3, 3)),  # an MLP
    ],
)
@torch.no_grad()
def test_the_logits_of_any_kind_of_head_are_divided(name, shape):
    network = timm.create_model(name, num_classes=3).eval()
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    whole = network.forward_head(tokens)
    divide_logits(network, 2.0)
    torch.testing.assert_close(network.forward_head(tokens), whole / 2)


def test_a_network_that_timm_cannot_build_is_named(photos, tmp_path):
    size = Preprocess(**{**vars(PREPROCESS), "height": 32, "width": 32})
    card = ModelCard(
        model="vit",
        impl=Impl.NATIVE,
        classes=CLASSES,
        preprocess=size,
        precision=Precision.FP32,
        model_args={"depth": "1", "embed_dim": "32", "num_heads": "2"},
    )
    shape = Architecture("vit", Impl.NATIVE, 3, img_size=32, model_args=card.model_args)
    save_model(tmp_path / "own.safetensors", build_network(shape), card)
    with pytest.raises(ExportError, match="a network that timm builds too: 'vit'"):
        swinclf.load(tmp_path / "own.safetensors").export(
            tmp_path / "out", export_format="timm", data=photos
        )


# --- tampering ----------------------------------------------------------------------------------


def edit_onnx(path, key, change):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    values = {one.key: one.value for one in model.metadata_props}
    values[key] = json.dumps(change(json.loads(values[key])))
    onnx.helper.set_model_props(model, values)
    onnx.save(model, str(path))


def edit_json(path, key, change):
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, key: change(values[key])}), "utf-8")


def raised(table):
    return {**table, "min_probability": {"0.9": 0.99}}


TAMPERING = {
    "another mean": ("preprocessing", lambda one: {**one, "mean": [0.3, 0.4, 0.5]}),
    "another filter": ("preprocessing", lambda one: {**one, "interpolation": "bilinear"}),
    "classes in another order": ("classes", lambda names: names[::-1]),
    "a wrong threshold": ("calibration", lambda one: {**one, "thresholds": [[0.9, 0.99, 0.5]]}),
    "a wrong rule": ("reject", raised),
}
IN_TIMM = {
    "another mean": ("config.json", "pretrained_cfg", TAMPERING["another mean"][1]),
    "another filter": ("config.json", "pretrained_cfg", TAMPERING["another filter"][1]),
    "classes in another order": ("config.json", "label_names", lambda names: names[::-1]),
    "a wrong threshold": ("swinclf.json", "calibration", TAMPERING["a wrong threshold"][1]),
    "a wrong rule": ("swinclf.json", "reject", raised),
}


@pytest.mark.parametrize("what", TAMPERING)
@pytest.mark.parametrize("export_format", ["onnx", "timm"])
def test_a_wrong_export_ends_in_4(
    export_of, export_models, photos, cli, tmp_path, monkeypatch, export_format, what
):
    original, path = export_of("vit", export_format), tmp_path / "out.onnx"

    def write(_source, output):
        if export_format == "onnx":
            output.write_bytes(original.read_bytes())
            edit_onnx(output, *TAMPERING[what])
        else:
            output.mkdir(exist_ok=True)
            for file in original.iterdir():
                (output / file.name).write_bytes(file.read_bytes())
            name, *change = IN_TIMM[what]
            edit_json(output / name, *change)

    monkeypatch.setattr("swinclf.exporting.writers.export_onnx", write)
    monkeypatch.setattr("swinclf.exporting.timm_writer.export_timm", write)
    words = ("--format", export_format, "--output", path, "--data", photos)
    done = cli("export", "--run", export_models["vit"], *words)
    assert done.code == 4, done.err
    assert "metadata" in error_lines(done)[1]


@pytest.mark.parametrize("what", ["another mean", "another filter", "classes in another order"])
def test_wrong_preprocessing_shows_in_the_answers(
    export_of, export_models, photos, monkeypatch, what
):
    """Without the comparison of the metadata: the file is read by what it says itself."""
    original, change = export_of("vit", "onnx"), TAMPERING[what]

    def write(_source, output):
        output.write_bytes(original.read_bytes())
        edit_onnx(output, *change)

    monkeypatch.setattr("swinclf.exporting.writers.export_onnx", write)
    monkeypatch.setattr("swinclf.exporting.verified_export.differing_metadata", lambda *_: ())
    with pytest.raises(MismatchError):
        swinclf.load(export_models["vit"]).export(original.with_name("x.onnx"), data=photos)


# --- programs of torch.export -------------------------------------------------------------------


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def graph_with(name, value):
    """Change the first node's value of that name."""

    def change(model):
        text = json.dumps(model)
        values = [value for key, value in pairs(model) if key == name]
        return json.loads(text.replace(json.dumps(values[0]), json.dumps(value)))

    return change


def pairs(values):
    if isinstance(values, dict):
        yield from values.items()
    for one in values.values() if isinstance(values, dict) else values:
        if isinstance(one, dict | list):
            yield from pairs(one)


HOSTILE = {
    "an operator": ("models/model.json", graph_with("target", "torch.os.system")),
    "a shape": ("models/model.json", graph_with("expr_str", "__import__('os').abort()")),
    "guards": ("models/model.json", lambda one: {**one, "guards_code": ["exit()"]}),
    "a pickle": ("data/sample_inputs/model.pt", None),
    "a library": ("data/aotinductor/model/x.so", None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_program_that_could_execute_code_is_refused(export_of, cli, tmp_path, photos, what):
    part, change = HOSTILE[what]
    path, bomb = tmp_path / "bomb.pt2", tmp_path / "executed"
    with (
        zipfile.ZipFile(export_of("vit", "torch-export")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target,
    ):
        root = source.namelist()[0].partition("/")[0]
        for name in source.namelist():
            content = source.read(name)
            if name == f"{root}/{part}":
                if change is None:
                    continue
                content = json.dumps(change(json.loads(content))).encode()
            target.writestr(name, content)
        if change is None:
            target.writestr(f"{root}/{part}", pickle.dumps(Bomb(bomb)))
    done = cli("predict", photos, "--run", path)
    assert done.code == 1
    assert str(path) in error_lines(done)[0]
    assert not bomb.exists()


def test_a_program_says_nothing_of_the_machine_that_wrote_it(export_of):
    with zipfile.ZipFile(export_of("vit", "torch-export")) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("models/model.json"))
        assert b".py" not in archive.read(name)


# --- the command --------------------------------------------------------------------------------


def test_all_formats_in_one_table(export_of, export_models, photos, cli, tmp_path, monkeypatch):
    """Writers copy what other tests have written: exporting takes seconds."""

    def copy(export_format):
        original = export_of("vit", export_format)

        def write(_source, output):
            if original.is_dir():
                output.mkdir(exist_ok=True)
                for file in original.iterdir():
                    (output / file.name).write_bytes(file.read_bytes())
                return
            output.write_bytes(original.read_bytes())

        return write

    for export_format in ("onnx", "timm"):
        writer = FORMATS[export_format].writer.replace(":", ".")
        monkeypatch.setattr(writer, copy(export_format))
    names = ("onnx", "timm", "openvino", "coreml", "litert")
    monkeypatch.setattr(export_verb, "FORMATS", {one: FORMATS[one] for one in names})
    monkeypatch.setattr("swinclf.exporting.verified_export.SPEED_S", 0.0)
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = (
        "export",
        "--all",
        "--run",
        export_models["vit"],
        "--data",
        photos,
        "--output",
        tmp_path,
    )
    done = cli(*words)
    assert done.code == 0, done.err
    rows = [line.split()[0] for line in done.out.splitlines()]
    assert rows[:4] == ["format", "the", "onnx", "timm"]
    assert "pip install 'swinclf[openvino]'" in done.out
    assert "pip install 'swinclf[coreml]'" in done.out
    assert "pip install 'swinclf[litert]'" in done.out
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"model.onnx", "model-timm"}
    done = cli(*words, "--json", "--tolerance", "0")
    assert done.code == 4
    assert [one["format"] for one in json.loads(done.out)["exports"]] == ["onnx", "timm"]


def test_a_runtime_that_fails_does_not_hide_the_other_formats(trained, cli, monkeypatch):
    class Run:
        predictor = None

        def __init__(self, *_):
            pass

        def export(self, export_format, path, *, with_speed):
            assert with_speed
            if export_format is ExportFormat.OPENVINO:
                raise RunError("a network", found="no such layer", hint="swinclf export")
            if export_format is ExportFormat.LITERT:
                raise ExportError("the extra", found="not installed", hint="pip install")
            return Export(export_format, path, 1, None)

    monkeypatch.setattr(export_verb, "RunToExport", Run)
    monkeypatch.setattr(export_verb, "measure_speed", lambda _: 1.0)
    done = cli("export", "--all", "--run", trained.path)
    assert done.code == 4
    assert "openvino: failed: no such layer" in done.out
    assert "litert: not written: not installed" in done.out
    names = [line.split()[0] for line in done.out.splitlines()]
    assert {"onnx", "timm", "torch-export", "web", "coreml"} <= set(names)
    monkeypatch.setattr(export_verb, "FORMATS", {ExportFormat.LITERT: FORMATS["litert"]})
    assert cli("export", "--all", "--run", trained.path).code == 4, "nothing is written"


@pytest.mark.parametrize("export_format", ["coreml", "litert"])
def test_a_missing_converter_is_named(trained, cli, monkeypatch, export_format):
    for name in ("coremltools", "litert_torch"):
        monkeypatch.setitem(sys.modules, name, None)
    done = cli("export", "--run", trained.path, "--format", export_format)
    assert done.code == 1
    assert f"the optional extra '{export_format}'" in error_lines(done)[0]
    assert f"pip install 'swinclf[{export_format}]'" in error_lines(done)[2]


def test_an_export_that_cannot_be_compared_here_says_so(trained, cli, tmp_path, monkeypatch):
    """As Core ML's on systems other than macOS."""
    entry = replace(FORMATS[ExportFormat.TORCH_EXPORT], platform="another system")
    monkeypatch.setitem(FORMATS, ExportFormat.TORCH_EXPORT, entry)
    monkeypatch.setattr(
        "swinclf.exporting.writers.export_program", lambda _, path: write_text(path, "-")
    )
    words = ("export", "--run", trained.path, "--format", "torch-export")
    done = cli(*words, "--output", tmp_path / "model.pt2")
    assert done.code == 0
    assert "NOT compared with the run" in done.err
    record = json.loads(cli(*words, "--output", tmp_path / "model.pt2", "--json").out)
    assert record["parity"] is None


def test_a_stray_manifest_is_no_core_ml_file(export_of, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    (run / "Manifest.json").write_text("{}")
    assert find_export(run / "model.safetensors") is None
    assert find_export(run) is None
    assert open_predictor(run / "model.safetensors").card.classes
    package = tmp_path / "model.mlpackage"
    package.mkdir()
    (package / "Manifest.json").write_text("{}")
    for path in (package, package / "Manifest.json"):
        assert find_export(path) == (FORMATS[ExportFormat.COREML], package / "Manifest.json")
    assert find_export(export_of("vit", "timm") / "model.safetensors") is not None


def test_one_of_all_and_format(trained, cli):
    done = cli("export", "--run", trained.path, "--all", "--format", "onnx")
    assert done.code == 2
    assert "one of --all and --format" in error_lines(done)[0]


def test_an_output_needs_the_suffix_of_its_format(trained, cli, tmp_path):
    done = cli("export", "--run", trained.path, "--output", tmp_path / "flowers.pt2")
    assert done.code == 2
    assert "flowers.onnx" in error_lines(done)[2]


def test_openvino_is_imported_without_its_telemetry():
    assert hasattr(import_openvino(), "Core")
    assert "openvino_telemetry" not in sys.modules
