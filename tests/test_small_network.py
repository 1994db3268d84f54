"""The network of a training from random weights without --model: small for few images."""

from __future__ import annotations

import json

import pytest
from conftest import COLOURS, write_dataset, write_image
from network_cases import native_network

from swinclf.data.folder import scan_folder
from swinclf.pipeline import choose_network
from swinclf.pipeline.choose_network import choose_small_network
from swinclf.reporter import SILENT
from swinclf.settings import gather_settings, key_values

DEFAULT = "swin_tiny_patch4_window7_224"


def chosen(data, **given):
    """The configuration of a training from random weights, as far as the network is concerned."""
    settings = gather_settings({"data": str(data), "pretrained": False, **given})
    return choose_small_network(settings, scan_folder(data), SILENT).config


def test_few_images_get_a_small_network_and_a_hint_at_trained_weights(cli, dataset):
    done = cli("train", dataset, "--no-pretrained", "--epochs", 1)
    assert done.code == 0, done.err
    (run,) = [path for path in (dataset.parent / "runs").iterdir() if not path.is_symlink()]
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == "swin"
    assert config["sources"]["model"] == "auto"
    assert config["reasons"]["model_arg"] == "random weights and 36 images"
    network = native_network(
        "swin",
        num_classes=3,
        img_size=config["img_size"],
        model_args=key_values(config["model_arg"]),
    )
    assert sum(one.numel() for one in network.parameters()) < 3e6
    (line,) = [one for one in done.err.splitlines() if "a small Swin at 32 px" in one]
    assert line.endswith(f"swinclf train {dataset} --model embedded")
    done = cli("predict", dataset / "red" / "000.png")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({}, "swin"),
        ({"img_size": 48}, "swin"),
        ({"model": DEFAULT}, DEFAULT),
        ({"model": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224"),
        ({"model_arg": ("depths=1-1-1-1",)}, DEFAULT),
        ({"impl": "timm"}, DEFAULT),
        ({"weights": "a.pth"}, DEFAULT),
    ],
)
def test_what_is_given_is_used(dataset, given, model):
    config = chosen(dataset, **given)
    assert config.model == model
    assert all(getattr(config, name) == value for name, value in given.items())


def test_many_images_get_the_default(dataset, monkeypatch):
    assert chosen(dataset).model == "swin"
    monkeypatch.setattr(choose_network, "FEW_IMAGES", 36)
    assert chosen(dataset).model == DEFAULT


@pytest.mark.parametrize(("side", "size"), [(20, 32), (63, 32), (64, 64), (300, 96)])
def test_images_are_not_enlarged_and_large_ones_reduced(tmp_path, side, size):
    for row, (name, colour) in enumerate(COLOURS.items()):
        write_image(tmp_path / name / "a.png", colour, row, (side + 9, side))
    config = chosen(tmp_path)
    assert config.img_size == size
    arguments = key_values(config.model_arg)
    assert size // int(arguments["patch_size"]) == 16
    native_network("swin", num_classes=3, img_size=size, model_args=arguments)


def test_images_held_out_by_their_folders_do_not_count(tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_dataset(tmp_path / split, per_class=2)
    monkeypatch.setattr(choose_network, "FEW_IMAGES", 7)
    assert chosen(tmp_path).model == "swin"
