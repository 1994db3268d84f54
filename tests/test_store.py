"""Files of tensors: what goes in comes out, damage is noticed, and no pickle is ever run."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import error_lines
from safetensors.torch import save, save_file

from swinclf.card import ModelCard
from swinclf.confidence.selective import Confidence, Threshold
from swinclf.config import Impl
from swinclf.device import Precision
from swinclf.errors import RunError, SwinclfError, WeightsError
from swinclf.inference.predictor import InferenceOptions, choose_model_hardware
from swinclf.models.build import build_network, load_network
from swinclf.models.names import Architecture
from swinclf.models.store import load_model, read_card, save_model
from swinclf.models.tensorfile import (
    DTYPES,
    read_metadata,
    read_tensors,
    write_tensors,
)
from swinclf.preprocess import Fit, Interpolation, Preprocess

NAMES = ("rosé", "バラ", "وردة", "🌹 rose", "a/b", "new\nline", "bad\udcffbyte", "<b>&\"'")
CARD = ModelCard(
    model="test_vit",
    impl=Impl.TIMM,
    classes=NAMES,
    preprocess=Preprocess(
        height=32,
        width=32,
        interpolation=Interpolation.BICUBIC,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        crop_pct=0.95,
        fit=Fit.PAD,
    ),
    precision=Precision.BF16,
    confidence=Confidence(temperature=1.25, thresholds=(Threshold(0.9, 0.7, 0.8),)),
    split={"seed": 7, "val_split": 0.3, "dataset": "0123"},
    versions={"swinclf": "9.9"},
)


@pytest.fixture
def stored(tmp_path):
    network = build_network(Architecture("test_vit", Impl.TIMM, len(NAMES), 32))
    path = tmp_path / "model.safetensors"
    save_model(path, network, CARD)
    return path, network


@pytest.mark.parametrize(
    ("model", "impl"),
    [
        ("swin_tiny_patch4_window7_224", Impl.TIMM),
        ("swin_tiny_patch4_window7_224", Impl.NATIVE),
        ("swinv2_cr_tiny_ns_224", Impl.TIMM),
        ("deit_tiny_patch16_224", Impl.TIMM),
        ("deit_tiny_patch16_224", Impl.NATIVE),
    ],
)
def test_a_network_comes_back_with_all_that_it_needs_to_answer(model, impl, tmp_path):
    torch.manual_seed(0)
    network = build_network(Architecture(model, impl, len(NAMES), 64)).eval()
    preprocess = replace(CARD.preprocess, height=64, width=64)
    card = replace(CARD, model=model, impl=impl, preprocess=preprocess)
    save_model(tmp_path / "model.safetensors", network, card)
    again, _ = load_model(tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 64, 64)  # a Swin has four windows a stage and more, some shifted
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


@pytest.mark.parametrize("feature", ["avx512_bf16", "avx512_fp16"])
def test_fp16_is_used_where_fp16_is_fast(monkeypatch, feature):
    monkeypatch.setattr("swinclf.device.cpu_features", lambda: {feature: True})
    card = replace(CARD, precision=Precision.FP16)
    chosen = choose_model_hardware(card, InferenceOptions(device="cpu")).precision
    assert chosen is (Precision.FP16 if feature == "avx512_fp16" else Precision.FP32)


def test_weights_and_card_come_back_as_they_were(stored):
    path, network = stored
    again, card = load_model(path)
    assert card == CARD
    assert read_card(path) == CARD
    assert not again.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_building_blank_leaves_later_networks_as_they_always_are(stored):
    path, _ = stored
    load_model(path)
    network = build_network(Architecture("test_vit", Impl.TIMM, 3, 32))
    assert not any(parameter.is_meta for parameter in network.parameters())


def test_hidden_layers_of_a_head_are_drawn_where_the_file_has_none(tmp_path):
    shape = {"patch_size": "8", "depth": "2", "embed_dim": "24", "num_heads": "3"}
    given = build_network(Architecture("vit", Impl.NATIVE, 7, 32, model_args=shape))
    save_file(given.state_dict(), tmp_path / "plain.safetensors")
    for head in ({}, {"head": "mlp", "head_hidden": "16"}):
        wanted = Architecture("vit", Impl.NATIVE, 3, 32, model_args={**shape, **head})
        network = load_network(wanted, tmp_path / "plain.safetensors")[0].eval()
        assert torch.equal(network.blocks[1].mlp.fc1.weight, given.blocks[1].mlp.fc1.weight)
        assert {one.device.type for one in network.parameters()} == {"cpu"}
        assert {one.dtype for one in network.parameters()} == {torch.float32}
        logits = network(torch.randn(2, 3, 32, 32))
        assert logits.shape == (2, 3)
        assert logits.isfinite().all()
        assert logits.std() > 0


def test_the_file_is_that_of_the_safetensors_library(tmp_path):
    shapes = {"matrix": (2, 3), "odd": (5,), "scalar": (), "empty": (0, 4)}
    tensors = {
        f"{dtype}: {name} 'é'": torch.arange(math.prod(shape)).reshape(shape).to(dtype)
        for dtype in DTYPES
        for name, shape in shapes.items()
    }
    tensors["turned"] = torch.arange(6).reshape(2, 3).T
    write_tensors(tmp_path / "x", tensors, {})  # the library writes several values in any order
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert (tmp_path / "x").read_bytes() == save(whole, read_metadata(tmp_path / "x"))
    again, metadata = read_tensors(tmp_path / "x")
    assert metadata == {}
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


def test_every_flipped_byte_is_noticed(stored):
    path, _ = stored
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = np.random.default_rng(0).integers(8, len(content), 60).tolist()
    for place in [*places, header, len(content) - 1]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(SwinclfError):
            load_model(path)
    path.write_bytes(content)
    load_model(path)


def test_flipped_data_is_called_damage(stored, cli):
    path, _ = stored
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    done = cli("predict", "x.png", "--run", path)
    assert done.code == 1
    expected, found, _ = error_lines(done)
    assert "sha256" in expected
    assert "damaged" in found


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_cut_file_is_refused(stored, keep):
    path, _ = stored
    content = path.read_bytes()
    end = int(keep * len(content)) if isinstance(keep, float) else keep
    path.write_bytes(content[:end])
    with pytest.raises(WeightsError) as error:
        load_model(path)
    assert str(path) in error.value.expected


def test_a_foreign_file_is_no_run_and_both_sides_are_named(tmp_path, cli):
    path = tmp_path / "foreign.safetensors"
    save_file({"head.weight": torch.zeros(2, 2)}, path, metadata={"format": "pt", "maker": "x"})
    done = cli("predict", "x.png", "--run", path)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "a model of swinclf" in expected
    assert str(path) in expected
    assert "maker" in found
    assert "--weights FILE" in hint


def test_a_card_of_another_network_is_refused_tensor_by_tensor(stored, cli):
    path, network = stored
    other = {**CARD.to_metadata(), "model": "test_vit2"}
    write_tensors(path, network.state_dict(), other)
    done = cli("predict", "x.png", "--run", path)
    assert done.code == 1
    expected, found, _ = error_lines(done)
    assert "test_vit2" in expected
    assert "tensors differ" in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", "[1"),
        ("preprocessing", "{}"),
        ("precision", "fp99"),
        ("calibration", "{}"),
        ("impl", "x"),
        ("classes", None),
    ],
)
def test_a_damaged_card_is_named(stored, key, value):
    path, network = stored
    metadata = {name: text for name, text in CARD.to_metadata().items() if name != key}
    write_tensors(
        path, network.state_dict(), metadata if value is None else {**metadata, key: value}
    )
    with pytest.raises(RunError) as error:
        load_model(path)
    assert "a complete model card" in error.value.expected


def test_the_metadata_is_plain_text_that_any_program_can_parse():
    metadata = CARD.to_metadata()
    assert all(text.isascii() for text in metadata.values())
    assert tuple(json.loads(metadata["classes"])) == NAMES
