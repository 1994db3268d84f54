"""Weight files of every container: read by content without executing any, or named as they are."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import operator
import os
import pathlib
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swinclf.errors import WeightsError
from swinclf.models.weights.containers import read_checkpoints
from swinclf.models.weights.file_kind import WeightsFileKind, detect_kind
from swinclf.models.weights.find import find_weights
from swinclf.models.weights.torch_files import read_inert
from swinclf.unpickle import Placeholder, Storage, UnreadablePickleError, interpret

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("test_vit", num_classes=4).eval()


@pytest.fixture
def state(network: nn.Module) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def check_read(path: Path, state: State) -> None:
    """Check that a file, or what --weights makes of a folder, gives exactly these tensors."""
    found = read_checkpoints(find_weights(path).path)[0].tensors
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def refusal(path: Path) -> WeightsError:
    """Return the error of a file or folder, which shows nothing of torch and no escape codes."""
    with pytest.raises(WeightsError) as caught:
        read_checkpoints(find_weights(path).path)
    error = caught.value
    text = str(error)
    for word in ("weights_only", "\x1b", "inline_container", "Re-running", "WeightsUnpickler"):
        assert word not in text
    return error


# Containers


@pytest.mark.parametrize("name", ["w.bin", "w.pth", "w.safetensors", "w.npz", "w", "w.tar"])
def test_the_content_counts_and_not_the_suffix(name: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(state, path)
    assert detect_kind(path) is WeightsFileKind.SAFETENSORS
    check_read(path, state)
    torch.save(state, path)
    assert detect_kind(path) is WeightsFileKind.TORCH
    check_read(path, state)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    check_read(path, state)
    with path.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in state.items()})
    assert detect_kind(path) is WeightsFileKind.NUMPY
    check_read(path, state)


@pytest.mark.parametrize("where", ["folder", "index", "first", "second"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(where: str, kind: str, state: State, tmp_path: Path) -> None:
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    names = [f"{stem}-0000{number}-of-00002.{kind}" for number in (1, 2)]
    half = len(state) // 2
    parts = [dict(list(state.items())[:half]), dict(list(state.items())[half:])]
    for name, part in zip(names, parts, strict=True):
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
    index = tmp_path / f"{stem}.{kind}.index.json"
    weight_map = {one: name for name, part in zip(names, parts, strict=True) for one in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    named = {"folder": tmp_path, "index": index, "first": tmp_path / names[0]}
    check_read(named.get(where, tmp_path / names[1]), state)
    index.unlink()
    check_read(tmp_path if where == "folder" else tmp_path / names[0], state)
    (tmp_path / names[1]).unlink()
    assert names[1] in refusal(tmp_path / names[0]).found


def test_an_index_whose_shard_is_an_index_is_refused(tmp_path: Path) -> None:
    for name, shard in (("a.json", "b.json"), ("b.json", "c.bin")):
        (tmp_path / name).write_text(json.dumps({"weight_map": {"x": shard}}))
    assert refusal(tmp_path / "a.json").found == "b.json is an index of shards"


def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    assert "elsewhere" in refusal(index).found


@pytest.mark.parametrize(
    "weight_map", [[], {}, None, "a", 7, {"a": ""}, {"a": None}, {"a": ["b"]}, {"a": "b", "c": 1}]
)
def test_an_index_without_names_of_shards_is_refused(weight_map: Any, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map" in refusal(index).found


@pytest.mark.parametrize("name", ["absent", "x" * 300, "a\0b"])
def test_an_index_names_the_shard_that_cannot_be_found(name: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert refusal(index).found == f"no {name}"


@pytest.mark.parametrize(
    "header", [b'{"a":' + 9000 * b"[" + 9000 * b"]" + b"}", b'{"a":{"data_offsets":[]}}']
)
def test_a_damaged_header_of_safetensors_is_an_error(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "safetensors" in refusal(path).expected


class Settings(dict):  # as yacs.config.CfgNode is
    pass


class Trainer:
    def __init__(self) -> None:
        self.steps = 3


def trainers_checkpoint(state: State) -> dict[str, Any]:
    """Return what training scripts save beside the weights."""
    model = nn.Linear(2, 2)
    return {
        "model": state,
        "config": Settings(MODEL=Settings(NAME="swin_tiny"), LR=[1e-3]),
        "args": argparse.Namespace(model="test_vit", out=pathlib.PurePosixPath("a/b")),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "best": np.float64(0.75),
        "history": np.arange(3.0),
        "path": Path("a/b"),
        "trainer": Trainer(),
        "epoch": 7,
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_training_scripts(zipped: bool, state: State, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    content = trainers_checkpoint(state)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    check_read(path, state)
    inert = read_inert(path)
    assert inert["best"] == 0.75
    assert isinstance(inert["trainer"], Placeholder)
    assert inert["trainer"].state == {"steps": 3}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_network_pickled_whole_gives_its_state_dict(
    zipped: bool, network: nn.Module, state: State, tmp_path: Path
) -> None:
    torch.save({"net": network}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    check_read(tmp_path / "whole.pt", state)


@pytest.mark.filterwarnings("ignore")  # each release of torch warns of torch.jit otherwise
def test_torchscript_gives_its_state_dict(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    torch.jit.trace(layers, torch.zeros(1, 3)).save(str(tmp_path / "script.pt"))
    check_read(tmp_path / "script.pt", dict(layers.state_dict()))


def test_tensors_that_share_memory_and_views_come_back(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    content = {"model": {"a": whole[1:3, ::2], "b": whole.t(), "c": whole[:0]}, "x": Trainer()}
    torch.save(content, tmp_path / "views.pth")
    check_read(tmp_path / "views.pth", content["model"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_state_dict_of_numpy_arrays_in_a_pickle(
    protocol: int, state: State, tmp_path: Path
) -> None:
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].permute(1, 0, 3, 2)
    state["norm.weight"] = state["norm.weight"][::2]
    content = {"model": {name: one.numpy() for name, one in state.items()}, "author": "someone"}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content, protocol))
    check_read(tmp_path / "weights.pkl", state)


# Nothing is executed


class Call:
    """A pickle that calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> Any:
        return self._call


def attacks(canary: Path) -> dict[str, Any]:
    """Return objects that create a folder when they are unpickled by torch or pickle."""
    code = f"__import__('os').mkdir({str(canary)!r})"
    return {
        "system": Call(os.system, f"mkdir '{canary}'"),
        "mkdir": Call(os.mkdir, str(canary)),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "caller": Call(operator.methodcaller("mkdir"), canary),
        "getter": Call(getattr, Call(operator.attrgetter("mkdir"), canary), "__call__"),
        "map": Call(list, Call(map, os.mkdir, [str(canary)])),
        "state": Setter(canary),
        "torch": Call(torch.hub.load, str(canary), "x"),
        "load": Call(torch.load, str(canary)),
        "partial": Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(canary)))),
    }


class Setter:
    """A class that acts when its state is set."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["canary"].mkdir()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
def test_nothing_in_a_file_is_executed(
    name: str, zipped: bool, state: State, tmp_path: Path
) -> None:
    canary = tmp_path / "executed"
    evil = attacks(canary)[name]
    path = tmp_path / "evil.pth"
    torch.save({"a": evil, "model": state}, path, _use_new_zipfile_serialization=zipped)
    check_read(path, state)  # the tensors beside it are read, it stays what it is
    torch.save({"model": evil}, path, _use_new_zipfile_serialization=zipped)
    error = refusal(path)
    assert error.expected == "tensors in 'evil.pth'"
    assert "never executed" in error.hint
    assert not canary.exists()


def test_the_attacks_would_succeed_where_a_file_is_trusted(tmp_path: Path) -> None:
    for name in ("system", "mkdir", "eval", "exec", "state", "partial", "caller"):
        canary = tmp_path / name
        pickle.loads(pickle.dumps(attacks(canary)[name]))
        assert canary.is_dir(), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (10**12,), "stride": (1,)},
        {"size": (2, 2), "stride": (-1, 1)},
        {"offset": 10**9},
        {"size": ("2",)},
        {"size": None},
    ],
)
def test_a_tensor_beyond_its_storage_is_inert(wrong: dict[str, Any]) -> None:
    arguments = {"offset": 0, "size": (2,), "stride": (1,)} | wrong
    pieces = [pickle.dumps(value, 2)[2:-1] for value in arguments.values()]
    stream = io.BytesIO(
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NQ" + b"".join(pieces) + b"\x89NtR."
    )
    found = interpret(stream, lambda _: Storage(torch.zeros(4)))
    assert isinstance(found, Placeholder)
    assert found.name == "torch._utils._rebuild_tensor_v2"


def test_a_key_that_cannot_be_written_out_is_damage(state: State, tmp_path: Path) -> None:
    torch.save({10**5000: state["norm.weight"]}, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").expected.startswith("whole tensors in 'w.pth'")


def test_nested_tuples_are_neither_hashed_nor_written_out() -> None:
    nested = b"K\x01" + b"2\x86" * 40
    found = interpret(io.BytesIO(b"\x80\x02}(" + nested + b"K\x01K\x03K\x04u."), lambda _: None)
    assert found == {3: 4}
    with pytest.raises(UnreadablePickleError, match="no text"):
        interpret(io.BytesIO(b"\x80\x04" + nested + b"2\x93."), lambda _: None)


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_and_damaged_files_are_errors_in_words(
    zipped: bool, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "whole.pth"
    torch.save(trainers_checkpoint(state), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (60, 600, 2000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        assert "again" in refusal(path).hint
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut off" in refusal(path).found


def rewritten(path: Path, packed: str, *, more: bytes = b"") -> None:
    """Write an archive again with one member deflated, and more bytes after its content."""
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            is_packed = name.endswith(packed)
            content += more if is_packed else b""
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if is_packed else None, 9)


@pytest.mark.parametrize(
    ("packed", "more"),
    [("/data/0", b""), ("/data.pkl", bytes(1_000_000)), ("/version", bytes(10**6))],
)
def test_a_decompression_bomb_is_not_read(
    packed: str, more: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(250_000)}, path)
    rewritten(path, packed, more=more)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch unpacked it"))
    assert f"{packed[1:]} is compressed more than weights can be" in refusal(path).found


def test_an_archive_of_arrays_that_is_a_decompression_bomb_is_not_read(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=10_000)
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(250_000), b=weights)
    assert read_checkpoints(tmp_path / "zeros.npz")[0].tensors["a"].shape == (250_000,)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(250_000))
    assert refusal(tmp_path / "bomb.npz").found == "it is compressed more than weights can be"


def test_members_that_share_their_bytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "shared.pth"
    torch.save({"a": torch.zeros(250_000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (data,) = (one for one in archive.infolist() if one.filename.endswith("/data/0"))
        archive.filelist += 50 * [data]
        archive.writestr("end", b"")
    assert refusal(path).found == "its members overlap"


# What holds no weights to read


def pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 123")


def packed_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/model.pth", b"x")


def packed_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        archive.addfile(tarfile.TarInfo("best/model.pth"))


def keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")


KINDS: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("a.pth", lambda p: p.write_bytes(b""), "an empty file", "again"),
    ("a.safetensors", pointer, "a git-lfs pointer of a file of 123 bytes", "git lfs pull"),
    ("a.pth", lambda p: p.write_text("\n<!DOCTYPE html><html>"), "a web page", "/resolve/"),
    ("config.json", lambda p: p.write_text('{"model_type": "vit"}'), "settings in JSON", "folder"),
    ("a.h5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "an HDF5 file", ".npz"),
    ("a.keras", keras, "a Keras model", "PyTorch"),
    ("a.zip", packed_zip, "a zip archive", "unzip"),
    ("a.pth.tar", packed_tar, "a tar archive", "tar -xf"),
    ("a.tar.gz", packed_tar, "a compressed file", "tar -xf"),
    ("a.pth.gz", lambda p: p.write_bytes(gzip.compress(b"x")), "a compressed file", "gunzip"),
    ("__0_0.distcp", lambda p: torch.save({}, p), "a distributed checkpoint", "dcp_to_torch"),
    ("flax_model.msgpack", lambda p: p.write_bytes(b"\x82\xa6params\x80"), "Flax", "PyTorch"),
    ("a.npy", lambda p: np.save(p, np.ones(3)), "a single NumPy array", "savez"),
    ("a.bin", lambda p: p.write_text("Read me first.\nNo weights."), "a text file", "--weights"),
]


@pytest.mark.parametrize(("name", "write", "found", "hint"), KINDS)
def test_each_kind_is_named_with_its_own_next_step(
    name: str, write: Callable[[Path], object], found: str, hint: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    error = refusal(tmp_path / name)
    assert found in error.found
    assert hint in error.hint
    if "empty" not in found:
        assert "download it again" not in error.hint


# Folders and names


def test_folders_of_other_programs(state: State, tmp_path: Path) -> None:
    for name in ("model.safetensors", "open_clip_model.safetensors", "other.safetensors"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        save_file(state, folder / name)
        (folder / "config.json").write_text('{"architecture": "test_vit"}')
        (folder / "optimizer.pt").write_bytes(b"x")
        check_read(folder, state)
    folder = tmp_path / "bin"
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    check_read(folder, state)
    check_read(Path(f"local-dir:{folder}"), state)
    folder = tmp_path / "zip"
    folder.mkdir()
    torch.save(state, folder / "swin.zip")
    check_read(folder, state)


def test_a_repository_in_the_cache_of_the_hub(state: State, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--timm--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--timm--x" / "refs").mkdir()
    (tmp_path / "models--timm--x" / "refs" / "main").write_text("abc")
    save_file(state, snapshot / "model.safetensors")
    check_read(tmp_path / "models--timm--x", state)


def test_of_several_files_in_a_folder_the_likely_one_is_offered(tmp_path: Path) -> None:
    for name in ("last.pth", "checkpoint-9.pth.tar", "model_best.pth.tar"):
        (tmp_path / name).touch()
    error = refusal(tmp_path)
    assert error.found == "3: checkpoint-9.pth.tar, last.pth, model_best.pth.tar"
    assert error.hint == f"--weights '{tmp_path / 'model_best.pth.tar'}'"


@pytest.mark.parametrize(
    ("files", "found", "hint"),
    [
        (["__0_0.distcp", ".metadata"], "a distributed checkpoint", "dcp_to_torch"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "a distributed checkpoint", "pytorch_model_fsdp_0"),
        (["latest", "global_step9/mp_rank_00_model_states.pt"], "DeepSpeed", "mp_rank_00_model"),
        (
            ["zero_to_fp32.py", "global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt"],
            "in parts (ZeRO)",
            "zero_to_fp32.py",
        ),
        (["tf_model.h5", "config.json"], "an HDF5 file", ".npz"),
        (["notes.txt", "checkpoint-10/model.safetensors"], "without weights", "checkpoint-10"),
        ([], "a folder without weights", "the path of a weights file"),
    ],
)
def test_folders_that_cannot_be_read(
    files: list[str], found: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "ck").mkdir()
    for name in files:
        path = tmp_path / "ck" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x89HDF\r\n\x1a\n" if path.suffix == ".h5" else b"")
    error = refusal(tmp_path / "ck")
    assert found in error.found
    assert hint in error.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", "--model vit_tiny_patch16_224.augreg_in"),
        ("timm/vit_tiny_patch16_224.augreg_in21k", "--model vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224", "--model vit_tiny_patch16_224"),
        ("hf-hub:google/vit-base", "hf download google/vit-base"),
        ("hf-hub:timm/resnet50.a1_in1k", "hf download timm/resnet50.a1_in1k"),
        ("timm/resnet50.a1_in1k", "hf download timm/resnet50.a1_in1k"),
        ("https://host.org/a/swin.pth?download=1", "download it, then --weights swin.pth"),
    ],
)
def test_names_that_are_no_paths(name: str, hint: str) -> None:
    assert hint in refusal(Path(name)).hint


def test_only_weights_are_offered_for_a_misspelt_path(state: State, tmp_path: Path) -> None:
    (tmp_path / "hf_timm").mkdir()
    assert "did you mean" not in refusal(tmp_path / "hf_tim").hint
    save_file(state, tmp_path / "hf_timm" / "x.safetensors")
    assert refusal(tmp_path / "hf_tim").hint == f"did you mean '{tmp_path / 'hf_timm'}'?"
