"""The textbook's ViT on CIFAR-10: its network, its settings by name, and colours of the data."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    SMALL_MODEL,
    error_lines,
    read_rows,
    resume_run,
    write_dataset,
)
from network_cases import difference, native_network
from PIL import Image
from torch import nn

from swinclf.commands import train as train_verb
from swinclf.config import SETTINGS
from swinclf.data.loader import load_for_prediction
from swinclf.device import StopFlag
from swinclf.errors import ConfigError, ExitCode, Interrupted
from swinclf.explain.attention import attention_weights
from swinclf.models.arguments import parse_arguments
from swinclf.models.complexity import count_torch_flops, network_parts
from swinclf.models.store import read_card
from swinclf.models.vit import ViT, ViTConfig
from swinclf.pipeline.measured_preprocess import measure_colours
from swinclf.preprocess import Fit, Preprocess
from swinclf.settings import gather_settings, key_values, shipped_configs
from swinclf.training import loop

ROOT = Path(__file__).parent.parent
NAME = "textbook-cifar10"
SHIPPED = tomllib.loads(shipped_configs()[NAME].read_text(encoding="utf-8"))


def textbook(**changes: str) -> ViT:
    """The network of the shipped settings, with some arguments changed."""
    arguments = {**key_values(SHIPPED["model_arg"]), **changes}
    return native_network("vit", num_classes=10, img_size=SHIPPED["img_size"], model_args=arguments)


# --- the network --------------------------------------------------------------------------------


def test_the_network_is_that_of_the_textbook():
    network = textbook()
    assert network.patch_embed.num_patches == 144
    assert network.patch_embed.proj.weight[0].numel() == 108
    assert len(network.blocks) == 8
    block = network.blocks[0]
    assert block.attn.qkv.weight.shape == (3 * 4 * 64, 64)
    assert block.attn.proj.weight.shape == (64, 256)
    assert [block.mlp.fc1.out_features, block.mlp.fc2.out_features] == [128, 64]
    widths = [one.in_features for one in network.pre_logits.children()]
    assert [*widths, network.head.in_features] == [144 * 64, 2048, 1024]
    # Written out, with biases: patches and positions, 8 blocks, the last norm, the head.
    attention = 64 * 768 + 768 + 256 * 64 + 64
    blocks = 8 * (2 * 2 * 64 + attention + 64 * 128 + 128 + 128 * 64 + 64)
    head = 9216 * 2048 + 2048 + 2048 * 1024 + 1024 + 1024 * 10 + 10
    total = 108 * 64 + 64 + 144 * 64 + blocks + 2 * 64 + head
    assert sum(one.numel() for one in network.parameters()) == total
    parts = network_parts(network)
    macs = sum(part.macs for part in parts)
    network.eval()
    assert 2 * macs == count_torch_flops(lambda: network(torch.zeros(1, 3, 72, 72)))


@pytest.mark.parametrize("head_dim", [5, 16, 32])
def test_heads_may_be_wider_than_their_share(head_dim):
    config = ViTConfig(
        img_size=(16, 16), patch_size=8, embed_dim=32, depth=1, num_heads=2, head_dim=head_dim
    )
    network, x = ViT(config).eval(), torch.randn(3, 5, 32)
    attention = network.blocks[0].attn
    q, k, v = attention.qkv(x).view(3, 5, 3, 2, head_dim).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.mT * head_dim**-0.5, -1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(3, 5, -1))
    assert difference(attention(x), expected) < 1e-5
    shown = attention_weights(network.blocks[0], x[:1])
    normed = network.blocks[0].norm1(x[0])
    q, k, _ = attention.qkv(normed).view(5, 3, 2, head_dim).permute(1, 2, 0, 3)
    assert difference(shown, torch.softmax(q @ k.mT * head_dim**-0.5, -1)) < 1e-5


def test_an_mlp_may_end_in_its_activation():
    plain, twice = (
        ViT(ViTConfig(img_size=(8, 8), patch_size=8, embed_dim=8, depth=1, num_heads=2, **more))
        for more in ({}, {"mlp_final_activation": True})
    )
    twice.load_state_dict(plain.state_dict())
    x = torch.randn(4, 8)
    expected = nn.functional.gelu(plain.blocks[0].mlp(x))
    assert torch.equal(twice.blocks[0].mlp(x), expected)


@pytest.mark.parametrize("name", ["attn_dropout", "mlp_dropout"])
def test_dropouts_act_in_training_only(name):
    none = {"attn_dropout": "0", "mlp_dropout": "0", "head_dropout": "0"}
    none |= {"head_hidden": "16-8", "depth": "1"}
    network, dropped = textbook(**none), textbook(**{**none, name: "0.4"})
    dropped.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 72, 72)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), dropped.eval()(x))
        found = dropped.train()(x)
        assert not torch.equal(found, dropped(x))
        torch.testing.assert_close(network.train()(x), network.eval()(x))


@pytest.mark.parametrize(
    "words", [{"head_dim": "0"}, {"mlp_final_activation": "true", "activation": "swiglu"}]
)
def test_impossible_shapes_are_refused(words):
    with pytest.raises(ConfigError):
        parse_arguments(ViTConfig(), words)


# --- settings by name ---------------------------------------------------------------------------


def test_every_shipped_setting_is_one_and_flags_win():
    for name, path in shipped_configs().items():
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        assert set(values) <= set(SETTINGS), name
    settings = gather_settings({"data": "x", "epochs": 3}, Path(NAME))
    assert settings.config.epochs == 3
    assert settings.config.batch_size == 256
    assert settings.sources["batch_size"] == "file"


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_text('{"epochs": 4}')
    assert gather_settings({"data": "x"}, Path(NAME)).config.epochs == 4


def test_an_unknown_name_is_told_the_shipped_ones(cli, dataset):
    done = cli("train", dataset, "--config", "textbook")
    assert done.code == 2
    assert f"--config {NAME}" in error_lines(done)[2]


# --- colours of the data ------------------------------------------------------------------------


def test_colours_are_those_of_all_pixels(dataset):
    preprocess = Preprocess(
        height=24,
        width=24,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        crop_pct=1.0,
        fit="crop",
        interpolation="bilinear",
    )
    files = sorted(dataset.rglob("*.png"))
    pixels = np.concatenate(
        [load_for_prediction(path, preprocess).pixels.reshape(-1, 3) for path in files]
    )
    mean, std = measure_colours(files, preprocess, workers=2)
    np.testing.assert_allclose(mean, pixels.mean(0) / 255, rtol=1e-9)
    np.testing.assert_allclose(std, pixels.std(0) / 255, rtol=1e-9)


def test_padding_is_not_measured(tmp_path):
    preprocess = Preprocess(
        height=24,
        width=24,
        mean=(0.5, 0.5, 0.5),
        std=(1, 1, 1),
        crop_pct=1.0,
        fit=Fit.PAD,
        interpolation="bilinear",
    )
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", (100, 20), (255, 0, 0)).save(file)
    mean, std = measure_colours(files, preprocess, workers=2)
    assert mean == (1.0, 0.0, 0.0)
    assert max(std) < 0.01


def test_trained_weights_have_their_own_colours(cli, trained):
    done = cli("train", trained.data, "--weights", trained.path, "--mean", "data")
    assert done.code == 2
    assert "--mean or --std data" in error_lines(done)[1]


def test_colours_cannot_be_measured_after_features_are_computed(cli, dataset, tmp_path):
    small = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", "32", "--freeze-layers")
    for flag in ("--mean", "--std"):
        done = cli("train", dataset, *small, flag, "data")
        assert done.code == 2, done.err
        assert error_lines(done)[0] == "--no-freeze-layers with --mean or --std data"
        assert not (tmp_path / "runs").exists()


# --- the page -----------------------------------------------------------------------------------


def test_the_page_and_an_interruption(tmp_path, cli, monkeypatch):
    """The commands of docs/textbook.md, on few images, the first one interrupted and resumed."""
    page = (ROOT / "docs" / "textbook.md").read_text(encoding="utf-8")
    calls = [shlex.split(one)[1:] for one in re.findall(r"^(swinclf .*)$", page, re.M)]
    assert len(calls) == 5
    *before, train, scoring, learned = calls
    assert train == ["train", "cifar-10-batches-bin", "--config", NAME]
    data = write_dataset(tmp_path / "cifar-10-batches-bin" / "train", per_class=5).parent
    write_dataset(data / "test", per_class=3)
    small = {"epochs": 2, "batch_size": 16, "model_arg": None, "precision": "fp32"}
    small["model_arg"] = [*SHIPPED["model_arg"], "head_hidden=16-8", "depth=1"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_text(json.dumps({**SHIPPED, **small}))
    flag, step = StopFlag(), loop._train_step

    def stopping(*arguments):
        step(*arguments)
        flag.exit_code = ExitCode.INTERRUPTED

    with monkeypatch.context() as patch:
        patch.setattr(train_verb, "StopFlag", lambda: flag)
        patch.setattr(loop, "_train_step", stopping)
        with pytest.raises(Interrupted):
            train_verb.train(gather_settings({"data": str(data)}, Path(NAME)))
    (run,) = (path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    assert resume_run(run) == run
    rows = read_rows(run / "split.csv")
    assert sum(row["split"] == "val" for row in rows) == 3
    assert len(read_rows(run / "history.csv")) == 2
    config = json.loads((run / "config.json").read_text())
    assert (config["mean"], config["select"], config["lrf"]) == ("data", "accuracy", 1.0)
    means = read_card(run / "model.safetensors").preprocess.mean
    assert means == pytest.approx((0.38, 0.36, 0.4), abs=0.08)
    before[0] += [f"--model-arg={one}" for one in ("depth=1", "embed_dim=24", "num_heads=3")]
    for call in (*before, scoring, learned):
        done = cli(*call)
        assert done.code == 0, (call, done.err)
    pictures = {path.name for path in tmp_path.rglob("*.png")}
    assert {"patches.png", "positions.png", "attention.png", "evidence.png"} <= pictures
