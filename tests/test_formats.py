"""Foreign weight files, written here by their layouts, give the answers they came from."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from network_cases import (
    FLOAT32_TOLERANCE,
    adapt,
    difference,
    images,
    native_network,
    pair,
    randomise,
)
from timm.models import swin_transformer, vision_transformer
from torch import Tensor, nn

from swinclf.errors import WeightsError
from swinclf.models.weights.containers import read_checkpoints

VIT, SWIN, DEIT = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "deit3_small_patch16_224"
SMALL = {VIT: {"depth": 2, "img_size": 48}, DEIT: {"depth": 2, "img_size": 48}}
NARROW = {"embed_dim": 24, "num_heads": (1, 2, 3, 4)}
SMALL[SWIN] = {"depths": (2, 1, 1, 1), "img_size": 56, **NARROW}
State = dict[str, Tensor]


def small_pair(name: str = VIT) -> tuple[nn.Module, nn.Module]:
    ours, theirs = pair(name, **SMALL[name])
    randomise(ours, seed=9)  # nothing of the answers may come from before
    return ours, theirs


def google(state: State, prefix: str = "") -> dict[str, np.ndarray]:
    """Write a ViT state dict as Google's JAX code saves it."""
    heads, found = 3, {}
    for name, value in state.items():
        array = value.numpy()
        block = re.match(r"blocks\.(\d+)\.(.*)\.(weight|bias)", name)
        kind = "kernel" if name.endswith("weight") else "bias"
        if block:
            base = f"Transformer/encoderblock_{block[1]}/"
            attention = base + "MultiHeadDotProductAttention_1/"
            part = block[2]
            if part.startswith("norm"):
                norm = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2"}[part]
                found[base + norm + ("/scale" if kind == "kernel" else "/bias")] = array
            elif part == "attn.qkv":
                for key, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                    shaped = third.T.reshape(-1, heads, 64) if kind == "kernel" else third
                    found[f"{attention}{key}/{kind}"] = (
                        shaped.reshape(*shaped.shape[:-2], heads, 64)
                        if kind == "kernel"
                        else shaped.reshape(heads, 64)
                    )
            elif part == "attn.proj":
                found[f"{attention}out/{kind}"] = (
                    array.T.reshape(heads, 64, -1) if kind == "kernel" else array
                )
            else:
                dense = {"mlp.fc1": "Dense_0", "mlp.fc2": "Dense_1"}[part]
                found[f"{base}MlpBlock_3/{dense}/{kind}"] = array.T
        elif name.startswith("patch_embed"):
            found[f"embedding/{kind}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        elif name.startswith("norm."):
            key = "scale" if kind == "kernel" else "bias"
            found[f"Transformer/encoder_norm/{key}"] = array
        elif name.startswith("head."):
            found[f"head/{kind}"] = array.T
        else:
            pos = "Transformer/posembed_input/pos_embedding"
            found[{"cls_token": "cls", "pos_embed": pos}[name]] = array
    return {prefix + key: np.ascontiguousarray(array) for key, array in found.items()}


def check_loads(path: Path, ours: nn.Module, theirs: nn.Module) -> None:
    """Check that the file gives both networks the answers of the one it was written from."""
    x = images(ours)
    with torch.no_grad():
        expected = theirs(x)
        state = theirs.state_dict()
        for network in (ours, theirs):
            randomise(network, seed=7)
            assert difference(network(x), expected) > 0.1
            adapted = adapt(read_checkpoints(path)[0].tensors, network)
            network.load_state_dict(adapted.state, strict=True)
            assert adapted.head_loaded
            assert adapted.resized == []
            assert difference(network(x), expected) < FLOAT32_TOLERANCE
    theirs.load_state_dict(state)


@pytest.mark.parametrize("name", [VIT, SWIN])
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict", "module."])
def test_torch_files_bare_and_wrapped(name: str, wrapped: str | None, tmp_path: Path) -> None:
    ours, theirs = small_pair(name)
    state = dict(theirs.state_dict())
    content: object = {"module." + key: value for key, value in state.items()}
    if wrapped != "module.":
        content = state if wrapped is None else {wrapped: state, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    check_loads(tmp_path / "weights.pth", ours, theirs)


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
def test_google_vit(prefix: str, tmp_path: Path) -> None:
    ours, theirs = small_pair()
    np.savez(tmp_path / "vit.npz", **google(theirs.state_dict(), prefix))
    check_loads(tmp_path / "vit.npz", ours, theirs)


def test_google_layout_is_the_one_timm_reads(tmp_path: Path) -> None:
    ours, theirs = small_pair()
    np.savez(tmp_path / "vit.npz", **google(theirs.state_dict()))
    for size in (48, 80):
        other = timm.create_model(VIT, num_classes=5, depth=2, img_size=size).eval()
        other.load_pretrained(str(tmp_path / "vit.npz"))
        ours = native_network(VIT, num_classes=5, img_size=size, model_args={"depth": "2"}).eval()
        adapted = adapt(read_checkpoints(tmp_path / "vit.npz")[0].tensors, ours)
        ours.load_state_dict(adapted.state)
        assert adapted.resized == ([] if size == 48 else ["pos_embed"])
        x = images(ours)
        assert difference(ours(x), other(x)) < FLOAT32_TOLERANCE


def test_deit_file_with_its_settings(tmp_path: Path) -> None:
    ours, theirs = small_pair(DEIT)
    state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", k): v for k, v in theirs.state_dict().items()}
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, tmp_path / "deit.pth")
    check_loads(tmp_path / "deit.pth", ours, theirs)


def test_dinov2_file_with_registers(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    ours, theirs = pair(name, num_classes=0, depth=1, img_size=42)
    x, state = images(ours), dict(theirs.state_dict())
    class_place = torch.randn(1, 1, 384)
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - class_place
    state["pos_embed"] = torch.cat((class_place, state["pos_embed"]), dim=1)
    state["mask_token"] = torch.zeros(1, 384)
    torch.save(state, tmp_path / "dino.pth")
    randomise(ours, seed=4)
    adapted = adapt(read_checkpoints(tmp_path / "dino.pth")[0].tensors, ours)
    ours.load_state_dict(adapted.state)
    assert difference(ours(x), theirs(x)) < FLOAT32_TOLERANCE


@pytest.mark.filterwarnings("ignore:torch.searchsorted|Using a non-tuple:UserWarning")  # timm's own
@pytest.mark.parametrize("changes", [{"img_size": 64, "window_size": 8}, {"img_size": (96, 64)}])
def test_swin_tables_resize_as_timm_resizes_them(changes: dict[str, object]) -> None:
    _, theirs = small_pair(SWIN)
    extra = {"num_classes": 5, "depths": (2, 1, 1, 1), "weight_init": "skip", **NARROW}
    other = timm.create_model(SWIN, **extra, **changes)
    expected = swin_transformer.checkpoint_filter_fn(theirs.state_dict(), other)
    adapted = adapt(theirs.state_dict(), other)
    assert adapted.resized
    for name in adapted.resized:
        assert difference(adapted.state[name], expected[name]) < 1e-6


@pytest.mark.parametrize("size", [32, 96, (64, 112)])
def test_vit_positions_resize_as_timm_resizes_them(size: object) -> None:
    _, theirs = small_pair()
    other = timm.create_model(VIT, num_classes=5, depth=2, img_size=size)
    expected = vision_transformer.checkpoint_filter_fn(theirs.state_dict(), other)["pos_embed"]
    ours = native_network(VIT, num_classes=5, img_size=size, model_args={"depth": "2"})
    for network in (ours, other):
        adapted = adapt(theirs.state_dict(), network)
        assert adapted.resized == ["pos_embed"]
        assert difference(adapted.state["pos_embed"], expected) < 1e-6


def test_same_count_of_positions_in_another_grid() -> None:
    ours = native_network(VIT, num_classes=5, img_size=(32, 128), model_args={"depth": "1"})
    state = ours.state_dict()
    assert adapt(state, ours).resized == []


@pytest.mark.parametrize("name", [VIT, SWIN])
@pytest.mark.parametrize("classes", [9, 0])
def test_another_head_is_left_out(name: str, classes: int) -> None:
    _, theirs = small_pair(name)
    ours, _ = pair(name, num_classes=classes, **SMALL[name])
    before = [value.clone() for key, value in ours.state_dict().items() if key.startswith("head")]
    adapted = adapt(theirs.state_dict(), ours)
    ours.load_state_dict(adapted.state)
    assert not adapted.head_loaded
    after = [value for key, value in ours.state_dict().items() if key.startswith("head")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    x = images(ours)
    assert difference(ours.forward_features(x), theirs.forward_features(x)) < FLOAT32_TOLERANCE


def test_file_without_a_head() -> None:
    ours, theirs = small_pair()
    body = {key: value for key, value in theirs.state_dict().items() if "head" not in key}
    assert not adapt(body, ours).head_loaded


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s.pop("blocks.1.norm2.bias"),
            "blocks.1.norm2.bias: the network has 192, the fi",
        ),
        (
            lambda s: s.update(extra=torch.ones(2, 3)),
            "extra: the file has 2 x 3, the network has no",
        ),
        (
            lambda s: s.update({"blocks.0.attn.proj.weight": torch.ones(8, 8)}),
            "blocks.0.attn.proj.weight: the network has 192 x 192, the file 8 x 8",
        ),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.ones(192, 3, 8, 8)}),
            "patch_embed.proj.weight: the network has 192 x 3 x 16 x 16, the file 192 x 3 x 8 x 8",
        ),
        (lambda s: s.update(pos_embed=torch.ones(1, 6, 192)), "5 positions make no grid"),
        (
            lambda s: s.update(pos_embed=torch.ones(1, 17, 64)),
            "the network has 1 x 10 x 192, the fi",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(change: object, said: str) -> None:
    ours, theirs = small_pair()
    state = dict(theirs.state_dict())
    assert callable(change)
    change(state)
    with pytest.raises(WeightsError) as error:
        adapt(state, ours)
    assert said in error.value.found


def test_many_differences_are_counted() -> None:
    ours, _ = small_pair()
    with pytest.raises(WeightsError, match="and 26 more"):
        adapt({}, ours)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut short"])
def test_broken_files_are_errors_in_words(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError):
        read_checkpoints(tmp_path / name)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights file"):
        read_checkpoints(tmp_path / "none.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="tensors"):
        read_checkpoints(tmp_path / "empty.pth")
