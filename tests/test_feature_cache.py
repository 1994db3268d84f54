"""The cache of features: what is computed once, what is computed anew, and what cannot hurt it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import (
    COLOURS,
    SMALL_FLAGS,
    SMALL_SETTINGS,
    read_rows,
    same_weights,
    weights_of,
    write_image,
)
from warm_processes import WarmProcess

import swinclf
from swinclf.data import loader
from swinclf.device import choose_hardware, fixed_batch_size
from swinclf.inference.score import SCORED_AT_ONCE
from swinclf.models.compute import Computer
from swinclf.pipeline import finish
from swinclf.training import feature_cache
from swinclf.training.feature_cache import (
    UNIT_BYTES,
    FeatureCache,
    cache_folder,
    cache_key,
    evict_files,
    weights_digest,
)


def in_whole_batches(images: int) -> int:
    """Return how many images a network computes for so many: the last batch is filled up."""
    batch = fixed_batch_size(choose_hardware().device)
    return -(-images // batch) * batch


FROZEN = {**SMALL_SETTINGS, "freeze_layers": True}


@pytest.fixture
def train(dataset, tmp_path, monkeypatch):
    """`train(**settings)`: a frozen training; the run, images decoded and images computed."""

    def run(**settings):
        decoded, computed = [], []
        decode, features = loader.use_image, Computer.features
        with monkeypatch.context() as patch:
            patch.setattr(loader, "use_image", lambda *a, **k: decoded.append(1) or decode(*a, **k))
            patch.setattr(
                Computer, "features", lambda self, x: computed.append(len(x)) or features(self, x)
            )
            done = swinclf.train(dataset, out=str(tmp_path / "runs"), **{**FROZEN, **settings})
        return done, len(decoded), sum(computed)

    return run


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def _same(one, other):
    for name in ("predictions.csv", "metrics.json", "split.csv"):
        first, second = (run.folder.path / name for run in (one, other))
        assert first.read_bytes() == second.read_bytes(), name
    return same_weights(*(weights_of(run.folder.path) for run in (one, other)))


# --- what is computed anew ----------------------------------------------------------------------


def test_a_second_training_decodes_and_computes_nothing(train):
    first, decoded, computed = train()
    assert decoded == 36
    assert computed > 36
    second, *costs = train(lr=0.01, epochs=3, seed=0)
    assert costs == [0, 0]
    assert not same_weights(weights_of(first.folder.path), weights_of(second.folder.path))


def test_what_comes_from_the_cache_is_equal_to_the_bit(train):
    first, *_ = train()
    cached, *costs = train()
    alone, decoded, _ = train(cache=False)
    assert costs == [0, 0]
    assert decoded == 36
    assert _same(first, cached)
    assert _same(first, alone)


def test_features_computed_in_parts_that_fit_are_not_cached(train, monkeypatch):
    compute = Computer.features

    def limited(self, inputs):
        if len(inputs) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Computer, "features", limited)
        train()
    assert train()[1] == 36


def test_without_the_cache_nothing_is_written_or_read(train, own_cache):
    train(cache=False)
    assert not own_cache.exists()
    train()
    assert _files(own_cache)
    assert train(cache=False)[1] == 36


def test_only_added_images_are_computed_and_old_ones_give_the_same(train, dataset):
    train()
    for number in range(3):
        write_image(dataset / "red" / f"new-{number}.png", COLOURS["red"], seed=70_000 + number)
    more, decoded, computed = train()
    assert decoded == 3
    assert computed == in_whole_batches(3)
    alone, *_ = train(cache=False)
    assert _same(more, alone)


def test_renamed_classes_and_files_are_known_by_their_content(train, dataset):
    train()
    (dataset / "blue").rename(dataset / "azure")
    (dataset / "red" / "000.png").rename(dataset / "red" / "zzz.png")
    renamed, decoded, _ = train()
    assert decoded == 0
    assert renamed.metrics.classes == ("azure", "green", "red")


def test_an_edited_image_is_computed_anew_under_its_old_name_size_and_date(train, dataset):
    train()
    path = dataset / "red" / "000.png"
    date = path.stat().st_mtime_ns
    write_image(path, COLOURS["red"], seed=80_000)
    os.utime(path, ns=(date, date))
    assert train()[1] == 1


def test_another_way_of_computing_is_another_key(train):
    train()
    # Another size, preprocessing, precision, and other weights: random ones are by the seed.
    for other in ({"img_size": 48}, {"fit": "squash"}, {"precision": "bf16"}, {"seed": 5}):
        assert train(**other)[2] >= 36, other


def test_a_mirror_view_that_is_not_there_yet_is_computed_alone(train):
    _, _, plain = train(mirror=False)
    assert plain == in_whole_batches(36)
    _, decoded, computed = train(mirror=True)
    run, *_ = train(mirror=True, cache=False)
    held_out = run.metrics.images
    assert 36 - held_out <= decoded < 36  # some turn out to be held out only when all are read
    assert computed == in_whole_batches(decoded)


def test_weights_are_told_apart_by_one_bit_and_the_head_does_not_count():
    import timm

    network = timm.create_model("test_vit", num_classes=3)
    before = weights_digest(network)
    with torch.no_grad():
        network.head.weight.add_(1)
    network.reset_classifier(7)
    assert weights_digest(network) == before
    with torch.no_grad():
        network.blocks[0].attn.qkv.weight[0, 0] += 1e-3
    assert weights_digest(network) != before


def test_readable_images_are_not_decoded_to_find_out_again_where_no_network_looks(train, dataset):
    (dataset / "red" / "broken.png").write_bytes(b"no picture")
    scratch = {"freeze_layers": False, "epochs": 1, "val_split": 0.0, "augment": "none"}
    first, decoded, _ = train(**scratch)
    second, again, _ = train(**scratch)
    assert decoded - again == 36  # epochs decode as before
    assert [one.path for one in second.skipped] == ["red/broken.png"]
    assert _same(first, second)


@pytest.mark.parametrize(
    ("model", "precision"), [("test_vit", "fp32"), ("vit_tiny_patch16_224", "bf16")]
)
def test_eval_gives_the_rows_of_a_frozen_run_to_the_bit(train, cli, tmp_path, model, precision):
    run, *_ = train(model=model, precision=precision, val_split=0.5)
    done = cli("eval", "--run", run.folder.path, "--output", tmp_path / "scores")
    assert done.code == 0, done.err
    first, second = (path / "predictions.csv" for path in (run.folder.path, tmp_path / "scores"))
    assert first.read_bytes() == second.read_bytes()


def test_a_frozen_run_scores_some_images_at_a_time_with_the_same_bits(train, monkeypatch):
    first, *_ = train(val_split=0.5)
    sizes, logits_of = [], finish.head_logits

    def head_logits(network, features, device):
        sizes.append(len(features))
        return logits_of(network, features, device)

    monkeypatch.setattr(finish, "head_logits", head_logits)
    batch = fixed_batch_size(choose_hardware().device)
    monkeypatch.setattr(finish, "SCORED_AT_ONCE", batch)
    second, *_ = train(val_split=0.5)
    parts = -(-second.metrics.images // batch)
    assert max(sizes[-parts:]) <= batch
    assert sum(sizes[-parts:]) == second.metrics.images
    assert _same(first, second)
    assert SCORED_AT_ONCE % 128 == 0


# --- what cannot hurt it ------------------------------------------------------------------------


def test_a_damaged_file_is_thrown_away_and_computed_anew(train, own_cache):
    first, *_ = train()
    for damage in (
        lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
        lambda content: content[: len(content) // 2],
    ):
        damaged = _files(own_cache)
        assert damaged
        for path in damaged:
            path.write_bytes(damage(path.read_bytes()))
        second, decoded, _ = train()
        assert decoded == 36
        assert _same(first, second)
        assert not set(damaged) & set(_files(own_cache))


def test_a_folder_that_cannot_be_written_is_said_once(cli, dataset, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file where a folder should be")
    monkeypatch.setenv("SWINCLF_CACHE_DIR", str(tmp_path / "taken"))
    done = cli("train", dataset, *SMALL_FLAGS, "--freeze-layers")
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if "cannot cache features" in line]
    assert len(said) == 1
    assert "Not a directory" in said[0]


def test_a_full_disk_is_said_once_and_leaves_no_part(cli, dataset, own_cache, monkeypatch):
    def full(_handle):
        raise OSError(28, "No space left on device")

    real = feature_cache.write_tensors

    def write(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            real(*arguments)

    monkeypatch.setattr(feature_cache, "write_tensors", write)
    done = cli("train", dataset, *SMALL_FLAGS, "--freeze-layers")
    assert done.code == 0, done.err
    assert done.err.count("No space left on device") == 1
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_a_killed_training_leaves_a_cache_that_serves_the_next(dataset, tmp_path, own_cache):
    words = ("train", dataset, *SMALL_FLAGS, "--freeze-layers", "--epochs", 100_000)
    process = WarmProcess(*words, folder=tmp_path)
    process.wait_for("linear probe")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert _files(own_cache)
    units = {unit for path in _files(own_cache) for unit in _units(path)}
    assert len(units) > 36


def _units(path: Path) -> set[bytes]:
    from safetensors.numpy import load_file

    rows = load_file(path)["units"]
    assert rows.shape[1] == UNIT_BYTES
    return {row.tobytes() for row in rows}


def test_two_trainings_at_once_share_one_cache(dataset, tmp_path, own_cache):
    words = ("train", dataset, *SMALL_FLAGS, "--freeze-layers", "--cache-gib", 0.001)
    both = [WarmProcess(*words, "--name", name, folder=tmp_path) for name in ("one", "two")]
    for process in both:
        assert process.wait(timeout=120) == 0, process.stderr
        assert "cannot cache" not in process.stderr
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    assert same_weights(weights_of(one), weights_of(two))
    assert read_rows(one / "predictions.csv") == read_rows(two / "predictions.csv")
    assert not list(own_cache.rglob("*.tmp"))


# --- the cache itself ---------------------------------------------------------------------------


def _unit(number: int) -> bytes:
    return number.to_bytes(UNIT_BYTES, "big")


def _open(root: Path, key: str = "a", gib: float = 1.0, said: list[str] | None = None):
    said = [] if said is None else said
    return FeatureCache(root, key, limit_bytes=int(gib * 1024**3), note=said.append)


def test_what_was_put_comes_back_to_the_bit_and_from_its_own_key_only(tmp_path):
    features = torch.randn(5, 7)
    cache = _open(tmp_path)
    cache.put([_unit(one) for one in range(3)], features[:3])
    cache.put([_unit(3), _unit(4)], features[3:])
    cache.close()
    again, other = _open(tmp_path), _open(tmp_path, "b")
    for row in range(5):
        assert torch.equal(again.get(_unit(row)), features[row])
        assert other.get(_unit(row)) is None
    assert again.get(_unit(9)) is None


def test_rows_without_numbers_are_markers(tmp_path):
    cache = _open(tmp_path)
    cache.put([_unit(1)], torch.empty(1, 0))
    cache.close()
    again = _open(tmp_path)
    assert again.get(_unit(1)).shape == (0,)
    assert again.get(_unit(2)) is None


def test_long_looks_are_saved_on_the_way(tmp_path, monkeypatch):
    cache = _open(tmp_path)
    monkeypatch.setattr(feature_cache, "FLUSH_ROWS", 4)
    for number in range(10):
        cache.put([_unit(number)], torch.ones(1, 2))
    assert len(_files(tmp_path)) == 2  # and it has not been closed
    later = _open(tmp_path)
    assert later.get(_unit(7)) is not None
    assert later.get(_unit(8)) is None


def test_what_was_used_longest_ago_makes_room(tmp_path):
    row = torch.zeros(1, 50_000)  # 200 kB
    for number in range(3):
        cache = _open(tmp_path, f"key-{number}")
        cache.put([_unit(number)], row)
        cache.close()
        (path,) = (tmp_path / feature_cache.LAYOUT / f"key-{number}").iterdir()
        os.utime(path, (1000 + number, 1000 + number))
    used = _open(tmp_path, "key-0")
    assert used.get(_unit(0)) is not None
    used.close()  # marks it as used now
    evict_files(tmp_path / feature_cache.LAYOUT, 450_000)
    left = {path.parent.name for path in _files(tmp_path)}
    assert left == {"key-0", "key-2"}
    assert sum(path.stat().st_size for path in _files(tmp_path)) <= 450_000


def test_the_limit_holds_while_a_look_goes_on_and_none_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "FLUSH_ROWS", 1)
    said = []
    cache = FeatureCache(tmp_path, "a", limit_bytes=500_000, note=said.append)
    for number in range(6):
        cache.put([_unit(number)], torch.zeros(1, 50_000))
        assert sum(path.stat().st_size for path in _files(tmp_path)) <= 500_000
    cache.close()
    assert len(_files(tmp_path)) == 2
    assert len(said) == 1
    assert said[0].endswith("--cache-gib 0.1 stores them all")
    nothing = FeatureCache(tmp_path / "other", "a", limit_bytes=0, note=pytest.fail)
    nothing.put([_unit(1)], torch.zeros(1, 2))
    nothing.close()
    assert not (tmp_path / "other").exists()


def _hits(root: Path, numbers: range, said: list[str]) -> list[int]:
    """A training on images, of features of 200 kB: those that were cached; 500 kB are the limit."""
    cache = FeatureCache(root, "a", limit_bytes=500_000, note=said.append)
    cached = []
    for number in numbers:
        if cache.get(_unit(number)) is not None:
            cached.append(number)
        else:
            cache.put([_unit(number)], torch.zeros(1, 50_000))
    cache.close()
    return cached


def test_of_a_dataset_above_the_limit_a_part_stays_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "FLUSH_ROWS", 1)
    said = []
    assert _hits(tmp_path, range(4), said) == []
    assert _hits(tmp_path, range(4), said) == [0, 1]
    assert _hits(tmp_path, range(4), said) == [0, 1]
    assert len(said) == 3  # once each


def test_files_needed_later_are_not_evicted_for_images_that_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "FLUSH_ROWS", 1)
    said = []
    _hits(tmp_path, range(5, 7), said)
    assert _hits(tmp_path, range(4, 7), said) == [5, 6]


def test_another_dataset_of_the_same_network_gets_the_room(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "FLUSH_ROWS", 1)
    said = []
    _hits(tmp_path, range(2), said)
    assert _hits(tmp_path, range(5, 7), said) == []
    assert _hits(tmp_path, range(5, 7), said) == []  # stored now
    assert _hits(tmp_path, range(5, 7), said) == [5, 6]
    assert said == []


def test_what_a_killed_process_left_is_cleared_when_it_is_old(tmp_path):
    cache = _open(tmp_path)
    cache.put([_unit(1)], torch.ones(1, 2))
    cache.close()
    (file,) = _files(tmp_path)
    old, young = (file.with_name(f".{name}.tmp") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * feature_cache.STALE_TMP_S
    os.utime(old, (long_ago, long_ago))
    _open(tmp_path).close()
    assert not old.exists()
    assert young.exists()
    assert file.exists()


def test_a_file_that_another_training_deletes_is_no_error(tmp_path):
    cache = _open(tmp_path)
    cache.put([_unit(1)], torch.ones(1, 2))
    cache.close()
    again = _open(tmp_path)
    for path in _files(tmp_path):
        path.unlink()
    assert again.get(_unit(1)) is None
    again.close()


def test_many_threads_may_ask(tmp_path):
    cache = _open(tmp_path)
    cache.put([_unit(number) for number in range(64)], torch.arange(64.0)[:, None])
    cache.close()
    again, found = _open(tmp_path), []

    def ask():
        found.extend(float(again.get(_unit(number))[0]) for number in range(64))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(4 * [float(number) for number in range(64)])


def test_keys_are_the_same_for_the_same_facts_in_any_order():
    assert cache_key({"a": 1, "b": [2]}) == cache_key({"b": [2], "a": 1})
    assert cache_key({"a": 1}) != cache_key({"a": 2})


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() == Path(os.environ["SWINCLF_CACHE_DIR"])
    monkeypatch.delenv("SWINCLF_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "swinclf"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for platform, wanted in (("linux", ".cache/swinclf"), ("darwin", "Library/Caches/swinclf")):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == tmp_path / "home" / wanted
