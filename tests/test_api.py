"""The Python API: what `import swinclf` offers, on small real runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import logging
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from conftest import COLOURS, SMALL_SETTINGS, read_rows, write_dataset
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import swinclf
from swinclf.config import PATHS, SETTING_TYPES, SETTINGS, ResolvedConfig
from swinclf.errors import ConfigError, DataError, ModelError, RunError
from swinclf.models.embedded import HEAD, WEIGHTS
from swinclf.reporter import LoggingReporter

ROOT = Path(swinclf.__file__).parent
SMALL_SWIN = {"embed_dim": 16, "depths": "1,1", "num_heads": "1,2", "window_size": 4}


@pytest.fixture(scope="module")
def classifier(trained):
    return swinclf.load(trained.path)


@pytest.fixture(scope="module")
def exported(trained, known_graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    with known_graph():
        assert swinclf.load(trained.path).export(path).parity.agrees
    return swinclf.load(path)


@pytest.fixture(scope="module")
def paths(trained):
    return sorted(trained.data.rglob("*.png"))[::5]


class Listener(swinclf.Reporter):
    """Collects what is reported."""

    def __init__(self):
        self.heard = []

    def note(self, text):
        self.heard.append(text)

    def epoch(self, row, *, total, best):
        self.heard.append((row.epoch, total, best))


# --- create_model -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("vit", {"img_size": 32, "model_args": {"depth": 1, "embed_dim": 48}}, "ViT"),
        ("swin", {"img_size": 32, "model_args": SMALL_SWIN}, "Swin"),
        ("vit_tiny_patch16_224", {"img_size": 32}, "ViT"),
        ("vit_tiny_patch16_224", {"img_size": 32, "impl": "timm"}, "VisionTransformer"),
        ("test_vit", {}, "VisionTransformer"),
        ("embedded", {}, "EfficientNet"),
    ],
)
def test_create_model_builds_the_packages_own_network_where_it_knows_the_name(name, options, kind):
    network = swinclf.create_model(name, num_classes=5, **options)
    assert isinstance(network, nn.Module)
    assert type(network).__name__ == kind
    assert network.training
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    side = options.get("img_size", 160)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_create_model_without_a_head_gives_features():
    network = swinclf.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


@pytest.mark.parametrize("num_classes", [0, 1000])
def test_the_embedded_weights_with_their_own_head_and_without_one(num_classes):
    network = swinclf.create_model("embedded", num_classes=num_classes, pretrained=True)
    stored = load_tensors(WEIGHTS)
    own = {name: value for name, value in network.state_dict().items() if name in stored}
    assert set(stored) - set(own) == (set() if num_classes else set(HEAD))
    assert all(torch.equal(value, stored[name].float()) for name, value in own.items())


def test_create_model_loads_the_embedded_weights():
    stored = next(iter(load_tensors(WEIGHTS).items()))
    network = swinclf.create_model("embedded", num_classes=3, pretrained=True)
    assert torch.equal(network.state_dict()[stored[0]], stored[1].float())
    fresh = swinclf.create_model("embedded", num_classes=3)
    assert not torch.equal(fresh.state_dict()[stored[0]], stored[1].float())


def load_tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("impl", ["native", "timm"])
@pytest.mark.parametrize("num_classes", [1000, 5, 0])
def test_published_weights_come_with_their_head_where_the_classes_are_as_many(
    monkeypatch, tmp_path, impl, num_classes
):
    name = "vit_tiny_patch16_224"
    torch.manual_seed(1)
    published = swinclf.create_model(name, impl="timm", img_size=32)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(  # what the Hub would give
        "swinclf.models.build.find_pretrained", lambda *_, **__: tmp_path / "model.safetensors"
    )
    network = swinclf.create_model(
        name, num_classes=num_classes, img_size=32, pretrained=True, impl=impl
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        found, wanted = network.eval()(images), published.eval()(images)
        features = published.forward_head(published.forward_features(images), pre_logits=True)
    assert found.shape == (2, num_classes or 192)
    if num_classes == 1000:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    if num_classes == 0:
        torch.testing.assert_close(found, features, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("error", "name", "options", "words"),
    [
        (ModelError, "swin_tinny_patch4_window7_224", {}, "swin_tiny_patch4_window7_224"),
        (ModelError, "embedded", {"impl": "native"}, "--impl timm"),
        (ConfigError, "vit", {"num_classes": -1}, "num_classes of 0 or more"),
        (ConfigError, "vit", {"drop_path": 1.0}, "below 1"),
        (ConfigError, "vit", {"impl": "torch"}, "timm or native"),
        (ModelError, "test_vit", {"model_args": {"deepth": 2}}, "deepth"),
        (ConfigError, "test_vit", {"model_args": {"img_size": 64}}, "--img-size"),
        (ConfigError, "vit", {"model_args": {"deepth": 2}}, "depth"),
    ],
)
def test_create_model_names_what_is_wrong(error, name, options, words):
    with pytest.raises(error) as caught:
        swinclf.create_model(name, **options)
    assert words in str(caught.value)


# --- training -----------------------------------------------------------------------------------


def accepted(name):
    """The type of an option of `train`, derived from that of its setting."""
    kinds = get_args(SETTING_TYPES[name])
    optional = type(None) in kinds
    kind = kinds[0] if optional else SETTING_TYPES[name]
    if SETTINGS[name].metadata.get("colours"):
        kind = str | tuple[float, ...] | list[float]
    elif get_origin(kind) is tuple:
        kind = kind | list[get_args(kind)[0]]
    elif issubclass(kind, StrEnum):
        kind = kind | Literal[tuple(map(str, kind))]
    elif name in PATHS:
        kind = kind | Path
    return kind | None if optional else kind


def test_the_keyword_options_are_the_settings():
    options = get_type_hints(swinclf.TrainOptions)
    assert list(options) == [name for name in SETTINGS if name != "data"]
    assert options == {name: accepted(name) for name in options}
    assert not swinclf.TrainOptions.__required_keys__
    others = inspect.signature(swinclf.train).parameters.keys() - {"options"}
    assert others == {"data", "report", "verbose", "budget"}
    assert not others & options.keys()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    data = write_dataset(root / "colours", per_class=6)
    return swinclf.train(data, out=root / "runs", **SMALL_SETTINGS)


def test_a_run_has_its_path_metrics_and_settings(run):
    assert run.path == run.folder.path
    assert (run.path / "model.safetensors").is_file()
    held_out = [row for row in read_rows(run.folder.split) if row["split"] == "val"]
    assert run.metrics.images == len(held_out) > 0
    assert isinstance(run.config, ResolvedConfig)
    assert run.config.epochs == 2
    assert run.config.lr is not None  # was left open, and is settled


def test_verbose_prints_and_the_default_does_not(tmp_path, monkeypatch, capsys):
    data = write_dataset(tmp_path / "colours", per_class=4)
    swinclf.train(data, out=tmp_path / "runs", **SMALL_SETTINGS)
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    done = swinclf.train(data, out=tmp_path / "runs", verbose=True, **SMALL_SETTINGS)
    assert "epoch 2/2" in sys.stderr.getvalue()
    colours = {"blue": COLOURS["blue"], "purple": (150, 40, 160)}
    others = write_dataset(tmp_path / "others", per_class=4, colours=colours)
    swinclf.load(done.path).evaluate(others, verbose=True)
    assert "class 'purple' is not one of the model's" in sys.stderr.getvalue().replace("\n", " ")
    assert capsys.readouterr().out == ""


def test_notes_and_epochs_go_to_the_logger_and_to_the_reporter(tmp_path, caplog):
    data = write_dataset(tmp_path / "colours", per_class=4)
    (data / "red" / "broken.png").write_bytes(b"no image")
    listener = Listener()
    with caplog.at_level(logging.INFO, logger="swinclf"):
        swinclf.train(data, out=tmp_path / "runs", report=listener, **SMALL_SETTINGS)
    logged = [record.getMessage() for record in caplog.records if record.name == "swinclf"]
    assert {1, 2} <= {one[0] for one in listener.heard if isinstance(one, tuple)}
    assert set(logged) >= {one for one in listener.heard if isinstance(one, str)}
    assert any(line.startswith("epoch 2/2") for line in logged)
    assert any(record.levelno == logging.WARNING for record in caplog.records)


def test_a_log_gets_names_that_any_encoding_can_write(caplog):
    with caplog.at_level(logging.INFO, logger="swinclf"):
        LoggingReporter().warn("no image: a\udcff\x1b[31m.png")
        LoggingReporter().note("b\udcff.png")
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["no image: a\\udcff\\x1b[31m.png", "b\\udcff.png"]


def test_a_program_without_logging_hears_nothing_of_it():
    code = (
        "from swinclf.reporter import LoggingReporter; LoggingReporter().warn('!');"
        "import logging; logging.basicConfig(format='%(levelname)s %(name)s %(message)s');"
        "LoggingReporter().warn('!')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == "WARNING swinclf !\n"


def test_report_and_verbose_exclude_each_other(trained):
    with pytest.raises(ConfigError, match="not both"):
        swinclf.train(trained.data, report=Listener(), verbose=True)


# --- a classifier -------------------------------------------------------------------------------


def test_the_model_is_the_network_of_the_run(classifier):
    network = classifier.model
    assert isinstance(network, nn.Module)
    assert not network.training
    assert network.get_classifier().out_features == len(classifier.classes)


def test_embed_gives_what_the_head_sees(classifier, paths):
    features = classifier.embed(paths)
    assert features.dtype == np.float32
    assert features.shape == (len(paths), classifier.model.get_classifier().in_features)
    head = classifier.model.get_classifier()
    with torch.inference_mode():
        labels = head(torch.from_numpy(features)).argmax(1)
    found = [one.label for one in classifier.predict(paths)]
    assert [classifier.classes[int(label)] for label in labels] == found
    images = [Image.open(path).convert("RGB") for path in paths]
    np.testing.assert_allclose(classifier.embed(images), features, atol=1e-5)
    np.testing.assert_allclose(classifier.embed(map(np.asarray, images)), features, atol=1e-5)
    np.testing.assert_allclose(classifier.embed(paths[0]), features[:1], atol=1e-5)
    assert classifier.embed([]).shape == (0, features.shape[1])


def test_embed_names_the_image_that_cannot_be_read(classifier, paths, tmp_path):
    with pytest.raises(DataError, match=r"missing\.png") as caught:
        classifier.embed([paths[0], tmp_path / "missing.png"])
    assert "No such file" in caught.value.found
    with pytest.raises(DataError, match=r"images\[1\]"):
        classifier.embed([paths[0], np.zeros((4, 4), np.uint8)])


def test_an_exported_file_has_features_but_no_torch_network(exported, classifier, paths):
    features = exported.embed(paths)
    np.testing.assert_allclose(features, classifier.embed(paths), atol=1e-3)
    assert exported.embed([]).shape == (0, features.shape[1])
    with pytest.raises(RunError, match="a run, whose network") as caught:
        _ = exported.model
    assert caught.value.found == "an exported file"


def test_stream_answers_before_a_batch_is_full_where_that_is_asked(classifier, paths):
    asked = []

    def camera():
        for number in range(3):
            asked.append(number)
            yield paths[number]

    stream = classifier.stream(camera(), low_latency=True)
    labels = [one.label for one in stream]
    assert labels == [path.parent.name for path in paths[:3]]


def test_stream_refuses_at_once(classifier):
    for wrong in ({"top_k": 0}, {"reject": 1.5}):
        with pytest.raises(ConfigError):
            classifier.stream([], **wrong)
    with pytest.raises(ConfigError):
        classifier.stream(3)


@pytest.mark.parametrize("wrong", [{"export_format": "pdf"}, {"embed": "all"}])
def test_export_refuses_names_that_there_are_not(classifier, tmp_path, wrong):
    with pytest.raises(ConfigError, match="export_format onnx, .*, embed none or preprocess"):
        classifier.export(tmp_path / "x", **wrong)


def test_evaluate_writes_only_where_it_is_told_to(run, tmp_path):
    before = sorted(run.path.rglob("*"))
    classifier = swinclf.load(run.path)
    metrics = classifier.evaluate()
    assert metrics.to_dict() == run.metrics.to_dict()
    assert sorted(run.path.rglob("*")) == before
    written = classifier.evaluate(output=str(tmp_path / "scores"))
    assert written.to_dict() == metrics.to_dict()
    assert (tmp_path / "scores" / "report.html").is_file()


# --- how things show themselves -----------------------------------------------------------------


def test_everything_shows_itself_in_one_line(run, classifier, exported):
    path = run.path.as_posix()
    accuracy = f"accuracy={run.metrics.accuracy:.3f}"
    assert repr(run) == f"Run(path='{path}', images={run.metrics.images}, {accuracy}, skipped=0)"
    assert repr(run.metrics).startswith(
        f"Metrics(split='val', images={run.metrics.images}, {accuracy}, "
    )
    for one in (classifier, exported):
        shown = f"Classifier(path='{one.path.as_posix()}', model='test_vit', classes=3, device="
        assert repr(one).startswith(shown)
    (answer,) = classifier.predict(np.full((40, 40, 3), (200, 50, 40), np.uint8))
    assert repr(answer) == f"Prediction(label='red', probability={answer.probability:.3f})"
    (failed,) = classifier.predict("a\nb.png")
    assert "\n" not in repr(failed)


EXAMPLES = [
    ".".join(("swinclf", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_hold(name):
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed
