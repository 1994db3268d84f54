"""inspect and the other commands on networks that timm builds: the embedded one above all."""

from __future__ import annotations

import io
import json

import pytest
import timm
import torch
from conftest import Outcome, error_lines, write_dataset
from PIL import Image
from torch import nn

import swinclf
from swinclf.commands.inspect import inspect
from swinclf.device import Hardware, Precision
from swinclf.explain.attention import compute_evidence, has_feature_map
from swinclf.explain.saliency_overlay import SIDE_PX, EvidenceDrawer
from swinclf.models import embedded
from swinclf.models.complexity import count_macs
from swinclf.models.store import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the embedded network, scored once more."""
    root = tmp_path_factory.mktemp("embedded")
    data = write_dataset(root / "colours")
    done = swinclf.train(data, model="embedded", img_size=64, epochs=2, out=str(root / "runs"))
    swinclf.load(done.folder.path).evaluate(output=done.folder.path / "eval-1")
    return done.folder.path


@pytest.mark.parametrize("name", ["cait_xxs24_224", "pit_ti_224"])
def test_a_class_token_may_be_the_input_of_a_module(name):
    costs = inspect(name).costs
    assert costs.parameters == parameters(timm.create_model(name))
    assert count_macs(timm.create_model(name).train(), (224, 224)) == costs.macs > 0


def parameters(network):
    return sum(value.numel() for value in network.parameters())


def macs_by_formula(network, side):
    """Multiply-adds of all convolutions and linear layers, from their shapes."""
    total = 0

    def count(module, _args, out):
        nonlocal total
        places = out[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        total += places * module.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    return total


def test_the_embedded_network_by_name():
    costs = inspect("embedded").costs
    network = timm.create_model(embedded.ARCHITECTURE).eval()
    assert costs.parameters == parameters(network)
    assert costs.macs == macs_by_formula(network, 224)
    assert (costs.patches, costs.is_convolutional) == (None, True)
    stages = {stage.name: stage.shape for stage in costs.stages}
    assert stages["conv_stem"] == (112, 112, 32)
    assert stages["blocks"] == (7, 7, 320)
    assert stages["conv_head"] == (7, 7, 1280)
    assert stages["classifier"] == (1000,)


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (7, 7, 512)), ("test_convnext", None)])
def test_other_networks_of_timm(name, shape):
    costs = inspect(name).costs
    network = timm.create_model(name).eval()
    assert costs.parameters == parameters(network)
    assert costs.macs == macs_by_formula(network, costs.image_px[0]) if shape else costs.macs
    assert not shape or shape in [part.shape for part in costs.parts]


def test_attention_of_a_network_of_timm_is_counted():
    costs = inspect("swinv2_tiny_window8_256").costs
    assert costs.image_px == (256, 256)
    assert not costs.is_convolutional
    assert costs.parameters == parameters(timm.create_model("swinv2_tiny_window8_256"))
    assert round(costs.macs / 1e9, 1) == 5.9  # Swin Transformer V2, Liu et al. 2022, table 2


def test_the_table_is_plain(cli):
    done = cli("inspect", "embedded", "--img-size", "64")
    assert (done.code, done.err) == (0, "")
    first, second, *_ = done.out.splitlines()
    assert first == "embedded, images of 64 x 64 px"
    assert second == "a convolutional network: it has no patches and no attention"
    record = json.loads(cli("inspect", "embedded", "--img-size", "64", "--format", "json").out)
    assert (record["patches"], record["attention_formula"]) == (None, None)
    for part in record["parts"]:
        assert f"{part['parameters']:,}" in done.out
        assert f"{part['macs']:,}" in done.out
    assert f"{record['parameters']:,}" in done.out.splitlines()[-2]
    assert "attention  " not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_run_of_it_is_opened_and_drawn(cli, run, tmp_path):
    done = cli("inspect", run, "--output", tmp_path / "p", "--format", "json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["image_px"] == [64, 64]
    assert record["label"] in ("blue", "green", "red")
    assert record["parts"][-1]["shape"] == [3]
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["evidence.png"]
    with Image.open(tmp_path / "p" / "evidence.png") as picture:
        assert picture.width > 600
    assert "no patches and no attention" in done.err


def test_evidence_adds_up_to_the_score(run):
    network, _ = load_model(run / "model.safetensors")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = compute_evidence(network, image, target=1)
    bias = network.get_classifier().bias.detach()
    score = found.logits[1] - found.logits.mean()
    assert has_feature_map(network)
    assert found.cells.shape == (2, 2)
    assert found.cells.sum() + bias[1] - bias.mean() == pytest.approx(float(score), abs=1e-4)


def test_a_report_can_show_what_spoke_for_an_answer(run):
    hardware = Hardware("cpu", Precision.FP32, "for the test")
    root = run.parent.parent / "colours"
    drawer = EvidenceDrawer.open(run / "model.safetensors", root=root, hardware=hardware)
    (jpeg,) = drawer.draw([("red/000.png", "blue")])
    with Image.open(io.BytesIO(jpeg)) as drawn:
        assert drawn.size == (SIDE_PX, SIDE_PX)


def labels(done: Outcome) -> list[str]:
    """The labels that `predict --format csv` has printed."""
    assert done.code == 0, done.err
    return [line.split(",")[1] for line in done.out.splitlines()[1:]]


def test_a_run_of_it_is_compared_exported_and_predicted_with(cli, run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    in_place, real = [], torch.onnx.export

    def watched(module, *args, **options):
        in_place.extend(one.inplace for one in module.modules() if hasattr(one, "inplace"))
        return real(module, *args, **options)

    monkeypatch.setattr(torch.onnx, "export", watched)
    compared = cli("compare", run, run / "eval-1", "--format", "json")
    assert compared.code == 0, compared.err
    assert json.loads(compared.out)["differing"] == []
    exported = cli("export", "--run", run, "--format", "onnx", "--output", tmp_path / "m.onnx")
    assert exported.code == 0, exported.err
    assert set(in_place) == {False}
    picture = run.parent.parent / "colours" / "green" / "003.png"
    answers = [
        labels(cli("predict", picture, "--run", model, "--format", "csv"))
        for model in (run, tmp_path / "m.onnx")
    ]
    assert answers == [["green"], ["green"]]


@pytest.mark.parametrize(
    ("words", "line", "part"),
    [
        (("embedded", "--output", "p"), 2, "swinclf inspect RUN --image FILE"),
        (("swinv2_tiny_window8_256", "--pretrained"), 1, "which timm builds"),
    ],
)
def test_what_cannot_be_done_with_them_is_said(cli, words, line, part):
    done = cli("inspect", *words)
    assert (done.code, done.out) == (2, "")
    assert part in error_lines(done)[line]


def test_no_pictures_of_a_transformer_that_is_not_of_this_package(cli, trained):
    assert cli("inspect", trained.path).code == 0
    done = cli("inspect", trained.path, "--output", "p")
    assert done.code == 2
    assert "only the table: swinclf inspect" in error_lines(done)[2]
