"""The table of names is timm's, and free shapes are checked in words."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from network_cases import distinct_names
from timm.models import _registry

from swinclf.config import Impl
from swinclf.errors import ConfigError, ModelError
from swinclf.models.arguments import SWIN_ARGUMENTS, VIT_ARGUMENTS
from swinclf.models.build import Architecture, create_network, reset_head
from swinclf.models.complexity import count_torch_flops, parts
from swinclf.models.names import (
    build_native,
    native_config,
    native_data_config,
    native_names,
    suggest_names,
)

# What these networks do not express, by a word of the name: other blocks (rpn, xp, 18x2, the d...
# and p... sizes), pooling by attention (siglip without gap, map), a stem of convolutions (r26, r50,
# resnet, mci), rotary positions, other relative positions; radio's tables resize by another rule.
NOT_HERE = (
    *("_rpn_", "_xp_", "18x2", "_dwee_", "_pwee_", "_dpwee_", "_dlittle_", "_map_", "radio"),
    *("_r26_", "_r50_", "_r_", "resnet", "_mci_", "_rope_", "_pe_", "relpos"),
    *("dinov3", "sapiens", "lingbot"),
)


def test_every_plain_name_of_timm_is_there() -> None:
    def is_plain(name: str) -> bool:
        pooled_by_attention = "_siglip_" in name and "_gap_" not in name
        return not pooled_by_attention and not any(word in name for word in NOT_HERE)

    theirs = timm.list_models(["vit_*", "deit_*", "deit3_*", "swin_*"])
    assert native_names() == sorted(name for name in theirs if is_plain(name))
    assert len(native_names()) == 130


def test_data_configs_are_timms() -> None:
    for name in native_names():
        tags = _registry._model_default_cfgs[name]
        for tag in tags.tags:
            mine, its = native_data_config(f"{name}.{tag}"), tags.cfgs[tag]
            assert (3, mine.img_size, mine.img_size) == its.input_size, (name, tag)
            for field in ("mean", "std", "interpolation", "crop_pct", "crop_mode", "num_classes"):
                assert getattr(mine, field) == getattr(its, field), (name, tag, field)
            hub = its.hf_hub_id
            assert mine.hub_id == (f"timm/{name}.{tag}" if hub == "timm/" else hub or None)
        assert native_data_config(name).tag == tags.tags[0], name


@pytest.mark.parametrize("name", native_names())
def test_state_dict_is_timms(name: str) -> None:
    with torch.device("meta"):
        mine = build_native(name, num_classes=10)
        its = timm.create_model(name, num_classes=10)
    shapes = [(key, value.shape) for key, value in mine.state_dict().items()]
    assert shapes == [(key, value.shape) for key, value in its.state_dict().items()]
    order = [key for key, _ in its.named_parameters()]
    assert [key for key, _ in mine.named_parameters()] == order
    assert sum(part.parameters for part in parts(mine)) == sum(
        value.numel() for value in mine.parameters()
    )


@pytest.mark.parametrize("name", distinct_names())
def test_multiply_adds_are_what_torch_counts(name: str) -> None:
    cut = {"depths": "1-2-2-1"} if name.startswith("swin") else {"depth": "2"}
    with torch.device("meta"):
        network = build_native(name, num_classes=10, model_args=cut).eval()
        image = torch.empty(1, 3, *network.patch_embed.img_size)
        with torch.no_grad():
            flops = count_torch_flops(lambda: network(image))
    assert 2 * sum(part.macs for part in parts(network)) == flops


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet50", "--impl timm"),
        ("vit_base_patch16_siglip_224", "--impl timm, or did you mean"),
        ("vit_base_patch16_242", "did you mean vit_base_patch16_224?"),
        ("swin_tiny_patch4_windw7_224", "did you mean swin_tiny_patch4_window7_224?"),
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
        ("resnet", None),
        ("", None),
    ],
)
def test_suggestions_begin_with_what_was_typed(word: str, first: str | None) -> None:
    known = [*native_names(), "swin_s3_tiny_224", "gcvit_tiny", "davit_tiny", "swinv2_cr_tiny_224"]
    assert next(iter(suggest_names(word, known)), None) == first


def test_all_wrong_arguments_are_told_at_once() -> None:
    arguments = {"patchsize": "6", "depth": "many", "pool": "tokn", "dropout": "2"}
    with pytest.raises(ConfigError) as error:
        build_native("vit", num_classes=2, model_args=arguments)
    for part in (
        "did you mean patch_size?",
        "depth=many: encoder blocks, a whole number",
        "token?",
        "dropout=2: dropped inside the blocks in training, fraction, a number from 0 to",
    ):
        assert part in error.value.found
    assert "head_hidden" in error.value.hint


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("vit", {"num_heads": "7"}, "no multiple"),
        ("vit", {"class_token": "no"}, "needs class_token"),
        ("vit", {"distilled": "yes", "head": "tanh"}, "distilled"),
        ("vit", {"position": "sincos", "embed_dim": "6", "num_heads": "2"}, "multiple of 4"),
        ("vit", {"head": "mlp"}, "needs head_hidden"),
        ("vit", {"head_hidden": "64"}, "needs head=mlp"),
        ("vit", {"head": "tanh", "head_hidden": "64-32"}, "one number"),
        ("vit", {"img_size": "8"}, "8 px"),
        ("vit", {"img_size": "72x96x3"}, "height x width"),
        ("vit", {"activation": "swiglu", "mlp_ratio": "0.3", "embed_dim": "12"}, "even"),
        ("swin", {"depths": "2-2"}, "one number a stage"),
        ("swin", {"depths": ""}, "at least one stage"),
        ("swin", {"num_heads": "5-6-12-24"}, "do not divide"),
        ("swin", {"depths": "2-0-2"}, "whole numbers above 0"),
        ("swin", {"window_size": ""}, "one a stage"),
        ("swin", {"qkv_bias": "perhaps"}, "true or false"),
    ],
)
def test_shapes_that_cannot_be_are_refused(
    name: str, arguments: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build_native(name, num_classes=2, model_args=arguments)
    assert problem in error.value.found


def test_arguments_cover_every_field_but_those_set_elsewhere() -> None:
    elsewhere = {"num_classes", "drop_path"}
    for name, known in (("vit", VIT_ARGUMENTS), ("swin", SWIN_ARGUMENTS)):
        assert set(native_config(name).__dataclass_fields__) - elsewhere == set(known)


def test_free_swin() -> None:
    network = build_native(
        "swin",
        num_classes=4,
        img_size=(64, 96),
        drop_path=0.1,
        model_args={"embed_dim": "24", "depths": "1,2", "num_heads": "2-4", "window_size": "4-8"},
    )
    assert network(torch.randn(1, 3, 64, 96)).shape == (1, 4)


def test_native_route_does_not_import_timm() -> None:
    code = (
        "import sys; from swinclf.models.names import build_native;"
        "import swinclf.models.weights.adapt;"
        "build_native('vit_tiny_patch16_224', num_classes=2); assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
