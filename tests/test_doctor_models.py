"""doctor and models: what this machine is, and which backbones can be named."""

from __future__ import annotations

import json
import re

import PIL
import pytest
import timm
import torch
from conftest import error_lines
from network_cases import native_network

import swinclf
from swinclf.cli.tables import findings_text
from swinclf.commands.inspect import inspect
from swinclf.models.embedded import ARCHITECTURE, EMBEDDED
from swinclf.models.names import is_native, list_backbones, native_names, recommended_backbones
from swinclf.models.timm_networks import check_name


@pytest.fixture(scope="module")
def small_photograph():
    """The timed picture made small: the speed itself is not tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swinclf.commands.doctor.DECODE_SIZE", (400, 304))
        yield


@pytest.mark.usefixtures("small_photograph")
def test_doctor_tells_what_is_there(cli, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--timm--x").mkdir(parents=True)
    done = cli("doctor", "--format", "json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["swinclf"] == swinclf.__version__
    assert torch.__version__.startswith(found["torch"])
    assert found["timm"] == timm.__version__
    assert found["pillow"] == PIL.__version__
    assert re.match(r"(fp32|bf16): .+", found["precision"]), "the choice and its reason"
    assert found["device"] in ("cpu", "cuda", "mps")
    assert int(found["cores"]) >= 1
    assert found["weight cache"].startswith(f"{tmp_path / 'hub'} (1 models)")
    assert re.match(r"\d+ ms", found["decode speed"])
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        assert name in found["picture formats"]
    assert "EPS" not in found["picture formats"]


@pytest.mark.usefixtures("small_photograph")
def test_doctor_prints_the_same_as_a_table(cli):
    table = cli("doctor").out
    names = json.loads(cli("doctor", "--format", "json").out)
    assert [line.split("  ")[0].strip() for line in table.splitlines()] == list(names)
    lines = findings_text(names, 60).splitlines()
    assert any(line.startswith("    ") for line in lines)


@pytest.mark.usefixtures("small_photograph")
def test_doctor_says_what_is_missing(cli, monkeypatch, tmp_path):
    import sys

    from huggingface_hub import constants

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nowhere"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = json.loads(cli("doctor", "--format", "json").out)
    assert "pip install 'swinclf[onnx]'" in found["onnx extra"]
    assert "not created yet" in found["weight cache"]
    assert "offline" in found["weight cache"]
    assert found["verdict"].startswith("ready to train")
    assert found["verdict"].endswith("no export to ONNX: pip install 'swinclf[onnx]'")
    assert ("no GPU" in found["verdict"]) == (found["device"] == "cpu")
    assert "no published weights: embedded ones" in found["verdict"]


def test_models_begin_with_the_recommended_ones(cli):
    heading, *lines = cli("models").out.splitlines()
    assert heading == "recommended, with the billions of multiply-adds of an image:"
    assert lines[0].split()[3:] == ["embedded", "0.4", "in", "the", "package,", "offline"]
    assert lines[1].split()[3:] == ["swin_tiny_patch4_window7_224", "4.5", "the", "default"]
    assert max(map(len, lines[:4])) <= 80
    assert "recommended" not in cli("models", "swin_tiny").out
    assert "embedded" not in cli("models", "--impl", "native").out


def test_the_costs_of_the_recommended_ones_are_those_of_inspect():
    for one, (billions, _) in recommended_backbones().items():
        assert billions == pytest.approx(inspect(one.name).costs.macs / 1e9, abs=0.05), one.name


@pytest.mark.parametrize(
    "pattern",
    ["swin_tiny", "swin-tiny", "swin_tiny*", "*tiny_patch4_window7*", "swin-tiny*window[0-9]_*"],
)
def test_models_are_found_by_a_part_or_a_pattern(cli, pattern):
    done = cli("models", pattern)
    assert done.code == 0
    header, *lines = done.out.splitlines()
    assert header.split() == ["parameters", "px", "name"]
    assert any(line.endswith("swin_tiny_patch4_window7_224.ms_in1k") for line in lines)
    assert all("tiny" in line for line in lines)


def test_models_as_json_have_their_sizes(cli):
    rows = json.loads(cli("models", "swin_tiny_patch4_window7_224*", "--format", "json").out)
    (row,) = (one for one in rows if one["name"] == "swin_tiny_patch4_window7_224.ms_in1k")
    assert row["image_px"] == 224
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    assert row["parameters"] == sum(one.numel() for one in network.parameters())


def test_every_listed_model_can_be_named():
    names = [one.name for one in list_backbones()]
    assert len(names) > 100
    assert names == sorted(names, key=names.index)
    assert len(set(names)) == len(names)
    assert names[0] == EMBEDDED
    for name in names[1:]:
        assert check_name(name) == name
    assert any(name.startswith("swin_") for name in names)
    assert any(name.startswith("vit_") for name in names)


@pytest.mark.parametrize("pattern", ["embedded", "efficientnet_lite0"])
def test_the_embedded_network_is_listed(cli, pattern):
    (row,) = json.loads(cli("models", pattern, "--format", "json").out)
    network = timm.create_model(ARCHITECTURE, num_classes=0)
    parameters = sum(one.numel() for one in network.parameters())
    assert row == {"name": EMBEDDED, "parameters": parameters, "image_px": 224}


def test_the_networks_of_this_package_can_be_listed(cli):
    done = cli("models", "--impl", "native", "--format", "json")
    rows = {row["name"]: row for row in json.loads(done.out)}
    published = {one.name for one in list_backbones() if is_native(one.name)}
    assert published < set(rows), "weights that our own networks take"
    assert {name.partition(".")[0] for name in rows} == set(native_names())
    assert all("." not in name for name in set(rows) - published)
    small = rows["vit_base_patch16_plus_240"]  # nobody published weights of this one
    with torch.device("meta"):
        network = native_network(small["name"], num_classes=0)
    assert small["parameters"] == sum(one.numel() for one in network.parameters())
    assert small["image_px"] == 240


def test_a_network_of_timm_alone_is_not_among_ours(cli):
    assert cli("models", "swinv2").code == 0
    done = cli("models", "swinv2", "--impl", "native")
    assert (done.code, done.out) == (2, "")
    assert "that this package builds itself" in error_lines(done)[0]


def test_a_pattern_that_matches_nothing_is_a_usage_error(cli):
    done = cli("models", "resnet51")
    assert (done.code, done.out) == (2, "")
    assert "'resnet51'" in error_lines(done)[1]


def test_no_pattern_lists_every_swin_and_vit(cli):
    listed = cli("models").out.partition("all Swin and ViT:\n")[2]
    names = [line.split()[-1] for line in listed.splitlines()[1:]]
    assert "swin_tiny_patch4_window7_224.ms_in1k" in names
    assert "vit_base_patch16_224.augreg2_in21k_ft_in1k" in names
