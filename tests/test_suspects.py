"""Suspect labels where features tell little: what small pictures look like tells more."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SMALL_FLAGS, read_rows, texture
from PIL import Image
from threadpoolctl import threadpool_info, threadpool_limits

from swinclf.data.folder import TRAIN, ImageFile
from swinclf.evaluation import suspects as suspects_module
from swinclf.evaluation.discriminant import main_directions
from swinclf.evaluation.suspects import RIDGE, judge_by_features, judge_by_likeness, pool_scores
from swinclf.inference import insight, small_look
from swinclf.inference.insight import doubtful_labels
from swinclf.inference.small_pictures import SIDE, count_colours, describe, kinds_of_places
from swinclf.progress import Reporter

KINDS = ("across", "along", "checks")


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def planted(tmp_path):
    """A folder of textures, 60 a kind, and the paths of nine that lie under another kind."""
    random = np.random.default_rng(0)
    swapped = set()
    for kind, name in enumerate(KINDS):
        for number in range(60):
            label = KINDS[(kind + 1 + number % 2) % 3] if number % 20 == 7 else name
            path = tmp_path / "data" / label / f"{name}-{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(texture(kind, random)).save(path)
            if label != name:
                swapped.add(f"{label}/{path.name}")
    return tmp_path / "data", swapped


def images_of(root):
    files = sorted(root.rglob("*.png"))
    return [ImageFile(str(one.relative_to(root)), one.parent.name, TRAIN) for one in files]


def suspects(root, features, **more):
    listener = Listener()
    found = doubtful_labels(
        root, images_of(root), features, sorted(KINDS), seed=0, workers=2, report=listener, **more
    )
    return found.suspects, listener


def test_small_pictures_find_the_swaps_that_useless_features_cannot(planted, monkeypatch):
    root, swapped = planted
    useless = np.random.default_rng(1).normal(size=(180, 40)).astype(np.float32)
    found, listener = suspects(root, useless)
    assert {one.path for one in found[:9]} == swapped
    assert any("small pictures are compared too" in note for note in listener.notes)
    assert all(one.path.split("/")[1].startswith(one.suggested) for one in found[:9])
    assert suspects(root, useless)[0] == found
    assert {one.path for one in suspects(root, None)[0][:9]} == swapped
    monkeypatch.setattr(insight, "GOOD", 0.0)  # so that the features decide alone
    alone, _ = suspects(root, useless)
    assert len({one.path for one in alone[:9]} & swapped) < 5


def test_good_features_need_no_pictures(planted):
    root, swapped = planted
    kinds = [KINDS.index(one.path.split("/")[1].split("-")[0]) for one in images_of(root)]
    good = np.eye(3)[kinds] + np.random.default_rng(1).normal(0, 0.1, (180, 3))
    found, _ = suspects(root, good)
    assert {one.path for one in found} == swapped
    for file in root.rglob("*.png"):
        file.write_bytes(b"")  # now nobody can look at it
    assert suspects(root, good)[0] == found


def test_of_too_many_images_some_are_judged_and_that_is_said(planted, monkeypatch):
    root, swapped = planted
    monkeypatch.setattr(insight, "PICTURES_MOST", 150)
    monkeypatch.setattr(small_look, "PART_MOST", 80)
    found, listener = suspects(root, None)
    assert len({one.path for one in found[:9]} & swapped) >= 5
    assert "mistakes looked for among the labels of 150 of 180 images" in listener.notes


def test_what_is_left_out_in_closed_form_is_what_is_left_out():
    random = np.random.default_rng(2)
    described = random.normal(size=(40, 6)).astype(np.float32)
    labels = random.integers(3, size=40)
    scores = judge_by_likeness(described, labels, 4)
    distances = ((described[:, None] - described) ** 2).sum(2)
    kernel = np.exp(-distances / np.median(distances))
    wanted = np.eye(4)[labels]
    mean = wanted.mean(0)
    for row in (0, 17):
        others = np.arange(40) != row
        ridge = kernel[np.ix_(others, others)] + RIDGE * np.eye(39)
        expected = kernel[row, others] @ np.linalg.solve(ridge, wanted[others] - mean) + mean
        np.testing.assert_allclose(scores[row], expected, atol=1e-4)


def test_pooling_trusts_what_the_labels_bear_out():
    random = np.random.default_rng(3)
    labels = random.integers(3, size=300)
    good = np.eye(3)[labels] + random.normal(0, 0.3, (300, 3))
    noise = random.normal(0, 5, (300, 3))
    alone, pooled = pool_scores([good], labels), pool_scores([good, noise], labels)
    np.testing.assert_allclose(pooled.sum(1), 1)
    assert (alone.argmax(1) == labels).mean() > 0.9
    assert np.abs(pooled - alone).mean() < 0.02
    assert (pooled.argmax(1) == alone.argmax(1)).mean() > 0.95


def test_pictures_without_contrast_are_described_too():
    flat = np.zeros((6, SIDE, SIDE, 3), np.uint8)
    kinds = kinds_of_places(flat, seed=0)
    for described in (*describe(flat, kinds), count_colours(flat)):
        assert np.isfinite(described).all()
        assert np.isfinite(judge_by_likeness(described, np.array([0, 0, 0, 1, 1, 1]), 2)).all()


def test_small_matrices_are_left_to_one_thread(monkeypatch):
    seen = []

    def spy(features):
        seen.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return main_directions(features)

    monkeypatch.setattr(suspects_module, "main_directions", spy)
    with threadpool_limits(2, user_api="blas"):
        before = threadpool_info()
        labels = np.arange(60) % 3
        judge_by_features(np.random.default_rng(5).normal(size=(60, 8)), labels, seed=0)
        assert threadpool_info() == before
    assert seen
    assert set(seen) == {1}


def test_a_mirror_image_is_described_alike():
    pictures = np.random.default_rng(4).integers(256, size=(8, SIDE, SIDE, 3), dtype=np.uint8)
    both = np.concatenate([pictures, pictures[:, :, ::-1]])
    kinds = kinds_of_places(both, seed=0)
    for described in (*describe(both, kinds), count_colours(both)):
        assert described.std(axis=0).max() > 0.01
        np.testing.assert_allclose(described[:8], described[8:], atol=1e-3)


def test_a_training_of_the_whole_network_lists_suspects_too(planted, tmp_path, cli):
    root, swapped = planted
    done = cli("train", root, "--epochs", 1, "--out", tmp_path / "runs", *SMALL_FLAGS)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "latest"
    rows = read_rows(run / "suspects.csv")
    assert {row["path"] for row in rows[:9]} == swapped
    assert 'id="suspects"' in (run / "report.html").read_text("utf-8")
