"""Files of other tools, written here by their layouts, give the answers they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foreign_layouts as foreign
import numpy as np
import pytest
import timm
import torch
from foreign_layouts import dinov2, headless, swiglu
from network_cases import FLOAT32_TOLERANCE, adapt, difference, images, native_network, randomise
from torch import Tensor, nn
from torchvision.models import swin_transformer, vision_transformer

from swinclf.errors import WeightsError
from swinclf.models.names import is_native
from swinclf.models.weights.layouts import LAYOUTS
from swinclf.models.weights.select import WeightsCheckpoint
from swinclf.models.weights.suggest import fitting_models

State = dict[str, Tensor]
Changes = dict[str, Any]

TINY: Changes = {"embed_dim": 24, "num_heads": 3, "depth": 2}
VIT = ("vit_tiny_patch16_224", TINY | {"img_size": 48})
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 12, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 3, 4), "img_size": 56},
)
SWIN_V2 = (
    "swinv2_tiny_window8_256",
    {"embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 3, 4), "img_size": 128},
)
DEIT = ("deit_tiny_distilled_patch16_224", TINY | {"img_size": 48})
BEIT = ("beit_base_patch16_224", TINY | {"img_size": 48})
DINO_V2 = ("vit_small_patch14_dinov2", TINY | {"img_size": 42})
DINO_V2_REG = ("vit_small_patch14_reg4_dinov2", TINY | {"img_size": 42})
DINO_V2_GIANT = ("vit_giant_patch14_dinov2", TINY | {"img_size": 42})
DINO_V3 = ("vit_small_patch16_dinov3_qkvb", TINY | {"img_size": 48})
DINO_V3_PLUS = ("vit_small_plus_patch16_dinov3_qkvb", TINY | {"img_size": 48})
CLIP = ("vit_base_patch16_clip_quickgelu_224", TINY | {"img_size": 48})
SIGLIP = ("vit_base_patch16_siglip_224", TINY | {"img_size": 48})
SIGLIP_GAP = ("vit_base_patch16_siglip_gap_224", TINY | {"img_size": 48})
EVA_02 = ("eva02_tiny_patch14_224", TINY | {"img_size": 42})
EVA_02_BASE = ("eva02_base_patch14_224", TINY | {"img_size": 42})


def create(network: tuple[str, Changes], seed: int = 0, **more: Any) -> nn.Module:
    name, changes = network
    model = timm.create_model(name, **({"num_classes": 5} | changes | more))
    randomise(model, seed)
    return model.eval()


def native(network: tuple[str, Changes]) -> nn.Module:
    name, changes = network
    arguments = {
        key: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for key, value in changes.items()
        if key != "img_size"
    }
    return native_network(
        name, num_classes=5, img_size=changes["img_size"], model_args=arguments
    ).eval()


@dataclass(frozen=True)
class Case:
    """A layout: what writes it, from which network, and what it is called."""

    name: str
    network: tuple[str, Changes]
    write: Callable[[State], Mapping[str, Tensor]]
    head: bool = True


def meta_dinov2(state: State) -> State:
    """Blocks in four chunks, as FSDP had them; SwiGLU's own names."""
    found = {}
    for name, value in headless(state).items():
        if name.startswith("blocks."):
            name = name.replace("blocks.", f"blocks.{name.split('.')[1]}.", 1)
        found[name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")] = value
    return found | {"mask_token": torch.zeros(1, 24)}


def meta_dinov3(state: State) -> State:
    found: State = {"mask_token": torch.zeros(1, 24), "storage_tokens": state["reg_token"]}
    found["rope_embed.periods"] = 100 ** (torch.arange(2) / 2)
    for name, value in headless(state).items():
        name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        name = name.replace("fc1_g", "w1").replace("fc1_x", "w2")
        if "mlp.fc1_g" in "".join(state):
            name = name.replace("mlp.fc2", "mlp.w3")
        if name.endswith("q_bias"):
            base = name.removesuffix("q_bias")
            keys = torch.randn(24)  # never used: the mask holds them at zero
            found[base + "qkv.bias"] = torch.cat((value, keys, state[base + "v_bias"]))
            mask = torch.ones(72)
            mask[24:48] = 0
            found[base + "qkv.bias_mask"] = mask
        elif not name.endswith("v_bias") and name != "reg_token":
            found[name] = value
    return found


def mae(state: State) -> State:
    decoder = {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_pos_embed": torch.zeros(1, 10, 16),
        "decoder_embed.weight": torch.zeros(16, 24),
        "decoder_blocks.0.norm1.weight": torch.zeros(16),
        "decoder_pred.bias": torch.zeros(768),
    }
    return headless(state) | decoder


def moco(state: State) -> State:
    body = headless(state)
    head = {"head.0.weight": torch.ones(9, 24), "head.1.running_mean": torch.ones(9)}
    online = {f"base_encoder.{name}": value for name, value in (body | head).items()}
    slow = {f"momentum_encoder.{name}": -value for name, value in (body | head).items()}
    return slow | online | {"predictor.0.weight": torch.ones(9, 9)}


def dino(state: State) -> State:
    body = headless(state)
    heads = {"head.mlp.0.weight": torch.ones(9, 24), "head.last_layer.weight_g": torch.ones(9, 1)}
    return {f"backbone.{name}": value for name, value in body.items()} | heads


def simmim(state: State) -> State:
    found = {f"encoder.{name}": value for name, value in foreign.microsoft(state).items()}
    found = {name: value for name, value in found.items() if "head" not in name}
    return found | {"encoder.mask_token": torch.zeros(1, 1, 12), "decoder.0.bias": torch.zeros(3)}


def eva(state: State) -> State:
    """EVA-02: from B on, queries, keys and values apart and norms within attention and MLP."""
    found = {}
    for name, value in state.items():
        name = name.replace("q_proj.bias", "q_bias").replace("v_proj.bias", "v_bias")
        name = name.replace("attn.norm", "attn.inner_attn_ln").replace("mlp.norm", "mlp.ffn_ln")
        name = name.replace("fc1_g", "w1").replace("fc1_x", "w2").replace("mlp.fc2", "mlp.w3")
        found[name.replace("mlp.fc1.", "mlp.w12.")] = value
    return found | {"rope.freqs_cos": torch.ones(9, 8), "rope.freqs_sin": torch.ones(9, 8)}


def beit_pretrained(state: State) -> State:
    """One table of positions for all blocks, a mask token, a head over visual words."""
    body = {n: v for n, v in headless(state).items() if "bias_table" not in n}
    body = {name.replace("fc_norm", "norm"): value for name, value in body.items()}
    shared = "rel_pos_bias.relative_position_bias_table"
    table = state["blocks.0.attn.relative_position_bias_table"]
    rest = {"mask_token": torch.zeros(1, 1, 24), "lm_head.weight": torch.zeros(99, 24)}
    return body | {shared: table} | rest


def numpy_file(heads: int, *, stacked: bool = False) -> Callable[[State], State]:
    def write(state: State) -> State:
        arrays = foreign.big_vision(state, heads)
        if stacked:
            first = [name for name in arrays if "encoderblock_0" in name]
            for name in first:
                both = [arrays.pop(name.replace("_0/", f"_{n}/", 1)) for n in (0, 1)]
                arrays[name.replace("encoderblock_0", "encoderblock")] = np.stack(both)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return write


def token_pooled(state: State) -> State:
    """big_vision's `tok`: positions are added before the class token is put in front."""
    found = numpy_file(3)(state)
    found["params/pos_embedding"] = found["params/pos_embedding"][:, 1:]
    return found


def hf(base: str, *, new: bool) -> Callable[[State], State]:
    return lambda state: foreign.transformers_vit(state, new=new, base=base)


def hf_swin(base: str, *, new: bool) -> Callable[[State], State]:
    return lambda state: foreign.transformers_swin(state, new=new, base=base)


def no_base(state: State) -> State:
    """CLIP's or SigLIP's image tower alone, as transformers 5 saves it."""
    return foreign.transformers_clip(headless(state), base="")


CASES = [
    *(Case("transformers ViT", VIT, hf(base, new=True)) for base in ("vit", "", "net.vit")),
    *(Case("transformers ViT", VIT, hf(base, new=False)) for base in ("vit", "", "net.vit")),
    *(Case("transformers DeiT", DEIT, hf("deit", new=new)) for new in (False, True)),
    *(Case("transformers BEiT", BEIT, hf("beit", new=new)) for new in (False, True)),
    *(Case("transformers Swin", SWIN, hf_swin("swin", new=new)) for new in (False, True)),
    *(Case("transformers Swin", SWIN, hf_swin("", new=new)) for new in (False, True)),
    Case("transformers Swin V2", SWIN_V2, hf_swin("swinv2", new=True)),
    *(Case("transformers DINOv2", DINO_V2, dinov2(new), head=False) for new in (False, True)),
    *(
        Case("transformers DINOv2", DINO_V2_REG, dinov2(new, registers=True), head=False)
        for new in (False, True)
    ),
    *(Case("transformers DINOv2", DINO_V2_GIANT, swiglu(new), head=False) for new in (False, True)),
    *(
        Case("transformers DINOv3", network, write, head=False)
        for network in (DINO_V3, DINO_V3_PLUS)
        for write in (
            lambda state: foreign.transformers_dinov3(headless(state), new=False),
            lambda state: foreign.transformers_dinov3(headless(state), new=True),
        )
    ),
    Case("transformers CLIP", CLIP, foreign.transformers_clip),
    Case("transformers CLIP", CLIP, no_base, head=False),
    Case("transformers SigLIP", SIGLIP_GAP, foreign.transformers_clip),
    Case("transformers SigLIP", SIGLIP, no_base, head=False),
    Case("OpenCLIP", CLIP, foreign.open_clip),
    Case("OpenCLIP", CLIP, lambda state: foreign.open_clip(state, prefix="")),
    Case(
        "OpenCLIP with a timm network",
        CLIP,
        lambda s: (
            {f"visual.trunk.{name}": value for name, value in headless(s).items()}
            | {"visual.head.proj.weight": s["head.weight"], "text.cls_emb": torch.ones(3)}
        ),
    ),
    Case("OpenMMLab ViT", VIT, foreign.openmmlab_vit),
    Case("OpenMMLab Swin", SWIN, foreign.openmmlab_swin),
    Case("OpenMMLab Swin", SWIN_V2, foreign.openmmlab_swin),
    Case("Microsoft Swin", SWIN, foreign.microsoft),
    Case("Microsoft Swin", SWIN_V2, foreign.microsoft),
    Case("SimMIM", SWIN, simmim, head=False),
    Case("Google JAX", SIGLIP_GAP, numpy_file(3)),
    Case("Google JAX", SIGLIP, numpy_file(3)),
    Case("Google JAX", SIGLIP, numpy_file(3, stacked=True)),
    Case("EVA-02", EVA_02, eva),
    Case("EVA-02", EVA_02_BASE, eva),
    Case("BEiT", BEIT, beit_pretrained, head=False),
    Case("Meta DINOv2", DINO_V2, meta_dinov2, head=False),
    Case("Meta DINOv2", DINO_V2_GIANT, meta_dinov2, head=False),
    Case("Meta DINOv3", DINO_V3, meta_dinov3, head=False),
    Case("Meta DINOv3", DINO_V3_PLUS, meta_dinov3, head=False),
    Case("MAE", VIT, mae, head=False),
    Case("MoCo v3", VIT, moco, head=False),
    Case("Meta DINO", VIT, dino, head=False),
    Case("iBOT", VIT, lambda s: headless(s) | {"masked_embed": torch.zeros(1, 24)}, head=False),
]


def named(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the layout that a file is found to be in."""
    return next((layout.name for layout in LAYOUTS if layout.prefix_in(state) is not None), None)


def pooled(network: Any, x: Tensor) -> Tensor:
    out: Tensor = network.forward_head(network.forward_features(x), pre_logits=True)
    return out


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{n}-{one.name}-{one.network[0]}" for n, one in enumerate(CASES)]
)
def test_answers_are_those_of_the_network_it_was_written_from(case: Case) -> None:
    source = create(case.network)
    if case.write is beit_pretrained:
        blocks: Any = source.get_submodule("blocks")
        table = blocks[0].attn.relative_position_bias_table
        blocks[1].attn.relative_position_bias_table.data.copy_(table)
    if case.network is CLIP:
        torch.nn.init.zeros_(source.get_parameter("head.bias"))  # its projection has none
    file = case.write(source.state_dict())
    assert named(file) == case.name
    x = images(source)
    networks = [create(case.network, seed=7)]
    if is_native(case.network[0]):
        networks.append(native(case.network))
        randomise(networks[1], seed=8)
    for network in networks:
        adapted = adapt(file, network)
        network.load_state_dict(adapted.state, strict=True)
        with torch.no_grad():
            assert difference(pooled(network, x), pooled(source, x)) < FLOAT32_TOLERANCE
            same = difference(network(x), source(x)) < FLOAT32_TOLERANCE
        assert (adapted.head_loaded, same) == (case.head, case.head)
        assert adapted.resized == []


def torchvision_swin(*, second: bool) -> nn.Module:
    sort = swin_transformer
    return sort.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=12,
        depths=[2, 1, 1, 1] if second else [2, 2, 1, 1],
        num_heads=[1, 2, 3, 4],
        window_size=[8, 8] if second else [7, 7],
        num_classes=5,
        block=sort.SwinTransformerBlockV2 if second else sort.SwinTransformerBlock,
        downsample_layer=sort.PatchMergingV2 if second else sort.PatchMerging,
    )


TORCHVISION = [
    # As large as the last window, so that both tools pad and shift the same.
    ("torchvision Swin", SWIN, 224, lambda: torchvision_swin(second=False)),
    ("torchvision Swin V2", SWIN_V2, 256, lambda: torchvision_swin(second=True)),
    (
        "torchvision ViT",
        VIT,
        48,
        lambda: vision_transformer.VisionTransformer(48, 16, 2, 3, 24, 96, num_classes=5),
    ),
]


@pytest.mark.parametrize(("name", "network", "side", "build"), TORCHVISION)
def test_answers_are_those_of_torchvision(
    name: str, network: tuple[str, Changes], side: int, build: Callable[[], nn.Module]
) -> None:
    theirs = build().eval()
    randomise(theirs, seed=3)
    network = (network[0], network[1] | {"img_size": side})
    assert named(theirs.state_dict()) == name
    ours = [create(network, seed=7), *([native(network)] if is_native(network[0]) else [])]
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    for one in ours:
        adapted = adapt(theirs.state_dict(), one)
        one.load_state_dict(adapted.state, strict=True)
        with torch.no_grad():
            assert difference(one(x), theirs(x)) < FLOAT32_TOLERANCE


def test_class_token_without_a_position_gets_one_of_zero() -> None:
    source = create(VIT)
    source.get_parameter("pos_embed").data[:, 0] = 0  # what big_vision's `tok` amounts to
    adapted = adapt(token_pooled(source.state_dict()), create(VIT, 7))
    assert torch.equal(adapted.state["pos_embed"], source.get_parameter("pos_embed"))


@pytest.mark.parametrize("network", [VIT, SWIN, SWIN_V2, DEIT, BEIT, DINO_V3, CLIP, SIGLIP, EVA_02])
def test_own_files_are_in_no_foreign_layout(network: tuple[str, Changes]) -> None:
    state = create(network).state_dict()
    assert named(state) is None
    adapted = adapt(state, create(network, 7))
    assert all(torch.equal(adapted.state[name], value) for name, value in state.items())


def test_dinov3_without_biases_takes_a_file_whose_biases_are_zero() -> None:
    source, plain = create(DINO_V3), create(("vit_small_patch16_dinov3", DINO_V3[1]), 7)
    file = foreign.transformers_dinov3(headless(source.state_dict()), new=False)
    with pytest.raises(WeightsError, match="attn.qkv.bias"):
        adapt(file, plain)
    zero = {
        name: value * 0 if "q_proj.bias" in name or "v_proj.bias" in name else value
        for name, value in file.items()
    }
    plain.load_state_dict(adapt(zero, plain).state)
    source.load_state_dict(adapt(zero, source).state)
    x = images(source)
    with torch.no_grad():
        assert difference(pooled(plain, x), pooled(source, x)) < FLOAT32_TOLERANCE


def test_dinov3_with_other_rotations_is_refused() -> None:
    source = create(DINO_V3)
    file = meta_dinov3(source.state_dict())
    file["rope_embed.periods"] = 10000 ** (torch.arange(2) / 2)
    with pytest.raises(WeightsError, match="Meta DINOv3"):
        adapt(file, source)


@pytest.mark.parametrize("case", CASES[::3], ids=[one.name for one in CASES[::3]])
def test_under_another_name_the_error_begins_with_what_it_is(case: Case) -> None:
    network = create(SWIN if "Swin" not in case.name else VIT)
    with pytest.raises(WeightsError) as error:
        adapt(case.write(create(case.network).state_dict()), network)
    assert error.value.found.startswith(f"this is probably a {case.name} checkpoint: ")


def test_a_file_of_an_unknown_tool_is_refused_with_its_names() -> None:
    file = {f"conv{n}.kernel": torch.ones(3, 3) for n in range(6)}
    with pytest.raises(WeightsError) as error:
        adapt(file, create(VIT))
    assert error.value.found.startswith(
        "a file of an unknown tool with conv0.kernel, conv1.kernel, conv2.kernel, conv3.kernel "
        "and 2 more: "
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("deit_tiny_distilled_patch16_224", hf("deit", new=True)),
        ("swin_tiny_patch4_window7_224", hf_swin("swin", new=False)),
        ("vit_small_patch16_dinov3_qkvb", lambda s: foreign.transformers_dinov3(s, new=False)),
    ],
)
def test_the_model_that_fits_is_found_by_shapes(name: str, write: Callable[[State], State]) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    checkpoint = WeightsCheckpoint(write(state), source=Path("weights.bin"))
    assert name in fitting_models([checkpoint])
