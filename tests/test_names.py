"""The registry of names is timm's, and free shapes are checked in words."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import timm
import torch
from make_registry import FAMILIES, architectures, count_parameters, weights
from network_cases import distinct_names, native_network

from swinclf.config import Impl
from swinclf.errors import ConfigError, ModelError
from swinclf.models.arguments import parse_arguments
from swinclf.models.build import build_network, create_network, default_preprocess, reset_head
from swinclf.models.complexity import count_torch_flops, network_parts
from swinclf.models.embedded import EMBEDDED
from swinclf.models.layers import ACTIVATIONS
from swinclf.models.names import (
    REGISTRY_FILE,
    Architecture,
    list_backbones,
    native_config,
    native_names,
    registry,
    suggest_names,
)
from swinclf.models.store import load_model
from swinclf.models.timm_networks import constructor_arguments, takes_drop_path
from swinclf.models.vit import ActivationKind


def test_the_registry_is_timms() -> None:
    """`python tests/make_registry.py` writes what is there, but for the slow counts."""
    known = json.loads(REGISTRY_FILE.read_text(encoding="utf-8"))
    shapes = {arch: shape for arch, shape in architectures().items() if arch in known}
    found = {
        arch: {**shape, "weights": weights(arch, is_native=bool(shape))}
        for arch, shape in shapes.items()
    }
    for entry in known.values():
        del entry["parameters"]
    assert json.loads(json.dumps(found)) == known
    assert [list(entry["weights"]) for entry in found.values()] == [
        list(entry["weights"]) for entry in known.values()
    ], "the default comes first"
    assert len(native_names()) == 130


def test_the_registry_has_every_published_swin_and_vit() -> None:
    listed = {one.name for one in list_backbones()} - {EMBEDDED}
    theirs = timm.list_models([*FAMILIES], pretrained=True)
    assert listed == {name for name in theirs if timm.get_pretrained_cfg(name).input_size[0] == 3}


@pytest.mark.parametrize("name", native_names())
def test_parameters_of_native_networks(name: str) -> None:
    with torch.device("meta"):
        network = native_network(name, num_classes=0)
    assert registry()[name].parameters == sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("arch", ["beit_base_patch16_224", "swinv2_tiny_window8_256"])
def test_parameters_of_networks_of_timm_alone(arch: str) -> None:
    assert registry()[arch].network is None
    assert registry()[arch].parameters == count_parameters(arch)


@pytest.mark.parametrize("name", distinct_names())
def test_state_dict_is_timms(name: str) -> None:
    with torch.device("meta"):
        mine = native_network(name, num_classes=10)
        its = timm.create_model(name, num_classes=10)
    shapes = [(key, value.shape) for key, value in mine.state_dict().items()]
    assert shapes == [(key, value.shape) for key, value in its.state_dict().items()]
    order = [key for key, _ in its.named_parameters()]
    assert [key for key, _ in mine.named_parameters()] == order
    assert sum(part.parameters for part in network_parts(mine)) == sum(
        value.numel() for value in mine.parameters()
    )


@pytest.mark.parametrize("name", distinct_names())
def test_multiply_adds_are_what_torch_counts(name: str) -> None:
    cut = {"depths": "1-2-2-1"} if name.startswith("swin") else {"depth": "2"}
    with torch.device("meta"):
        network = native_network(name, num_classes=10, model_args=cut).eval()
        image = torch.empty(1, 3, *network.patch_embed.img_size)
        with torch.no_grad():
            flops = count_torch_flops(lambda: network(image))
    assert 2 * sum(part.macs for part in network_parts(network)) == flops


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet50", "--impl timm"),
        ("vit_base_patch16_siglip_224", "--impl timm, or did you mean"),
        ("vit_base_patch16_242", "did you mean vit_base_patch16_224?"),
        ("swin_tiny_patch4_windw7_224", "did you mean swin_tiny_patch4_window7_224 (the default)?"),
        ("vit_base_patch16_224.augreg_in1", "vit_base_patch16_224.augreg_in1k"),
    ],
)
def test_other_names_are_refused_with_the_way_out(name: str, hint: str) -> None:
    with pytest.raises(ModelError) as error:
        native_config(name)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("swin_tiny", "swin_tiny_patch4_window7_224"),
        ("swin-tiny", "swin_tiny_patch4_window7_224"),
        ("Swin-T", "swin_tiny_patch4_window7_224"),
        ("swin", "swin_tiny_patch4_window7_224"),
        ("vit-tiny", "vit_tiny_patch16_224"),
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("ViT-B/16", "vit_base_patch16_224"),
        ("ViT-L-32", "vit_large_patch32_224"),
        ("swin_base", "swin_base_patch4_window7_224"),
        ("swin_tinny_patch4_window7_224", "swin_tiny_patch4_window7_224"),
        ("swin_tnyy", "swin_tiny_patch4_window7_224"),
        ("resnet", None),
        ("", None),
    ],
)
def test_suggestions_begin_with_what_was_typed(word: str, first: str | None) -> None:
    known = [*native_names(), "swin_s3_tiny_224", "gcvit_tiny", "davit_tiny", "swinv2_cr_tiny_224"]
    assert next(iter(suggest_names(word, known)), None) == first


def test_all_wrong_arguments_are_told_at_once() -> None:
    arguments = {"patchsize": "6", "depth": "many", "pool": "tokn", "mlp_dropout": "2"}
    with pytest.raises(ConfigError) as error:
        native_network("vit", num_classes=2, model_args=arguments)
    for part in (
        "did you mean patch_size?",
        "depth=many: a whole number from 1 to",
        "token?",
        "mlp_dropout=2: a number from 0 to 0.999",
    ):
        assert part in error.value.found
    assert "head_hidden" in error.value.hint


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("vit", {"num_heads": "7"}, "no multiple"),
        ("vit", {"class_token": "no"}, "needs class_token"),
        ("vit", {"distilled": "yes", "pool": "avg"}, "distilled"),
        ("vit", {"head": "mlp"}, "needs head_hidden"),
        ("vit", {"head_hidden": "64"}, "needs head=mlp"),
        ("vit", {"img_size": "8"}, "8 px"),
        ("vit", {"img_size": "72x96x3"}, "height x width"),
        ("vit", {"activation": "swiglu", "mlp_ratio": "0.3", "embed_dim": "12"}, "even"),
        ("swin", {"depths": "2-2"}, "one number per stage"),
        ("swin", {"depths": ""}, "at least one stage"),
        ("swin", {"num_heads": "5-6-12-24"}, "do not divide"),
        ("swin", {"depths": "2-0-2"}, "whole numbers above 0"),
        ("swin", {"window_size": ""}, "one per stage"),
        ("swin", {"qkv_bias": "perhaps"}, "true or false"),
    ],
)
def test_shapes_that_cannot_be_are_refused(
    name: str, arguments: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        native_network(name, num_classes=2, model_args=arguments)
    assert problem in error.value.found


def test_every_field_but_those_set_elsewhere_is_an_argument_of_its_own_type() -> None:
    elsewhere = {"num_classes", "drop_path"}
    for name in ("vit", "swin"):
        config = native_config(name)
        values = {key: value for key, value in vars(config).items() if key not in elsewhere}
        texts = {
            key: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for key, value in values.items()
        }
        texts["img_size"] = "224x224"
        assert parse_arguments(config, texts) == config
    assert get_args(ActivationKind) == tuple(ACTIVATIONS)


def test_free_swin() -> None:
    network = native_network(
        "swin",
        num_classes=4,
        img_size=(64, 96),
        drop_path=0.1,
        model_args={"embed_dim": "24", "depths": "1,2", "num_heads": "2-4", "window_size": "4-8"},
    )
    assert network(torch.randn(1, 3, 64, 96)).shape == (1, 4)
    before = torch.get_rng_state()
    own = default_preprocess(Architecture("swin", Impl.NATIVE, 4, None, 0, {"img_size": "64x96"}))
    assert (own.height, own.width) == (64, 96)
    assert torch.equal(torch.get_rng_state(), before), "the network is not built"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_starts_training_from_numbers_as_large_as_those_of_timm(name: str) -> None:
    torch.manual_seed(0)
    states = []
    for impl in Impl:
        network = create_network(Architecture(name, impl, 10, 64))
        reset_head(network, 20)
        states.append(network.state_dict())
    for key, value in states[0].items():
        if value.numel() > 1000:
            found, wanted = float(states[1][key].std()), float(value.std())
            assert found == pytest.approx(wanted, rel=0.15), key


# --- networks of timm ---------------------------------------------------------------------------


def test_a_network_of_timm_is_built_with_the_given_arguments(cli, dataset, tmp_path):
    words = ("--model", "test_vit", "--model-arg", "depth=2", "--model-arg", "qkv_bias=false")
    done = cli("train", dataset, *words, "--no-pretrained", "--img-size", 32, "--epochs", 1)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "latest"
    network = load_model(run / "model.safetensors")[0]
    assert len(network.blocks) == 2
    assert network.blocks[0].attn.qkv.bias is None
    assert cli("export", "--format", "timm", "--output", tmp_path / "folder").code == 0
    exported = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
    assert len(exported.blocks) == 2
    again = cli("eval", dataset, "--run", tmp_path / "folder", "--json")
    assert json.loads(again.out)["images"] == 6  # its validation split


def test_a_run_whose_arguments_only_timm_knows_is_trained_scored_and_inspected(cli, dataset):
    shape = ("depth=1", "embed_dim=32", "num_heads=2", "patch_size=16", "drop_rate=0.1")
    words = [word for one in shape for word in ("--model-arg", one)]
    words += ["--model", "vit_tiny_patch16_224", "--impl", "timm", "--no-pretrained"]
    done = cli("train", dataset, *words, "--img-size", 32, "--epochs", 1)
    assert done.code == 0, done.err
    assert cli("eval", dataset).code == 0
    assert json.loads(cli("inspect", "runs/latest", "--json").out)["image_px"] == [32, 32]
    for command in (("eval", dataset), ("predict", dataset), ("export",)):
        refused = cli(*command, "--impl", "native")
        assert refused.code == 1
        assert "drop_rate: unknown" in refused.err
        assert "--impl timm, as it was trained" in refused.err


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [
        ("deepth=2", 1, "unexpected keyword argument 'deepth'"),
        ("num_classes=7", 2, "one class folder per class"),
        ("drop_path_rate=0.1", 2, "--drop-path"),
    ],
)
def test_arguments_that_timm_does_not_know_or_have_an_option_are_refused(
    cli, dataset, argument, code, words
):
    done = cli("train", dataset, "--model", "test_vit", "--no-pretrained", "--model-arg", argument)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_a_network_without_drop_path_trains_with_none(cli, dataset, tmp_path):
    words = ("train", dataset, "--model", "dla46x_c", "--no-pretrained", "--img-size", 32)
    done = cli(*words, "--epochs", 1, "--no-freeze-layers")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "runs" / "latest" / "config.json").read_text())
    assert config["drop_path"] == 0
    assert "which has none" in cli(*words, "--drop-path", 0.1).err
    assert not takes_drop_path("hrnet_w18_small")


def test_a_network_whose_features_are_several_tensors_is_refused():
    with pytest.raises(ModelError) as caught:
        build_network(Architecture("crossvit_9_240", Impl.TIMM, 3))
    assert caught.value.found == "features of several parts (list)"


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("0.5", 0.5), ("false", False), ("None", None), ("(2, 2)", (2, 2)), ("avg", "avg")],
)
def test_texts_are_parsed_as_python_literals(text, value):
    assert constructor_arguments({"key": text}) == {"key": value}
