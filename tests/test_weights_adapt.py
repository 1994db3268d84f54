"""Weights fit whole or not at all: heads, pooling, prefixes, EMA, and why others are refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from conftest import Outcome, TrainedRun, write_dataset
from make_registry import FAMILIES
from network_cases import adapt, distinct_names, native_network
from torch import Tensor, nn

from swinclf.config import Impl
from swinclf.errors import ModelError, WeightsError, WeightsMismatchError
from swinclf.explain.target import find_target
from swinclf.models.build import load_network
from swinclf.models.freeze import classifier_names
from swinclf.models.names import Architecture
from swinclf.models.weights.select import WeightsCheckpoint
from swinclf.models.weights.suggest import add_suggestion, fitting_models
from swinclf.reporter import Reporter
from swinclf.settings import read_settings_file
from swinclf.training.linear_probe import linear_classifiers

State = dict[str, Tensor]
SIZES = (
    "_(x?small|tiny|mini|little|medium|betwixt|base|large|huge|giant|gigantic|so[0-9]+m2?|[0-9]b)"
)
PUBLISHED = {  # one network of each family, whatever its size
    re.sub(rf"{SIZES}|_?(patch|window)\d+|_\d+", "", name): name
    for name in (one.partition(".")[0] for one in timm.list_models([*FAMILIES], pretrained=True))
}
SHALLOW = ({"depth": 1}, {"depths": (1, 1, 1, 1)}, {"depth": 1, "num_kv_heads": None}, {})


def shallow(name: str) -> nn.Module:
    """Build one of timm's networks without weights, with one block where its depth can be set."""
    for changes in SHALLOW:
        try:
            with torch.device("meta"):
                return timm.create_model(name, num_classes=3, **changes)
        except (TypeError, ValueError, AssertionError, IndexError):
            continue
    raise AssertionError(name)


def check_own_weights(network: nn.Module) -> None:
    """Check that a network's own file, with a head of other classes, is loaded whole."""
    state = dict(network.state_dict())
    head = classifier_names(network)
    assert head
    assert all(re.fullmatch(r"(head|head_dist|head\.fc)\.(weight|bias)", name) for name in head)
    file = {
        name: torch.empty((11, *value.shape[1:]), device="meta") if name in head else value
        for name, value in state.items()
    }
    adapted = adapt(file, network)
    assert not adapted.head_loaded
    assert adapted.resized == []
    assert adapted.left_out == ()
    assert adapted.loaded == len(state) - len(head)
    assert all(adapted.state[name] is file[name] for name in state if name not in head)


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of names that it has replaced
@pytest.mark.parametrize("name", sorted(PUBLISHED.values()))
def test_every_listed_architecture_loads_its_own_weights(name: str) -> None:
    check_own_weights(shallow(name))


@pytest.mark.parametrize("name", distinct_names())
def test_every_native_architecture_loads_its_own_weights(name: str) -> None:
    few = {"depths": "1-1-1-1"} if name.startswith("swin") else {"depth": "1"}
    with torch.device("meta"):
        check_own_weights(native_network(name, num_classes=3, model_args=few))


# Wrappers and prefixes


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    return timm.create_model("test_vit", num_classes=4).eval()


@pytest.fixture
def state(network: nn.Module) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


def load(content: object, path: Path) -> tuple[State, str]:
    """Load what torch.save wrote into a network of other classes; its state dict and the report."""
    torch.save(content, path)
    network, report = load_network(Architecture("test_vit", Impl.TIMM, 3), path)
    return dict(network.state_dict()), report.line(path.name)


def check_body(found: State, state: State) -> None:
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert name.startswith("head.") or torch.equal(found[name], value), name
    assert found["head.weight"].shape[0] == 3


WRAPPERS = (
    *("model", "state_dict", "net", "weights", "params", "ema", "model_ema", "state_dict_ema"),
    *("params_ema", "model_state", "module", "teacher", "student", "model_state_dict", "whatever"),
)


@pytest.mark.parametrize("key", WRAPPERS)
def test_wrappers_of_any_name(key: str, state: State, tmp_path: Path) -> None:
    content = {key: state, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    found, line = load(content, tmp_path / "w.pth")
    check_body(found, state)
    expected = "(EMA)" if "ema" in key else "(teacher)" if key == "teacher" else "tensors;"
    assert expected in line
    found, _ = load({"checkpoint": {"inner": {key: state}}}, tmp_path / "w.pth")
    check_body(found, state)


@pytest.mark.parametrize(
    ("better", "other", "said"),
    [
        ("state_dict_ema", "state_dict", "(EMA)"),
        ("model_ema", "model", "(EMA)"),
        ("ema", "model", "(EMA)"),
        ("params_ema", "params", "(EMA)"),
        ("teacher", "student", "(teacher)"),
        ("model", "momentum_encoder", "tensors;"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_the_averaged_weights_are_preferred(
    better: str, other: str, said: str, nested: bool, state: State, tmp_path: Path
) -> None:
    content: dict[str, object] = {other: zeros(state), better: state}
    if not nested:
        content = {f"{better}.{name}": value for name, value in state.items()}
        content |= {f"{other}.{name}": value for name, value in zeros(state).items()}
    found, line = load(content, tmp_path / "w.pth")
    check_body(found, state)
    assert said in line


def test_an_average_without_all_tensors_is_not_preferred(state: State, tmp_path: Path) -> None:
    few = dict(list(zeros(state).items())[:-6])
    found, line = load({"model": state, "model_ema": few}, tmp_path / "w.pth")
    check_body(found, state)
    assert "EMA" not in line


PREFIXES = (
    *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."),
    *("model.module.", "model.model.", "net.", "network.", "backbone.", "module.base_encoder."),
    *("encoder.", "timm_model.", "visual.", "visual.trunk.", "trunk.", "base_model.model."),
    *("vision_encoder.", "teacher.backbone.", "a.b.c.d."),
)
BESIDE = {
    "n_averaged": "n_averaged",
    "crit.weight": "crit.weight",
    "decoder.0.weight": "decoder.0.weight",
    "momentum.blocks.0.norm1.weight": "momentum.blocks.0.norm1.weight",
    "text.ln.weight": "text (2 tensors)",
    "text.ln.bias": "text (2 tensors)",
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_and_what_stands_beside_it(prefix: str, state: State, tmp_path: Path) -> None:
    content = {prefix + name: value for name, value in state.items()}
    found, line = load(content, tmp_path / "w.pth")
    check_body(found, state)
    assert "not needed" not in line
    found, line = load(content | {name: torch.ones(2) for name in BESIDE}, tmp_path / "w.pth")
    check_body(found, state)
    named = line.partition("; not needed: ")[2]
    assert named == "n_averaged, crit.weight, decoder.0.weight, momentum.blocks.0.norm1.weight" + (
        f" and {2 if prefix.count('.') > 2 else 1} more"
    )


def test_what_only_pretraining_needs_is_left_out_and_named(state: State, tmp_path: Path) -> None:
    content = {**state, "mask_token": torch.ones(1, 1, 64), "decoder_blocks.0.a": torch.ones(3)}
    found, line = load(content, tmp_path / "w.pth")
    check_body(found, state)
    assert line.endswith("; not needed: mask_token, decoder_blocks.0.a")


def test_of_a_self_supervised_training_the_teachers_backbone(state: State, tmp_path: Path) -> None:
    def side(values: State) -> State:
        head = {"module.head.last.weight": torch.ones(2), "module.head.mlp.0.bias": torch.ones(2)}
        return {f"module.backbone.{name}": value for name, value in values.items()} | head

    content = {"student": side(zeros(state)), "teacher": side(state), "dino_loss": {"center": 1}}
    found, line = load(content, tmp_path / "w.pth")
    check_body(found, state)
    assert "(teacher)" in line
    assert line.endswith("; not needed: module.head (2 tensors)")


# Heads


def test_an_auxiliary_head_is_a_head() -> None:
    with torch.device("meta"):
        network = timm.create_model("volo_d1_224", num_classes=5)
    assert classifier_names(network) == {
        f"{head}.{name}" for head in ("head", "aux_head") for name in ("weight", "bias")
    }
    with pytest.raises(ModelError, match="an auxiliary one"):  # whose logits a probe lacks
        linear_classifiers(network)


@pytest.mark.parametrize("name", ["head", "fc", "classifier", "head.fc", "head.1", "heads.head"])
def test_heads_by_other_names_are_heads(name: str, state: State, tmp_path: Path) -> None:
    body = {key: value for key, value in state.items() if not key.startswith("head.")}
    content = {**body, f"{name}.weight": torch.ones(7, 64), f"{name}.bias": torch.ones(7)}
    found, line = load(content, tmp_path / "w.pth")
    check_body(found, state)
    assert "head of 7 classes left out, new head for 3" in line
    del content[f"{name}.bias"]
    check_body(load(content, tmp_path / "w.pth")[0], state)
    found, line = load(body, tmp_path / "w.pth")
    check_body(found, state)
    assert "; no head in the file, new head for 3" in line


def test_a_head_of_the_same_classes_is_recognised_by_another_name(
    network: nn.Module, state: State
) -> None:
    renamed = {name.replace("head.", "fc."): value for name, value in state.items()}
    adapted = adapt(renamed, network)
    assert adapted.head_loaded
    assert torch.equal(adapted.state["head.weight"], state["head.weight"])
    headless = shallow("test_vit")
    headless.reset_classifier(0)
    assert not adapt(headless.state_dict(), headless).head_loaded


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("vit_base_patch16_siglip_224", "attn_pool."),
        ("vit_pe_core_tiny_patch16_384", "attn_pool."),
        ("convnext_atto", "head.norm."),
    ],
)
def test_pooling_and_norms_at_the_head_are_the_files_or_the_file_is_refused(
    name: str, trained: str
) -> None:
    network = shallow(name)
    state = dict(network.state_dict())
    own = [key for key in state if key.startswith(trained)]
    assert own
    file = {key: value for key, value in state.items() if key not in classifier_names(network)}
    adapted = adapt(file, network)
    assert all(adapted.state[key] is file[key] for key in own)
    del file[own[0]]
    with pytest.raises(WeightsError, match=re.escape(f"{own[0]}: the network has")):
        adapt(file, network)


def test_attention_pooling_is_left_out_where_the_network_has_none() -> None:
    network = shallow("vit_base_patch16_siglip_gap_224")
    pooling = {"attn_pool.latent": torch.ones(1, 1, 768), "attn_pool.q.bias": torch.ones(768)}
    adapted = adapt({**network.state_dict(), **pooling}, network)
    assert adapted.left_out == ("attn_pool.latent", "attn_pool.q.bias")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_layer_scale_is_renamed_only_for_networks_that_name_it_so(name: str) -> None:
    network = shallow(name)
    gamma = {f"blocks.0.gamma_{number}": torch.ones(1) for number in (1, 2)}
    state = {key: v for key, v in network.state_dict().items() if ".gamma" not in key}
    if name.startswith("deit3"):
        gamma = {key: torch.ones(384) for key in gamma}
        adapt({**state, **gamma}, network)
    else:
        with pytest.raises(WeightsError, match=r"blocks\.0\.gamma_1: the file has 1"):
            adapt({**state, **gamma}, network)


# What is refused, with the reason


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("-inf"), "infinite")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite(
    value: float, kind: str, dtype: torch.dtype, state: State, tmp_path: Path
) -> None:
    state["blocks.0.mlp.fc1.weight"][1, 2] = value
    with pytest.raises(WeightsError) as caught:
        load({name: one.to(dtype) for name, one in state.items()}, tmp_path / "w.pth")
    count = f"{state['blocks.0.mlp.fc1.weight'].numel():,}"
    expected = f"blocks.0.mlp.fc1.weight holds 1 of {count} values that are not ({kind})"
    assert caught.value.found == expected


def test_large_values_are_no_infinity(state: State, tmp_path: Path) -> None:
    state["blocks.0.mlp.fc1.weight"].fill_(3e38)
    check_body(load(state, tmp_path / "w.pth")[0], state)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_quantised_weights(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].to(dtype)
    with pytest.raises(WeightsError) as caught:
        load(state, tmp_path / "w.pth")
    kind = str(dtype).removeprefix("torch.")
    assert f"blocks.0.attn.qkv.weight is quantised: {kind}" in caught.value.found


@pytest.mark.parametrize(
    ("file", "model", "reason", "hint"),
    [
        (
            "deit_tiny_distilled_patch16_224",
            "deit_tiny_patch16_224",
            "it has a distillation token. The file fits deit_tiny_distilled_patch16_224",
            "--model deit_tiny_distilled_patch16_224",
        ),
        (
            "vit_small_patch14_reg4_dinov2",
            "vit_small_patch14_dinov2",
            "The file has 4 register tokens, the network none",
            "--model vit_small_patch14_reg4_dinov2",
        ),
        (
            "swin_small_patch4_window7_224",
            "swin_tiny_patch4_window7_224",
            "The file fits swin_small_patch4_window7_224",
            "--model swin_small_patch4_window7_224",
        ),
        (
            "vit_tiny_patch16_224",
            "swin_tiny_patch4_window7_224",
            "fits vit_tiny_patch16_224 (deit_tiny_patch16_224 have the same shapes)",
            "--model vit_tiny_patch16_224, or deit_tiny_patch16_224",
        ),
    ],
)
def test_the_model_that_a_file_fits_is_named(file: str, model: str, reason: str, hint: str) -> None:
    with torch.device("meta"):
        network = native_network(file, num_classes=9)
        wrong = native_network(model, num_classes=9)
    checkpoint = WeightsCheckpoint(network.state_dict(), Path("file.pth"))
    with pytest.raises(WeightsMismatchError) as caught:
        adapt(checkpoint.tensors, wrong)
    error = add_suggestion(caught.value, [checkpoint], model)
    assert reason in error.found
    assert error.hint == hint


def test_no_model_is_suggested_for_a_file_that_fits_none() -> None:
    with torch.device("meta"):
        tensors = native_network("vit", num_classes=9, model_args={"embed_dim": "180"}).state_dict()
    assert fitting_models([WeightsCheckpoint(tensors, Path("vit_tiny_patch16_224.pth"))]) == []


# The report


def test_the_report_says_what_was_loaded_and_resized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"depths": "2-1-1-1", "embed_dim": "24", "num_heads": "3-6-12-24"}
    given = native_network(
        "swin", num_classes=7, img_size=192, model_args={**shape, "window_size": "6"}
    )
    state = {
        re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        ).replace("head.fc.", "head."): value
        for name, value in given.state_dict().items()
    }  # as Microsoft's code stores it
    torch.save({"model": state}, tmp_path / "swin.pth")
    wanted = Architecture("swin", Impl.NATIVE, 3, 224, model_args={**shape, "window_size": "7"})
    _, report = load_network(wanted, tmp_path / "swin.pth")
    count = len(state)
    assert report.line("ck/swin.pth") == (
        f"weights ck/swin.pth: {count - 2} of {count} tensors (Microsoft Swin); head of 7 classes "
        "left out, new head for 3; 5 tables resized 6x6 -> 7x7"
    )
    assert report.sha256 == hashlib.sha256((tmp_path / "swin.pth").read_bytes()).hexdigest()
    assert report.to_dict() == {
        "file": str(tmp_path / "swin.pth"),
        "sha256": report.sha256,
        "layout": "Microsoft Swin",
        "selected": [],
        "loaded": count - 2,
        "tensors": count,
        "head_classes": 7,
        "left_out": [],
        "resized": ["5 tables resized 6x6 -> 7x7"],
    }


def test_a_training_says_and_records_what_it_started_from(
    cli: Callable[..., Outcome], trained: TrainedRun, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "two", colours={"blue": (40, 60, 200), "red": (200, 50, 40)})
    flags = ("--epochs", 1, "--precision", "fp32", "--name", "two", "--no-cache")
    done = cli("train", data, "--weights", trained.path, *flags)
    assert done.code == 0, done.err
    line = f"weights {trained.path}: 78 of 80 tensors; head of 3 classes left out, new head for 2"
    assert line in done.err.replace("\n", " ")
    config = tmp_path / "runs" / "two" / "config.json"
    recorded = json.loads(config.read_text(encoding="utf-8"))["weights_loaded"]
    file = trained.path / "model.safetensors"
    assert recorded["file"] == str(file)
    assert recorded["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (recorded["loaded"], recorded["tensors"]) == (78, 80)
    assert "weights_loaded" not in read_settings_file(config)


def test_a_file_under_another_name_is_refused_with_the_right_one(
    cli: Callable[..., Outcome], dataset: Path, tmp_path: Path
) -> None:
    tensors = native_network("vit_tiny_patch16_224", num_classes=1000).state_dict()
    torch.save({"model": tensors}, tmp_path / "w.pth")
    for model in ((), ("--model", "vit_small_patch16_224")):
        done = cli("train", dataset, "--weights", tmp_path / "w.pth", *model)
        assert done.code == 1
        assert "The file fits vit_tiny_patch16_224" in done.err
        assert "try: --model vit_tiny_patch16_224, or deit_tiny_patch16_224\n" in done.err


def test_inspect_says_what_it_shows(tmp_path: Path) -> None:
    class Recorder(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    network = native_network("deit_tiny_patch16_224", num_classes=5)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    subject = find_target("deit_tiny_patch16_224", None, {})
    shown, _ = subject.open(tmp_path / "w.pth", pretrained=False, report=Recorder())
    assert torch.equal(shown.blocks[3].attn.qkv.weight, network.blocks[3].attn.qkv.weight)
    line = f"weights {tmp_path / 'w.pth'}: 150 of 152 tensors; head of 5 classes left out"
    assert notes[0].startswith(line)
