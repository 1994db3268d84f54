"""check by features: alike pictures are all proposed, copies confirmed, and nothing else."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import SMALL_MODEL, error_lines
from PIL import Image
from safetensors.torch import load_file, save_file
from test_check import finding, scene, write_scenes
from threadpoolctl import threadpool_info, threadpool_limits

from swinclf.commands.check import check
from swinclf.data.folder import scan_folder
from swinclf.data_quality import near_duplicates
from swinclf.data_quality.findings import FindingKind
from swinclf.data_quality.fingerprints import small_grey
from swinclf.data_quality.image_stats import read_image_stats
from swinclf.data_quality.near_duplicates import (
    AGREEMENT_MIN,
    LIKENESS_MIN,
    NEAREST,
    MirroredFeatures,
    find_near_pairs,
    nearest_pairs,
)
from swinclf.data_quality.registration import (
    DETAIL_SIDE,
    MATCH_SIDE,
    detail_agreement,
    locate_crop,
    match_spectra,
)
from swinclf.models.compute import Computer
from swinclf.pipeline.extract_features import open_user_caches
from swinclf.reporter import SILENT, Reporter

BOX = (0.25, 0.1, 0.92, 0.8)  # left, top, right, bottom of a crop, of the sides


def crop(picture, box=BOX):
    width, height = picture.size
    return picture.crop(
        tuple(round(part * side) for part, side in zip(box, 2 * (width, height), strict=True))
    )


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# --- the search ---------------------------------------------------------------------------------


def random_features(count, numbers=16, seed=0):
    rng = np.random.default_rng(seed)
    plain, turned = (
        (5 + rng.normal(size=(count, numbers))).astype(np.float32) for _ in range(2)
    )  # 5: what a network sees in every picture
    return MirroredFeatures(np.arange(count), plain, turned)


def cosines(one, other):
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    return one @ other.T


@pytest.mark.parametrize("block", [1, 7, near_duplicates.BLOCK_ROWS])
def test_the_nearest_are_those_of_comparing_all(monkeypatch, block):
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", block)
    seen = random_features(60)
    middle = seen.features.mean(axis=0)
    wanted = set()
    for is_mirrored, others in ((False, seen.features), (True, seen.mirrored)):
        table = cosines(seen.features - middle, others - middle)
        np.fill_diagonal(table, -9)
        for row, order in enumerate(np.argsort(-table, axis=1)):
            wanted |= {
                (min(row, other), max(row, other), is_mirrored)
                for other in order[:NEAREST].tolist()
            }
    found = nearest_pairs(seen, np.arange(60), report=SILENT)
    assert found == sorted(found)
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_only_the_rows_asked_for_are_proposed_and_under_their_own_names():
    seen = random_features(40)
    seen = MirroredFeatures(np.arange(40) * 3, seen.features, seen.mirrored)
    seen.features[30] = seen.features[10] + 0.01
    seen.mirrored[31] = seen.features[11] + 0.01
    found = nearest_pairs(seen, np.array([row for row in range(200) if row != 36]), report=SILENT)
    assert (30, 90, False) in found
    assert (33, 93, True) in found
    assert 36 not in {row for one in found for row in one[:2]}


@pytest.mark.parametrize(("count", "pairs"), [(0, 0), (1, 0), (2, 2), (5, 20)])
def test_few_pictures_are_all_proposed(count, pairs):
    assert len(nearest_pairs(random_features(count), np.arange(count), report=SILENT)) == pairs


def test_pictures_in_which_nothing_is_seen_are_no_error():
    seen = MirroredFeatures(np.arange(4), np.ones((4, 3), np.float32), np.ones((4, 3), np.float32))
    assert len(nearest_pairs(seen, np.arange(4), report=SILENT)) == 12


def test_a_long_search_is_announced(monkeypatch):
    notes, totals, done = [], [], []

    class Listener(Reporter):
        def note(self, text):
            notes.append(text)

        @contextmanager
        def track(self, _task, total):
            totals.append(total)
            yield done.append

    monkeypatch.setattr(near_duplicates, "MANY_IMAGES", 60)
    for count in (59, 60):
        nearest_pairs(random_features(count), np.arange(count), report=Listener())
    assert totals == done == [59, 60]  # each image once
    assert len(notes) == 1
    assert notes[0].startswith("each of 60 images is compared with all others")


def test_the_search_takes_memory_by_the_block(monkeypatch):
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", 64)
    seen = random_features(4000)
    tracemalloc.start()
    nearest_pairs(seen, np.arange(4000), report=SILENT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000  # bytes: a quarter of all cosines


# --- the place ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box", [BOX, (0, 0, 0.7, 0.7), (0.35, 0.33, 1, 1), (0.1, 0, 1, 0.86), (0, 0, 1, 1)], ids=str
)
def test_a_crop_is_found_where_it_was_taken(box):
    picture = scene(5, (256, 256))
    whole, part = (
        match_spectra(small_grey(one, MATCH_SIDE)) for one in (picture, crop(picture, box))
    )
    likeness, place = locate_crop(whole, part)
    left, top, right, bottom = box
    assert likeness > 0.7
    assert place.x == pytest.approx(left + right - 1, abs=0.1)
    assert place.y == pytest.approx(top + bottom - 1, abs=0.1)
    assert place.scale == pytest.approx((right - left + bottom - top) / 2, abs=0.08)


def test_strangers_and_empty_pictures_are_like_nothing():
    glances = [match_spectra(small_grey(scene(seed, (256, 256)), MATCH_SIDE)) for seed in range(8)]
    likenesses = [locate_crop(one, other)[0] for one in glances for other in glances]
    assert sorted(likenesses)[:-8][-1] < LIKENESS_MIN  # all but themselves
    empty = match_spectra(np.full((MATCH_SIDE, MATCH_SIDE), 7, np.uint8))
    assert abs(locate_crop(glances[0], empty)[0]) < 0.01
    assert abs(locate_crop(empty, glances[0])[0]) < 0.01


def test_details_agree_from_the_place_and_not_from_the_middle():
    picture = scene(6, (256, 256))
    one, other = (small_grey(each, DETAIL_SIDE) for each in (picture, crop(picture)))
    halves = (each.reshape(48, 2, 48, 2).mean(axis=(1, 3)) for each in (one, other))
    _, place = locate_crop(*map(match_spectra, halves))
    assert detail_agreement(one, other) < 0.5
    assert detail_agreement(one, other, place) > AGREEMENT_MIN


# --- both ---------------------------------------------------------------------------------------


@pytest.fixture
def land(tmp_path):
    """Eighteen pictures, a broken file before all others, and a part of one in its mirror."""
    root = write_scenes(tmp_path / "land", per_class=9)
    (root / "heath" / "0.jpg").write_bytes(b"no picture")
    part = crop(mirrored(Image.open(root / "heath" / "004.jpg")))
    part.save(root / "moor" / "part.jpg", quality=80)
    return root


PAIR = {"heath/004.jpg", "moor/part.jpg"}


def look(root, seen):
    index = scan_folder(root)
    facts = read_image_stats(index.root, index.images, workers=0, report=SILENT)
    rows = {image.path: row for row, image in enumerate(index.images)}
    found = find_near_pairs(
        index.root, facts, workers=0, report=SILENT, features=seen(len(rows), rows)
    )
    paths = list(rows)
    return [({paths[one.first], paths[one.second]}, one.by_features) for one in found]


def test_what_features_propose_is_confirmed(land):
    def seen(count, rows):
        features = random_features(count)
        features.features[rows["moor/part.jpg"]] = features.mirrored[rows["heath/004.jpg"]]
        return features

    assert look(land, lambda *_: None) == []
    assert look(land, seen) == [(PAIR, True)]


def test_what_features_alone_take_for_one_is_none(land):
    (land / "moor" / "part.jpg").unlink()

    def seen(count, _rows):
        return MirroredFeatures(np.arange(count), *np.ones((2, count, 8), np.float32))

    assert look(land, seen) == []


def test_small_matrices_are_left_to_one_thread(land, monkeypatch):
    Image.open(land / "heath" / "004.jpg").save(land / "heath" / "again.jpg", quality=70)
    threads = []

    def spy(*given):
        threads.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return detail_agreement(*given)

    monkeypatch.setattr("swinclf.data_quality.near_duplicates.detail_agreement", spy)
    with threadpool_limits(2, user_api="blas"):
        assert look(land, lambda *_: None)
    assert set(threads) == {1}


def test_a_pair_of_fingerprints_is_theirs(land):
    Image.open(land / "heath" / "004.jpg").save(land / "heath" / "again.jpg", quality=70)
    found = look(land, lambda count, _rows: random_features(count))
    assert ({"heath/004.jpg", "heath/again.jpg"}, False) in found


def keep_only(root, keep):
    """Leaves so few pictures that each is among the nearest of each, whatever a network sees."""
    for path in sorted(root.rglob("0*.jpg")):
        if path.stem not in (*keep, "0"):
            path.unlink()
    assert len(list(root.rglob("*.jpg"))) - 2 < NEAREST


def test_the_embedded_network_needs_no_weights_file(cli, land):
    keep_only(land, ["004", "005", "006"])
    done = cli("check", land, "--model", "embedded")
    assert done.code == 3, done.err
    assert "also searching for near-duplicates by features: embedded on " in done.err
    assert "heath/004.jpg  =  moor/part.jpg  (heath, moor)" in done.out


def test_the_program_finds_a_mirrored_part_by_the_features_of_a_run(cli, trained, land):
    keep_only(land, ["004", "005", "006"])
    before = cli("check", land, "--format", "json")
    assert json.loads(before.out)["near_pairs"] == []
    done = cli("check", land, "--weights", trained.path, "--output", "c.json", "--page", "c.html")
    assert done.code == 3, done.err
    assert f"{SMALL_MODEL} on " in done.err
    assert "also searching for near-duplicates by features" in done.err
    assert "features added 1 of 1 pairs of near duplicates" in done.err
    assert "heath/004.jpg  =  moor/part.jpg  (heath, moor)" in done.out
    found = json.loads((land.parent / "c.json").read_text("utf-8"))
    assert [set(one["paths"]) for one in found["near_pairs"]] == [PAIR]
    kinds = [one["kind"] for one in found["findings"]]
    assert kinds == ["unreadable", "two_labels", "near_duplicates", "tiny_classes"]
    assert "moor" in (land.parent / "c.html").read_text("utf-8")


def test_what_was_seen_is_kept_for_the_next_time(trained, land, monkeypatch):
    keep_only(land, ["004", "005"])
    first = check(land, weights=trained.path, workers=1)
    assert [set(one[:2]) for one in first.near] == [PAIR]

    def compute(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(Computer, "features", compute)
    again = check(land, weights=trained.path, workers=0)
    assert again.to_dict() == first.to_dict()
    assert finding(again, FindingKind.NEAR_DUPLICATES).count == 1
    shutil.copy(land / "heath" / "004.jpg", land / "moor" / "copy.jpg")
    check(land, weights=trained.path, workers=0)  # by content: a copy is known
    scene(77).save(land / "moor" / "new.jpg")
    with pytest.raises(AssertionError, match="computed again"):
        check(land, weights=trained.path, workers=0)


def test_a_file_that_goes_before_the_network_looks_is_in_no_pair(trained, land, monkeypatch):
    keep_only(land, ["004", "005"])

    def known(*given):
        (land / "moor" / "005.jpg").unlink()
        return open_user_caches(*given)

    monkeypatch.setattr("swinclf.pipeline.extract_features.open_user_caches", known)
    found = check(land, weights=trained.path, workers=0)
    assert [set(one[:2]) for one in found.near] == [PAIR]


# --- what cannot be -----------------------------------------------------------------------------


def bare(run, path):
    """The weights of a run as any other program would have saved them."""
    save_file(load_file(run / "model.safetensors"), path)
    return path


def test_a_bare_file_needs_its_model(cli, trained, land, tmp_path):
    keep_only(land, ["004", "005"])
    file = bare(trained.path, tmp_path / "bare.safetensors")
    done = cli("check", land, "--weights", file)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert expected == "weights with exactly the tensors of the network"
    assert "the network has" in found
    assert hint == "the model, image size and classes that the file was made for"
    assert "reading" not in done.err  # before anything is read
    done = cli("check", land, "--weights", file, "--model", "test_vi")
    assert done.code == 1
    assert "test_vit" in error_lines(done)[2]


@pytest.mark.parametrize(
    ("name", "expected", "found", "hint"),
    [
        (
            "model.onnx",
            "a weights file or a run at 'model.onnx'",
            "an exported file, which cannot be trained",
            "the run it was exported from",
        ),
        (
            "empty",
            "weights at 'empty'",
            "a folder without weights",
            "the path of a weights file or of a run folder",
        ),
    ],
)
def test_what_is_no_weights_is_refused(cli, land, tmp_path, name, expected, found, hint):
    (tmp_path / "model.onnx").write_bytes(b"exported")
    (tmp_path / "empty").mkdir()
    done = cli("check", land, "--weights", name)
    assert done.code == 1
    assert error_lines(done) == (expected, found, hint)


def test_a_model_alone_is_wrong_usage(cli, land):
    done = cli("check", land, "--model", SMALL_MODEL)
    assert done.code == 2
    assert error_lines(done)[1] == "no --weights"
