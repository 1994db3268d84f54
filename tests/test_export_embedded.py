"""export --embed preprocess: a file that takes decoded images of any size, and decides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import error_lines, read_rows
from PIL import Image

from swinclf.card import ModelCard
from swinclf.confidence.ood import fit_feature_space
from swinclf.confidence.selective import Confidence, SelectiveScores, Threshold, is_rejected
from swinclf.config import Impl
from swinclf.data.transforms import eval_pixels, to_numpy_input
from swinclf.device import Precision
from swinclf.errors import ExportError
from swinclf.exporting.deployed_network import DeployedNetwork
from swinclf.exporting.preprocess_graph import embed_preprocess
from swinclf.exporting.source import ExportSource
from swinclf.preprocess import Fit, Interpolation, Preprocess, ValueRange

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

SIZES = ((48, 40), (40, 48), (31, 32), (33, 97), (500, 3), (3, 500), (1, 1), (640, 481))  # w, h
HOW = Preprocess(
    height=32,
    width=40,
    interpolation=Interpolation.BICUBIC,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_pct=0.9,
    fit=Fit.CROP,
)
FEATURES, CLASSES = 6, 4


def card_of(preprocess=HOW, confidence=None):
    classes = tuple("abcd"[:CLASSES])
    return ModelCard(
        model="colours",
        impl=Impl.NATIVE,
        classes=classes,
        preprocess=preprocess,
        precision=Precision.FP32,
        confidence=confidence or Confidence(),
    )


def session_of(card):
    """A network of mean colours with the card's preprocessing and decisions; shows its pixels."""
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    weights = np.random.default_rng(1)
    to_features = weights.normal(0, 2, (3, FEATURES)).astype(np.float32)
    to_logits = weights.normal(0, 2, (FEATURES, CLASSES)).astype(np.float32)
    value, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    shape = ["batch", 3, card.preprocess.height, card.preprocess.width]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "sides"], ["colour"], keepdims=0),
            helper.make_node("MatMul", ["colour", "to_features"], ["features"]),
            helper.make_node("MatMul", ["features", "to_logits"], ["logits"]),
            helper.make_node("ReduceL1", ["features", "last"], ["ood_score"], keepdims=0),
        ],
        "colours",
        [value("pixels", kind, shape)],
        [
            value("logits", kind, ["batch", CLASSES]),
            value("features", kind, ["batch", FEATURES]),
            value("ood_score", kind, ["batch"]),
        ],
        [
            constant(np.array([2, 3]), "sides"),
            constant(np.array([1]), "last"),
            constant(to_features, "to_features"),
            constant(to_logits, "to_logits"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    embed_preprocess(model, card)
    onnx.checker.check_model(model, full_check=True)
    model.graph.output.append(value("pixels", kind, shape))
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def picture(size, seed=0):
    """Coarse noise of a size: strong edges, smooth areas."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("interpolation", [Interpolation.BILINEAR, Interpolation.BICUBIC])
def test_the_graph_resizes_as_pillow_does(fit, interpolation):
    preprocess = replace(HOW, fit=fit, interpolation=interpolation)
    session = session_of(card_of(preprocess))
    steps = 255 * np.array(preprocess.std).reshape(3, 1, 1)
    for size in SIZES:
        images = [picture(size, seed) for seed in range(3)]
        stacked = np.stack([np.asarray(image) for image in images])
        (found,) = session.run(["pixels"], {"images": stacked})
        wanted = np.stack([eval_pixels(image, preprocess) for image in images])
        difference = np.abs(found - to_numpy_input(wanted, preprocess)) * steps
        assert found.shape == (3, 3, 32, 40)
        assert difference.max() < 2.01, size
        assert difference.mean() < 0.25, size  # of 255


@pytest.mark.parametrize("has_space", [False, True])
def test_the_graph_decides_as_predict_does(has_space):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (200, 5, 5, 3)) // rng.integers(1, 9, (200, 1, 1, 1))
    images = images.astype(np.uint8)
    free = session_of(card_of())
    names = ["logits", "features", "ood_score", "probabilities", "label"]
    assert [one.name for one in free.get_outputs()] == [*names, "pixels"], "without thresholds"
    logits, features, score, probabilities, label = free.run(names, {"images": images})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (label == logits.argmax(axis=1)).all()
    space = fit_feature_space(features[:100], label[:100]) if has_space else None
    confidence = Confidence(
        thresholds=(Threshold(0.8, 0.4, 1.0), Threshold(0.9, 0.98, 0.5)),
        space=space,
        ood_threshold=float(np.median(score)),
    )
    session = session_of(card_of(confidence=confidence))
    (accepted,) = session.run(["accepted"], {"images": images})
    scores = SelectiveScores(probabilities.max(axis=1), score if has_space else np.zeros(200))
    assert (accepted == ~is_rejected(confidence, 0.9, scores)).all(), "0.95 was not reached"
    assert 20 < accepted.sum() < 180
    assert accepted.dtype == bool


class Doubled(torch.nn.Module):
    """A network whose features are the first pixels of an image."""

    def forward_features(self, pixels):
        return pixels.flatten(1)[:, :FEATURES]

    def forward_head(self, tokens, *, pre_logits=False):
        return tokens if pre_logits else 2 * tokens[:, :CLASSES]


@pytest.mark.parametrize("space_kind", ["none", "of an earlier version", "present"])
def test_an_exported_network_scores_as_the_feature_space_does(space_kind):
    rng = np.random.default_rng(5)
    features = (rng.normal(size=(200, FEATURES)) * 3 ** np.arange(FEATURES)).astype(np.float32)
    space = fit_feature_space(features[:100], np.arange(100) % CLASSES)
    assert space
    if space_kind != "present":
        space = replace(space, background=None) if space_kind != "none" else None
    card = card_of(confidence=Confidence(temperature=4.0, space=space))
    network = DeployedNetwork(ExportSource(Doubled(), card, Path("model.safetensors"), "none"))
    pixels = torch.zeros(200, 3, 4, 4)
    pixels[:, 0, :2] = torch.nn.functional.pad(torch.from_numpy(features), (0, 2)).view(-1, 2, 4)
    logits, given, scores = (one.numpy() for one in network(pixels))
    np.testing.assert_allclose(logits, features[:, :CLASSES] / 2, rtol=1e-6)
    assert (given == features).all()
    ood_scores = space.ood_scores(features) if space else np.zeros(200)
    np.testing.assert_allclose(scores, ood_scores, rtol=1e-3)


@pytest.mark.parametrize(
    ("preprocess", "reason"),
    [
        (replace(HOW, interpolation=Interpolation.LANCZOS), "lanczos resampling"),
        (replace(HOW, interpolation=Interpolation.NEAREST), "nearest resampling"),
        (replace(HOW, ranges=(ValueRange("uint16", 0, 4095),)), "images of uint16"),
    ],
)
def test_a_preprocessing_that_cannot_be_expressed_is_refused(preprocess, reason):
    with pytest.raises(ExportError) as error:
        session_of(card_of(preprocess))
    assert reason in error.value.found
    assert "--embed none" in error.value.hint


def test_predict_and_eval_read_such_a_file(trained, network_graph, cli, tmp_path):
    del network_graph
    done = cli("export", "--run", trained.path, "--embed", "preprocess", "--output", "m.onnx")
    assert done.code == 0, done.err
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[3]) == ("images", "tensor(uint8)", 3)
    assert not any(isinstance(side, int) for side in images.shape[:3])
    data = tmp_path / "data"
    for size, path in zip(SIZES, sorted(trained.data.rglob("*.png"))[::5], strict=False):
        copy = data / path.relative_to(trained.data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize(size).save(copy)
    ours, theirs = (
        json.loads(cli("predict", data, "--format", "json", "--run", run).out)
        for run in (trained.path, "m.onnx")
    )
    assert len(ours) == len(theirs) == 8
    for one, other in zip(ours, theirs, strict=True):
        assert (one["path"], one["label"]) == (other["path"], other["label"])
        assert one["probability"] == pytest.approx(other["probability"], abs=0.01)
    for name, run in (("ours", trained.path), ("theirs", "m.onnx")):
        assert cli("eval", data, "--run", run, "--output", tmp_path / name).code == 0
    rows = [read_rows(tmp_path / name / "predictions.csv") for name in ("ours", "theirs")]
    assert [row["predicted"] for row in rows[0]] == [row["predicted"] for row in rows[1]]


def test_a_wrong_preprocessing_ends_in_4(trained, network_graph, cli, monkeypatch):
    del network_graph
    embed = embed_preprocess

    def swap_mean(model, card):
        wrong = replace(card.preprocess, mean=card.preprocess.mean[::-1], std=(0.2, 0.3, 0.4))
        embed(model, replace(card, preprocess=wrong))

    monkeypatch.setattr("swinclf.exporting.writers.embed_preprocess", swap_mean)
    done = cli("export", "--run", trained.path, "--embed", "preprocess", "--output", "m.onnx")
    assert done.code == 4
    assert "probabilities differ by" in error_lines(done)[1]
    assert Path("m.onnx").is_file()
