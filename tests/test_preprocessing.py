"""Preprocessing comes from what is known of the weights, in the order that is promised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import timm
import torch
from conftest import SMALL_MODEL
from safetensors.torch import save_file
from timm.models import save_for_hf
from torchvision import models

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.folder import FolderIndex
from swinclf.device import Precision, choose_hardware
from swinclf.errors import ConfigError
from swinclf.models.build import create_network
from swinclf.models.names import Architecture
from swinclf.models.store import save_model
from swinclf.models.timm_networks import timm_preprocess
from swinclf.models.weights.known_preprocess import (
    CLIP,
    HALF,
    IMAGENET,
    KnownPreprocess,
    preprocess_of_layout,
    read_preprocess,
)
from swinclf.pipeline.choose_network import choose_activation
from swinclf.pipeline.starting_model import (
    StartingModel,
    build_starting_model,
    preprocess_line,
    resolve_machine,
)
from swinclf.preprocess import Fit, Interpolation, Preprocess
from swinclf.reporter import SILENT, Reporter
from swinclf.settings import Settings, Source, gather_settings

NAME = "vit_tiny_patch16_224"  # .5, bicubic, 0.9


def start(**asked: Any) -> tuple[Settings, StartingModel]:
    asked = {"data": ".", "pretrained": False, "device": "cpu", "img_size": 32} | asked
    settings = gather_settings(asked)
    settings = resolve_machine(settings, choose_hardware("cpu"), Path())
    index = FolderIndex(Path("data"), ("a", "b"), (), (), has_val=False)
    return build_starting_model(settings, index, None, SILENT)


def beside(folder: Path, name: str, content: object) -> KnownPreprocess | None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return read_preprocess(folder / "model.safetensors")


def test_flags_are_obeyed_exactly_and_recorded() -> None:
    flags = {"mean": "0.1,0.2,0.3", "std": "0.4 0.5 0.6", "interpolation": "lanczos"}
    settings, begun = start(model=NAME, crop_pct=0.77, **flags)
    own = begun.preprocess
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (own.interpolation, own.crop_pct) == (Interpolation.LANCZOS, 0.77)
    saved = settings.to_dict()
    assert saved["std"] == "0.4,0.5,0.6"
    assert {saved["sources"][name] for name in (*flags, "crop_pct")} == {Source.FLAG}
    assert preprocess_line(settings) == (
        "preprocessing: mean 0.1 0.2 0.3, std 0.4 0.5 0.6, lanczos, crop 0.77 (given)"
    )


def test_the_models_own_is_used_and_recorded_without_anything_else() -> None:
    settings, begun = start(model=NAME)
    assert begun.preprocess.mean == (0.5, 0.5, 0.5)
    assert settings.config.mean == "0.5,0.5,0.5"
    assert settings.sources["mean"] is Source.AUTO
    assert preprocess_line(settings) == (
        "preprocessing: mean 0.5 0.5 0.5, std 0.5 0.5 0.5, bicubic, crop 0.9 (the model's own)"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"mean": "0.1,0.2"},
            "three numbers separated by commas, such as 0.485,0.456,0.406 for --mean",
        ),
        ({"mean": "a,b,c"}, "three numbers separated by commas"),
        ({"mean": "123.7,116.3,103.5"}, "from 0 to 1 (for pixel values from 0 to 1, not to 255)"),
        ({"mean": "nan,0,0"}, "three numbers separated by commas"),
        ({"std": "0,0.5,0.5"}, "three numbers from 0.001 to 10 for --std"),
        ({"std": [0.2, "x", 1]}, "three numbers separated by commas"),
        ({"crop_pct": 1.5}, "from 0.1 to 1 for --crop-pct"),
        (
            {"interpolation": "area"},
            "one of nearest, bilinear, bicubic, lanczos for --interpolation",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(asked: Mapping[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        gather_settings(asked)
    assert said in error.value.expected


def test_a_file_of_settings_may_have_lists(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("mean = [0.485, 0.456, 0.406]\nstd = 0.5\n", encoding="utf-8")
    settings = gather_settings({}, path)
    assert (settings.config.mean, settings.config.std) == ("0.485,0.456,0.406", "0.5,0.5,0.5")
    assert settings.sources["mean"] is Source.FILE


def write_vit(folder: Path) -> Path:
    network = timm.create_model(NAME, num_classes=2, img_size=32)
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def test_timms_config_beside_the_weights(tmp_path: Path) -> None:
    network = timm.create_model(SMALL_MODEL, num_classes=2)
    own = {"mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 0.95, "interpolation": "bilinear"}
    config = {"pretrained_cfg": own | {"crop_mode": "squash", "input_size": (3, 64, 64)}}
    save_for_hf(network, tmp_path, model_config=config, safe_serialization=True)
    assert read_preprocess(tmp_path / "model.safetensors") == KnownPreprocess(
        reason="from config.json",
        mean=IMAGENET[0],
        std=IMAGENET[1],
        interpolation=Interpolation.BILINEAR,
        crop_pct=0.95,
        fit=Fit.SQUASH,
        img_size=64,
    )


def test_the_mode_that_adds_borders_pads(tmp_path: Path) -> None:
    known = beside(tmp_path, "config.json", {"pretrained_cfg": {"crop_mode": "border"}})
    assert known is not None
    assert known.fit is Fit.PAD
    config = replace(timm.get_pretrained_cfg(NAME), crop_mode="border")
    with patch.object(timm, "get_pretrained_cfg", return_value=config):
        assert timm_preprocess(NAME).fit is Fit.PAD


def test_a_training_uses_it_unless_told_otherwise(tmp_path: Path) -> None:
    path = write_vit(tmp_path)
    beside(
        tmp_path,
        "config.json",
        {"pretrained_cfg": {"mean": IMAGENET[0], "std": IMAGENET[1], "input_size": [3, 32, 32]}},
    )
    settings, begun = start(model=NAME, weights=str(path), std="0.3,0.3,0.3", img_size=None)
    own = begun.preprocess
    assert (own.mean, own.std, own.height) == (IMAGENET[0], (0.3, 0.3, 0.3), 32)
    assert own.crop_pct == 0.9
    assert settings.reasons["img_size"] == "from config.json"
    assert preprocess_line(settings) == (
        "preprocessing: mean 0.485 0.456 0.406 (from config.json); std 0.3 0.3 0.3 (given); "
        "bicubic, crop 0.9 (the model's own)"
    )


def test_an_image_size_among_the_arguments_of_a_shape_is_obeyed(tmp_path: Path) -> None:
    shape = ("img_size=32", "depth=12", "embed_dim=192", "num_heads=3")
    path = write_vit(tmp_path)
    beside(tmp_path, "config.json", {"pretrained_cfg": {"input_size": [3, 64, 64]}})
    settings, begun = start(model="vit", weights=str(path), img_size=None, model_arg=shape)
    assert (settings.config.img_size, begun.preprocess.height) == (32, 32)


def test_a_network_for_images_that_are_not_square_is_refused() -> None:
    shape = ("img_size=32x48", "depth=1", "embed_dim=32", "num_heads=2")
    with pytest.raises(ConfigError) as caught:
        start(model="vit", img_size=None, model_arg=shape)
    assert caught.value.found == "32 x 48 px"
    assert caught.value.hint == "--model-arg img_size=48"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (  # ViT
            {
                "do_resize": True,
                "size": {"height": 224, "width": 224},
                "resample": 2,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            },
            (*HALF, Interpolation.BILINEAR, 1.0, Fit.SQUASH, 224),
        ),
        (  # ViT, before 2022
            {"size": 384, "resample": 3, "image_mean": HALF[0], "image_std": HALF[1]},
            (*HALF, Interpolation.BICUBIC, 1.0, Fit.SQUASH, 384),
        ),
        (  # DINOv2
            {
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "size": {"shortest_edge": 256},
                "resample": 3,
                "image_mean": IMAGENET[0],
                "image_std": IMAGENET[1],
                "rescale_factor": 0.00392156862745098,
            },
            (*IMAGENET, Interpolation.BICUBIC, 0.875, Fit.CROP, 224),
        ),
        (  # CLIP
            {
                "crop_size": 224,
                "do_center_crop": True,
                "size": 224,
                "resample": 3,
                "image_mean": CLIP[0],
                "image_std": CLIP[1],
            },
            (*CLIP, Interpolation.BICUBIC, 1.0, Fit.CROP, 224),
        ),
        (  # colours to 1 already, or not normalised at all
            {"size": {"height": 64, "width": 64}, "do_normalize": False},
            ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None, 1.0, Fit.SQUASH, 64),
        ),
        (
            {"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 2 / 255},
            ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None, None, None, None),
        ),
        (  # ConvNeXT, from 384 px on
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3},
            (None, None, Interpolation.BICUBIC, 1.0, Fit.SQUASH, 384),
        ),
        (  # colours to 255
            {"image_mean": [127.5] * 3, "image_std": [127.5] * 3, "do_rescale": False},
            ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None, None, None, None),
        ),
    ],
)
def test_transformers_preprocessor_config(
    content: object, expected: tuple[object, ...], tmp_path: Path
) -> None:
    found = beside(tmp_path, "preprocessor_config.json", content)
    assert found is not None
    assert (
        found.mean,
        found.std,
        found.interpolation,
        found.crop_pct,
        found.fit,
        found.img_size,
    ) == expected


def test_transformers_processor_of_images_and_text(tmp_path: Path) -> None:
    content = {"image_processor": {"image_mean": CLIP[0]}, "processor_class": "CLIPProcessor"}
    found = beside(tmp_path, "processor_config.json", content)
    assert found == KnownPreprocess(reason="from processor_config.json", mean=CLIP[0])


def test_open_clip_config(tmp_path: Path) -> None:
    content = {
        "model_cfg": {"vision_cfg": {"image_size": 224}},
        "preprocess_cfg": {"mean": HALF[0], "std": HALF[1], "interpolation": "bicubic"},
    }
    found = beside(tmp_path, "open_clip_config.json", content)
    assert found == KnownPreprocess(
        reason="from open_clip_config.json",
        mean=HALF[0],
        std=HALF[1],
        interpolation=Interpolation.BICUBIC,
        crop_pct=1.0,
        fit=Fit.CROP,
        img_size=224,
    )


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"architectures": ["ViTForImageClassification"], "hidden_size": 192},
        {"pretrained_cfg": {"mean": [0.5], "std": [0, 1, 1], "interpolation": "random"}},
        {"pretrained_cfg": {"mean": ["a", "b", "c"]}},
        {"pretrained_cfg": {"mean": [float("nan")] * 3, "crop_pct": 7, "input_size": 5}},
        {"pretrained_cfg": 7},
        {"pretrained_cfg": {"mean": [10**400] * 3}},
        {"pretrained_cfg": {"input_size": [3, 10**400, 10**400]}},
    ],
)
def test_other_or_damaged_configs_say_nothing(content: object, tmp_path: Path) -> None:
    assert beside(tmp_path, "config.json", content) is None
    for damaged in (b"\xff\xfe{", b'{"a":' + 100_000 * b"["):
        (tmp_path / "config.json").write_bytes(damaged)
        assert read_preprocess(tmp_path / "model.safetensors") is None
        settings = gather_settings({"data": ".", "model": "vit_base_patch16_clip_224"})
        assert choose_activation(settings, tmp_path / "model.safetensors", SILENT) is settings


@pytest.mark.parametrize(
    ("layout", "name", "weights"),
    [
        ("torchvision ViT", "vit_base_patch16_224", models.ViT_B_16_Weights.IMAGENET1K_V1),
        ("torchvision ViT", "vit_large_patch16_224", models.ViT_L_16_Weights.IMAGENET1K_V1),
        ("torchvision Swin", "swin_tiny_patch4_window7_224", models.Swin_T_Weights.IMAGENET1K_V1),
        ("torchvision Swin", "swin_small_patch4_window7_224", models.Swin_S_Weights.IMAGENET1K_V1),
        ("torchvision Swin", "swin_base_patch4_window7_224", models.Swin_B_Weights.IMAGENET1K_V1),
        ("torchvision Swin V2", "swinv2_base_window8_256", models.Swin_V2_B_Weights.IMAGENET1K_V1),
    ],
)
def test_torchvisions_weights_imply_torchvisions_transforms(
    layout: str, name: str, weights: Any
) -> None:
    with torch.device("meta"):
        tensors = timm.create_model(name).state_dict()
    found, theirs = preprocess_of_layout(layout, tensors), weights.transforms()
    assert found is not None
    assert found.mean == tuple(theirs.mean)
    assert found.std == tuple(theirs.std)
    assert found.interpolation == theirs.interpolation.value
    assert found.crop_pct is not None
    side = theirs.crop_size[0]
    own = Preprocess(
        height=side,
        width=side,
        interpolation=Interpolation.BICUBIC,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        crop_pct=found.crop_pct,
        fit=Fit.CROP,
    )
    assert own.scaled_size == (theirs.resize_size[0],) * 2


def test_layouts_without_one_preprocessing_imply_none() -> None:
    for layout in ("Google JAX", "transformers ViT", "BEiT", None):
        assert preprocess_of_layout(layout, {}) is None


def test_the_layout_of_a_file_implies_it(tmp_path: Path) -> None:
    network = models.VisionTransformer(32, 16, 12, 3, 192, 768, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    settings, begun = start(model=NAME, weights=str(tmp_path / "vit.pth"))
    assert begun.preprocess.std == IMAGENET[1]
    assert preprocess_line(settings) == (
        "preprocessing: mean 0.485 0.456 0.406, std 0.229 0.224 0.225, bilinear, crop 0.875 "
        "(as usual for torchvision ViT)"
    )
    beside(tmp_path, "preprocessor_config.json", {"image_mean": HALF[0], "resample": 1})
    settings, begun = start(model=NAME, weights=str(tmp_path / "vit.pth"))
    assert (begun.preprocess.mean, begun.preprocess.std) == (HALF[0], IMAGENET[1])
    assert settings.reasons["mean"] == "from preprocessor_config.json"


def test_an_earlier_run_hands_its_own_on(tmp_path: Path) -> None:
    own = Preprocess(
        height=32,
        width=32,
        interpolation=Interpolation.BILINEAR,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 0.5, 0.25),
        crop_pct=0.6,
        fit=Fit.PAD,
    )
    shape = Architecture(NAME, Impl.NATIVE, num_classes=2, img_size=32)
    card = ModelCard(
        model=NAME,
        impl=Impl.NATIVE,
        classes=("a", "b"),
        preprocess=own,
        precision=Precision.FP32,
    )
    save_model(tmp_path / "model.safetensors", create_network(shape), card)
    beside(tmp_path, "preprocessor_config.json", {"image_mean": HALF[0]})  # of something else
    settings, begun = start(weights=str(tmp_path / "model.safetensors"), img_size=None)
    assert begun.preprocess == own
    assert preprocess_line(settings) == (
        "preprocessing: mean 0.1 0.2 0.3, std 1 0.5 0.25, bilinear, crop 0.6 "
        "(as the run that --weights names)"
    )
    _, begun = start(weights=str(tmp_path / "model.safetensors"), fit="crop", crop_pct=1.0)
    assert begun.preprocess == replace(own, fit=Fit.CROP, crop_pct=1.0)


@pytest.mark.parametrize(
    ("config", "model", "expected"),
    [
        ({"hidden_act": "gelu"}, "vit_base_patch32_clip_224", ()),
        ({"hidden_act": "quick_gelu"}, "vit_base_patch32_clip_224", ("activation=quick_gelu",)),
        ({"hidden_act": "quick_gelu"}, "vit_base_patch32_clip_quickgelu_224", ()),
        (
            {"vision_config": {"hidden_act": "gelu_pytorch_tanh"}},
            "vit_base_patch16_siglip_gap_224",
            ("activation=gelu_tanh",),
        ),
        ({"hidden_act": "gelu"}, "vit_giant_patch14_dinov2", ()),
        ({"hidden_act": 5}, NAME, ()),
        ({"hidden_act": "quick_gelu"}, "swin_tiny_patch4_window7_224", ()),
    ],
)
def test_config_json_decides_the_activation(
    config: object, model: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = gather_settings({"model": model, "impl": "native"})
    settings = choose_activation(settings, tmp_path / "model.safetensors", SILENT)
    assert settings.config.model_arg == expected
    assert settings.reasons.get("model_arg") == ("from config.json" if expected else None)


def test_an_activation_that_cannot_be_chosen_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_act": "quick_gelu"}', encoding="utf-8")
    lines: list[str] = []
    report = Mock(spec=Reporter, warn=lines.append)
    asked = {"model": "vit_base_patch32_clip_224", "impl": "timm"}
    choose_activation(gather_settings(asked), tmp_path / "model.safetensors", report)
    given = {"model": "vit", "impl": "native", "model_arg": ["depth=2"]}
    choose_activation(gather_settings(given), tmp_path / "model.safetensors", report)
    assert lines == [
        "the weights' config.json has quick_gelu, the activation of "
        "vit_base_patch32_clip_quickgelu_224",
        "the weights' config.json has quick_gelu: add --model-arg activation=quick_gelu",
    ]
