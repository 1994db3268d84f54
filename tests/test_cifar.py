"""CIFAR's own files as a dataset: the same as the folders of their images, and nothing executed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_FLAGS, error_lines, read_rows, same_weights, weights_of
from PIL import Image

from swinclf.data.cifar import open_cifar, read_packed
from swinclf.data.folder import scan_folder
from swinclf.data.images import decode_image, read_bytes
from swinclf.data.relocate import missing_paths
from swinclf.errors import DataError

NAMES = ("airplane", "cat", "dog")
FINE = ("apple", "boy", "cloud")


def images_of(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Planes (N, 3072) whose colour tells the label, which every third image shares."""
    rng = np.random.default_rng(seed)
    labels = [int(one) for one in rng.permutation(np.arange(count) % len(NAMES))]
    planes = rng.integers(0, 90, (count, 3, 32 * 32))
    for image, label in zip(planes, labels, strict=True):
        image[label] += 120
    return planes.astype(np.uint8).reshape(count, -1), labels


TRAIN = [images_of(12, seed) for seed in range(2)]
TEST = images_of(6, 9)


def write_pickle(path: Path, values: dict[str, object]) -> None:
    path.write_bytes(pickle.dumps({key.encode(): one for key, one in values.items()}, protocol=2))


@pytest.fixture(
    params=["cifar-10 binary", "cifar-10 python", "cifar-100 binary", "cifar-100 python"]
)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The files of a small archive in one of the published formats."""
    kind, form = request.param.split()
    folder = tmp_path / "archive"
    folder.mkdir()
    is_ten, is_binary = kind == "cifar-10", form == "binary"
    batches = {f"data_batch_{number}": one for number, one in enumerate(TRAIN, 1)}
    if not is_ten:
        pixels, labels = zip(*TRAIN, strict=True)
        batches = {"train": (np.concatenate(pixels), [*labels[0], *labels[1]])}
    batches["test_batch" if is_ten else "test"] = TEST
    for name, (pixels, labels) in batches.items():
        if is_binary:
            column = np.array(labels, np.uint8)[:, None]
            before = [column] if is_ten else [column + 7, column]
            (folder / f"{name}.bin").write_bytes(np.hstack([*before, pixels]).tobytes())
        else:
            key = "labels" if is_ten else "fine_labels"
            write_pickle(folder / name, {"data": pixels, key: labels, "batch_label": "a batch"})
    if is_binary:
        names = "batches.meta.txt" if is_ten else "fine_label_names.txt"
        (folder / names).write_text("\n".join(NAMES if is_ten else FINE) + "\n\n")
    else:
        key = "label_names" if is_ten else "fine_label_names"
        words = [one.encode() for one in (NAMES if is_ten else FINE)]
        write_pickle(folder / ("batches.meta" if is_ten else "meta"), {key: words})
    return folder


def test_every_format_has_the_same_images(archive):
    index = scan_folder(archive)
    is_ten = "data_batch_1" in {path.stem for path in archive.iterdir()}
    names = NAMES if is_ten else FINE
    assert index.classes == names
    planes = np.concatenate([pixels for pixels, _ in TRAIN])
    labels = [label for _, batch in TRAIN for label in batch]
    wanted = {
        f"{split}/{names[label]}/{number:05d}.ppm": (pixels, split)
        for split, many, each in (("train", planes, labels), ("test", *TEST))
        for number, (pixels, label) in enumerate(zip(many, each, strict=True))
    }
    assert [image.path for image in index.images] == sorted(wanted)
    for image in index.images:
        pixels, split = wanted[image.path]
        assert image.split == split
        assert image.label == image.path.split("/")[1]
        found = np.asarray(decode_image(read_bytes(archive / image.path)))
        assert np.array_equal(found, pixels.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize("archive", ["cifar-10 binary"], indirect=True)
def test_a_training_is_that_of_the_folders_of_the_same_images(archive, tmp_path, cli):
    folders = tmp_path / "folders"
    for image in scan_folder(archive).images:
        path = folders / image.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_bytes(archive / image.path))
    for name, data in (("packed", archive), ("unpacked", folders)):
        done = cli("train", data, *SMALL_FLAGS, "--name", name)
        assert done.code == 0, done.err
    packed, unpacked = tmp_path / "runs" / "packed", tmp_path / "runs" / "unpacked"
    assert (packed / "split.csv").read_bytes() == (unpacked / "split.csv").read_bytes()
    assert same_weights(weights_of(packed), weights_of(unpacked))
    for run in (packed, unpacked):
        done = cli("eval", "--run", run, "--split", "test", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["images"] == 6
    scores = [(run / "eval-1" / "predictions.csv").read_text() for run in (packed, unpacked)]
    assert scores[0] == scores[1]
    assert {
        row["path"].split("/")[0] for row in read_rows(packed / "eval-1" / "predictions.csv")
    } == {"test"}


@pytest.mark.parametrize("archive", ["cifar-10 python"], indirect=True)
def test_their_images_count_as_files_until_one_is_gone(archive):
    index = scan_folder(archive)
    assert missing_paths(archive, index.images) == []
    (archive / "test_batch").unlink()
    assert len(missing_paths(archive, index.images)) == len(index.images)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "made",)

    write_pickle(tmp_path / "data_batch_1", {"data": Evil(), "labels": [1]})
    write_pickle(tmp_path / "test_batch", {"data": TEST[0], "labels": TEST[1]})
    write_pickle(tmp_path / "batches.meta", {"label_names": [b"a", b"b", b"c"]})
    with pytest.raises(DataError, match="no array of images"):
        open_cifar(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folder: (folder / "data_batch_2.bin").write_bytes(b"x" * 100), "100 bytes"),
        (lambda folder: (folder / "batches.meta.txt").write_text("one\ntwo"), "of 2 classes"),
    ],
    ids=["cut off", "too few names"],
)
def test_damaged_files_are_named(tmp_path, cli, change, found):
    for name, (pixels, labels) in (("data_batch_1", TRAIN[0]), ("test_batch", TEST)):
        column = np.array(labels, np.uint8)[:, None]
        (tmp_path / f"{name}.bin").write_bytes(np.hstack([column, pixels]).tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(NAMES))
    assert len(scan_folder(tmp_path).images) == 18
    shutil.copytree(tmp_path, tmp_path / "copy")
    change(tmp_path / "copy")
    done = cli("train", tmp_path / "copy", *SMALL_FLAGS)
    assert done.code == 1
    expected, said, _ = error_lines(done)
    assert "CIFAR-10 or CIFAR-100 as published" in expected
    assert found in said


def test_other_missing_files_stay_missing(tmp_path, archive):
    paths = [archive / one.path for one in scan_folder(archive).images]
    path = max(paths, key=lambda path: path.name)  # number -1, too
    assert read_packed(path)
    for name in ("-1.ppm", "-0001.ppm", "0.ppm", "00000.png", "99999.ppm"):
        assert read_packed(path.with_name(name)) is None
    assert read_packed(path.parents[1] / "nonsense" / path.name) is None
    assert read_packed(tmp_path / "train" / "cat" / "00001.ppm") is None
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert open_cifar(tmp_path) is None
