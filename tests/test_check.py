"""check: planted faults are found, clean data is called clean, and nothing is ever changed."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.util
import json
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_FLAGS, error_lines, write_dataset
from PIL import Image
from scipy.ndimage import gaussian_filter

from swinclf.commands import check as check_command
from swinclf.commands.check import check
from swinclf.data.folder import ImageFile, scan_folder
from swinclf.data.images import read_bytes
from swinclf.data.thread_pool import DEADLINE_VARIABLE
from swinclf.data_quality.check_page import write_page
from swinclf.data_quality.findings import (
    FindingKind,
    connected_components,
    find_class_faults,
    find_duplicates,
    find_image_faults,
    group_identical,
    suggest_fit,
)
from swinclf.data_quality.fingerprints import (
    CROPS,
    LENGTH,
    NEAREST,
    fingerprints,
    mirrored,
    search_fingerprints,
    small_grey,
)
from swinclf.data_quality.image_stats import median_side_px, read_image_stats
from swinclf.data_quality.near_duplicates import find_near_pairs
from swinclf.data_quality.registration import DETAIL_SIDE, CropWindow, detail_agreement
from swinclf.errors import DataError, RunError
from swinclf.preprocess import Fit
from swinclf.reporter import SILENT


def benchmark():
    path = Path(__file__).parent.parent / "benchmarks" / "audit.py"
    spec = importlib.util.spec_from_file_location("benchmark_audit", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def scene(seed, size=(160, 120)):
    """A picture with shapes and details of every size, as photographs have them."""
    rng = np.random.default_rng(seed)
    width, height = size
    layers = [
        gaussian_filter(rng.normal(size=(height, width, 3)), (blur, blur, 0)) * blur
        for blur in (1, 2, 4, 8, 16, 32)
    ]
    values = sum(layers)
    values = 128 + 50 * (values - values.mean()) / values.std()
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write_scenes(root, *, per_class, labels=("heath", "moor"), first=0):
    for row, label in enumerate(labels):
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = scene(first + 1000 * row + number)
            picture.save(root / label / f"{number:03d}.jpg", quality=92)
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two classes of thirty pictures, no two alike; to be copied, not changed."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "land", per_class=30)


@pytest.fixture
def land(scenes, tmp_path):
    return Path(shutil.copytree(scenes, tmp_path / "land"))


def kinds(audit):
    return {finding.kind for finding in audit.findings}


def finding(audit, kind):
    return next(one for one in audit.findings if one.kind is kind)


def paths_of(one):
    return [set(example.paths) for example in one.examples]


def state_of(root):
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest())
        for path in root.rglob("*")
        if path.is_file()
    }


# --- copies -------------------------------------------------------------------------------------


def test_planted_copies_are_found_and_no_others(land):
    tools = benchmark()
    planted = tools.plant_copies(land, exact=10, near=20, seed=3)
    found = tools.found_copies(check(land, workers=2), planted)
    assert found["exact_found"] == 10
    assert found["near_found"] >= 19
    assert found["pairs_besides"] == []


def test_different_pictures_are_no_copies(scenes):
    audit = check(scenes, workers=0)
    assert audit.near == ()
    assert audit.is_clean
    assert audit.findings == ()


def test_looks_alike_is_not_the_same(tmp_path):
    """The large shapes of one picture under the details of another."""
    root = write_scenes(tmp_path / "d", per_class=10)
    one, other = (np.asarray(scene(seed), dtype=float) for seed in (1, 500))
    details = other - gaussian_filter(other, (3, 3, 0))
    mixed = gaussian_filter(one, (3, 3, 0)) + details
    Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(root / "moor" / "mixed.png")
    assert check(root, workers=0).near == ()


def test_a_copy_in_grey_brighter_and_with_less_contrast_is_a_copy(land):
    grey = Image.open(land / "heath" / "004.jpg").convert("L").point(lambda value: 60 + value // 2)
    grey.save(land / "heath" / "grey.png")
    audit = check(land, workers=0)
    assert [set(one[:2]) for one in audit.near] == [{"heath/004.jpg", "heath/grey.png"}]
    assert audit.near[0][2] > 0.95


def test_a_mirror_image_is_a_copy(land):
    picture = Image.open(land / "moor" / "007.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.crop((3, 4, 155, 118)).save(land / "moor" / "mirrored.jpg", quality=80)
    audit = check(land, workers=1)
    assert [set(one[:2]) for one in audit.near] == [{"moor/007.jpg", "moor/mirrored.jpg"}]


def test_copies_under_two_labels_and_on_both_sides(tmp_path):
    root = tmp_path / "d"
    write_scenes(root / "train", per_class=10)
    write_scenes(root / "val", per_class=3, first=100)
    shutil.copy(root / "train" / "heath" / "000.jpg", root / "train" / "moor" / "copy.jpg")
    shutil.copy(root / "train" / "heath" / "001.jpg", root / "val" / "heath" / "copy.jpg")
    Image.open(root / "train" / "moor" / "002.jpg").resize((130, 100)).save(
        root / "val" / "heath" / "near.jpg"
    )
    audit = check(root, workers=1)
    near = {"train/moor/002.jpg", "val/heath/near.jpg"}
    leak = {"train/heath/001.jpg", "val/heath/copy.jpg"}
    twice = {"train/heath/000.jpg", "train/moor/copy.jpg"}
    assert paths_of(finding(audit, FindingKind.TWO_LABELS)) == [twice, near]
    assert finding(audit, FindingKind.TWO_LABELS).examples[0].note == "heath, moor"
    assert paths_of(finding(audit, FindingKind.LEAKS)) == [leak, near]
    assert paths_of(finding(audit, FindingKind.EXACT_DUPLICATES)) == [twice, leak]
    assert paths_of(finding(audit, FindingKind.NEAR_DUPLICATES)) == [near]
    assert all(one.needs_fix for one in audit.findings)


def test_a_copy_of_a_copy_is_in_one_group(land):
    picture = Image.open(land / "moor" / "005.jpg")
    for quality in (60, 75):
        picture.save(land / "moor" / f"q{quality}.jpg", quality=quality)
    shutil.copy(land / "moor" / "q60.jpg", land / "heath" / "q60.jpg")
    group = {"moor/005.jpg", "moor/q60.jpg", "moor/q75.jpg", "heath/q60.jpg"}
    assert paths_of(finding(check(land, workers=2), FindingKind.NEAR_DUPLICATES)) == [group]


def test_copies_do_not_depend_on_threads(land):
    benchmark().plant_copies(land, exact=3, near=6, seed=9)
    assert check(land, workers=0).to_dict() == check(land, workers=3).to_dict()


@pytest.mark.parametrize("option", ["output", "page"])
def test_a_file_that_cannot_be_written_is_an_error_before_any_work(tmp_path, monkeypatch, option):
    monkeypatch.setattr(check_command, "scan_folder", lambda *_, **__: pytest.fail("scanned"))
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(RunError) as caught:
        check(tmp_path / "data", **{option: tmp_path / "file" / "found"})
    assert caught.value.expected == f"to write found into '{tmp_path / 'file'}'"


def test_groups():
    assert connected_components([]) == []
    assert connected_components([(5, 3), (1, 2), (3, 9)]) == [[1, 2], [3, 5, 9]]
    assert group_identical([b"a", b"", b"b", b"a", b""]) == [[0, 3]]


def test_details_agree_after_a_crop_and_a_change_of_light_and_not_by_chance():
    picture = scene(7, (256, 256)).convert("RGB")
    cropped = picture.crop((12, 6, 240, 250)).point(lambda value: 20 + int(0.7 * value))
    one, other, stranger = (
        small_grey(each, DETAIL_SIDE) for each in (picture, cropped, scene(8, (256, 256)))
    )
    assert detail_agreement(one, one) == pytest.approx(1)
    assert detail_agreement(one, other, CropWindow(0.92)) > 0.9
    assert detail_agreement(other, one) > 0.9
    assert abs(detail_agreement(one, stranger)) < 0.6
    assert detail_agreement(np.zeros_like(one), one) == 0.0


def test_fingerprints_have_norm_one_and_the_whole_of_a_crop_is_near_the_middle_of_the_whole():
    grey = small_grey(scene(3, (256, 256)))
    prints = fingerprints(grey)
    assert prints.shape == (len(CROPS), LENGTH)
    assert np.linalg.norm(prints, axis=1) == pytest.approx(np.ones(len(CROPS)), abs=1e-5)
    assert np.abs(fingerprints(np.full_like(grey, 17.0))).max() < 1e-3
    assert mirrored(prints) == pytest.approx(fingerprints(grey[:, ::-1]), abs=1e-4)
    middle = scene(3, (256, 256)).crop((15, 15, 241, 241))
    whole = fingerprints(small_grey(middle))[0]
    distances = np.linalg.norm(prints - whole, axis=1)
    assert distances.argmin() == CROPS.index(0.88)
    assert distances.min() < 0.1


def unit(values):
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def test_the_search_finds_what_comparing_all_finds():
    rng = np.random.default_rng(4)
    prints = unit(rng.normal(size=(600, len(CROPS), LENGTH)) / np.arange(1, LENGTH + 1))
    for row in range(0, 60, 2):  # the whole of the second is near one of the crops of the first
        noise = 0.02 * rng.normal(size=LENGTH)
        prints[row + 1, 0] = unit(prints[row, row % len(CROPS)] + noise)
    distances = np.linalg.norm(prints[:, :, None] - prints[None, None, :, 0], axis=-1).min(axis=1)
    distances[np.diag_indices(600)] = 9
    wanted = {(min(pair), max(pair)) for pair in np.argwhere(distances < 0.2).tolist()}
    assert len(wanted) >= 30
    found = search_fingerprints(prints, 0.2)
    both = np.stack([found.first, found.second], axis=1)
    pairs = {(min(pair), max(pair)) for pair in both.tolist()}
    assert pairs == wanted
    assert len(found.first) == len(wanted)
    for first, second, crop, distance in zip(*found, strict=True):
        own = np.linalg.norm(prints[first, crop] - prints[second, 0])
        assert own == pytest.approx(distance, abs=1e-5)


def test_the_search_is_bounded_where_all_are_alike():
    rng = np.random.default_rng(5)
    prints = unit(np.ones((2000, len(CROPS), LENGTH)) + 0.01 * rng.normal(size=LENGTH))
    found = search_fingerprints(prints, 0.25)
    assert 2000 <= len(found.first) <= NEAREST * 2000
    assert len(search_fingerprints(prints[:1], 0.25).first) == 0


def test_a_file_that_goes_between_the_passes_is_in_no_pair(land):
    Image.open(land / "moor" / "005.jpg").save(land / "moor" / "again.jpg", quality=70)
    index = scan_folder(land)
    facts = read_image_stats(index.root, index.images, workers=0, report=SILENT)
    assert len(find_near_pairs(index.root, facts, workers=0, report=SILENT)) == 1
    (land / "moor" / "again.jpg").unlink()
    assert find_near_pairs(index.root, facts, workers=0, report=SILENT) == []


@pytest.fixture
def silent_disk(monkeypatch):
    """A function after which reads take much longer than their deadline."""
    ended = threading.Event()

    def read(path):
        ended.wait(20)
        return read_bytes(path)

    def silence():
        monkeypatch.setenv(DEADLINE_VARIABLE, "0.2")
        monkeypatch.setattr("swinclf.data.images.read_bytes", read)

    yield silence
    ended.set()


def test_a_read_that_never_ends_stops_no_check(land, tmp_path, silent_disk):
    Image.open(land / "moor" / "005.jpg").save(land / "moor" / "again.jpg", quality=70)
    index = scan_folder(land)
    facts = read_image_stats(index.root, index.images, workers=0, report=SILENT)
    silent_disk()
    assert find_near_pairs(index.root, facts, workers=0, report=SILENT) == []
    (finding,) = find_image_faults(index.images[:1], facts.sizes[:1], np.array([6]), np.array([0]))
    options = {"images": 1, "classes": 1, "fit": "", "findings": [finding], "workers": 0}
    write_page(tmp_path / "page.html", root=land, **options)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert index.images[0].path.rpartition("/")[2] in page
    assert "data:image/jpeg" not in page


def test_the_median_is_of_images_from_all_of_a_list(tmp_path):
    paths = [tmp_path / f"{number:02}.png" for number in range(60)]
    for number, path in enumerate(paths):
        Image.new("L", (8, 8) if number < 30 else (24, 24)).save(path)
    assert median_side_px(paths) == 16


def test_a_disk_that_is_gone_ends_the_median(land, silent_disk):
    silent_disk()
    with pytest.raises(DataError, match="3 consecutive times"):
        median_side_px(sorted(land.rglob("*.jpg")))


# --- the other findings -------------------------------------------------------------------------


def test_unreadable_empty_odd_and_rotated(land):
    (land / "heath" / "cut.jpg").write_bytes((land / "heath" / "001.jpg").read_bytes()[:2000])
    (land / "heath" / "no.png").touch()
    (land / "heath" / "notes.txt").touch()
    (land / "moor" / "gone.jpg").symlink_to(land / "nowhere.jpg")
    Image.new("RGB", (90, 70), (251, 250, 249)).save(land / "moor" / "white.png")
    exif = Image.Exif()
    exif[0x112] = 6
    scene(71, (300, 100)).save(land / "moor" / "lying.jpg", exif=exif)
    scene(72, (24, 24)).save(land / "moor" / "small.png")
    audit = check(land, workers=2)
    unreadable = finding(audit, FindingKind.UNREADABLE)
    assert {one.paths[0]: bool(one.note) for one in unreadable.examples} == {
        "heath/cut.jpg": True,
        "heath/no.png": True,
        "moor/gone.jpg": True,
    }
    assert paths_of(finding(audit, FindingKind.NEAR_EMPTY)) == [{"moor/white.png"}]
    rotated = finding(audit, FindingKind.ROTATED)
    assert (paths_of(rotated), rotated.needs_fix) == ([{"moor/lying.jpg"}], False)
    odd = [
        (one.paths[0], one.note, "--fit" in found.advice)
        for found in audit.findings
        if found.kind is FindingKind.ODD_SIZES
        for one in found.examples
    ]
    assert odd == [
        ("moor/lying.jpg", "100 x 300 px", True),
        ("moor/small.png", "24 x 24 px", False),
    ]
    assert finding(audit, FindingKind.LAYOUT).message == "ignored, not images: 1 .txt"
    assert kinds(audit) == {
        FindingKind.UNREADABLE,
        FindingKind.NEAR_EMPTY,
        FindingKind.ROTATED,
        FindingKind.ODD_SIZES,
        FindingKind.LAYOUT,
    }
    assert len(audit.images) == 63


def images(**counts):
    return [
        ImageFile(f"{name}/{number}.jpg", *name.partition("_")[::2])
        for name, count in counts.items()
        for number in range(count)
    ]


def test_class_faults():
    found = {one.kind: one for one in find_class_faults(images(a_train=200, b_train=20, c_train=9))}
    assert found.keys() == {FindingKind.TINY_CLASSES, FindingKind.IMBALANCE}
    assert [one.note for one in found[FindingKind.TINY_CLASSES].examples] == ["9 images of c"]
    assert "22 times" in found[FindingKind.IMBALANCE].message
    assert not found[FindingKind.IMBALANCE].needs_fix
    assert list(find_class_faults(images(a=99, b=10))) == []


def test_class_sets_that_differ():
    split = images(a_train=20, b_train=20, a_val=4, c_val=4, a_test=2, b_test=2)
    (one,) = find_class_faults(split)
    assert one.kind is FindingKind.CLASS_SETS
    assert [example.note for example in one.examples] == [
        "val lacks b",
        "val has c, which train lacks",
    ]
    assert one.message == "2 classes not in every split"


def test_a_class_that_several_splits_lack_is_counted_once():
    (one,) = find_class_faults(images(a_train=20, b_train=20, a_val=4, a_test=2))
    assert [example.note for example in one.examples] == ["test lacks b", "val lacks b"]
    assert one.message == "1 class not in every split"


def test_copies_by_digest_alone():
    files = images(a_train=2, b_train=1, a_val=1)
    found = {one.kind: one.count for one in find_duplicates(files, [[0, 2], [1, 3]])}
    assert found == {
        FindingKind.TWO_LABELS: 1,
        FindingKind.LEAKS: 1,
        FindingKind.EXACT_DUPLICATES: 2,
    }


@pytest.mark.parametrize(
    ("sizes", "fit"),
    [
        ([(400, 300)] * 9 + [(1600, 400)], Fit.CROP),
        ([(1920, 1080)] * 10, Fit.SQUASH),
        ([(1920, 1080)] * 5 + [(400, 900)] * 5, Fit.PAD),
        ([(300, 300)] * 8 + [(900, 300)] * 2, Fit.PAD),
    ],
)
def test_the_fit_that_is_suggested(sizes, fit):
    assert suggest_fit(np.array(sizes))[0] is fit


# --- the command and its files ------------------------------------------------------------------


def test_command_table_json_and_exit_code(cli, land, tmp_path):
    clean = cli("check", land)
    assert clean.code == 0
    assert clean.out == "60 images in 2 classes\n\nnothing to fix\n"
    shutil.copy(land / "heath" / "000.jpg", land / "moor" / "x\x1b[31m.jpg")
    before = state_of(land)
    done = cli("check", land, "--output", tmp_path / "new" / "c.json", "--page", "c.html")
    assert done.code == 3
    assert "FIX   1 image under two or more labels" in done.out
    assert "heath/000.jpg  =  moor/x\\x1b[31m.jpg  (heath, moor)" in done.out
    assert "saved to" in done.err
    told = json.loads(cli("check", land, "--format", "json").out)
    assert told == json.loads((tmp_path / "new" / "c.json").read_text("utf-8"))
    assert told["clean"] is False
    assert told["classes"] == {"heath": 30, "moor": 31}
    assert [one["kind"] for one in told["findings"]] == ["two_labels", "exact_duplicates"]
    assert told["findings"][0]["examples"][0]["paths"] == ["heath/000.jpg", "moor/x\x1b[31m.jpg"]
    assert state_of(land) == before


@pytest.mark.parametrize("option", ["--output", "--page"])
def test_nothing_is_written_into_the_dataset(cli, dataset, option):
    before = state_of(dataset)
    done = cli("check", dataset, option, dataset / "red" / "found.txt")
    assert done.code == 2
    assert "nothing is ever written into a dataset" in error_lines(done)[0]
    assert state_of(dataset) == before


def test_the_page_is_one_safe_file(tmp_path):
    root = write_scenes(tmp_path / "d", per_class=12, labels=("heath", "<script>alert(1)<"))
    odd = root / "<script>alert(1)<" / "“><img src=x onerror=alert(2)> \u202e🌹.jpg"
    shutil.copy(root / "heath" / "000.jpg", odd)
    for number in range(40):
        (root / "heath" / f"broken{number}.jpg").write_bytes(b"no")
    check(root, page=tmp_path / "page.html", workers=2)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.count("<script") == 0
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert "\\u202e🌹.jpg" in text
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    assert policy in html.unescape(text)
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/jpeg;base64,") == 2  # the pair, once: under two labels
    assert "1 of them is shown above" in text
    assert str(tmp_path) not in text
    assert text.count("broken") == 24
    assert "And 16 more" in text
    assert "color-scheme: light dark" in text


def test_the_page_lists_the_copies_to_delete(tmp_path):
    root = write_scenes(tmp_path / "d", per_class=12)
    for number in (1, 2):
        shutil.copy(root / "heath" / "000.jpg", root / "heath" / f"copy{number}.jpg")
    shutil.copy(root / "heath" / "003.jpg", root / "moor" / "other.jpg")  # which label is right?
    check(root, page=tmp_path / "page.html", workers=2)
    text = (tmp_path / "page.html").read_text("utf-8")
    listed = re.findall("<pre>(.*?)</pre>", text, re.DOTALL)
    assert [re.findall(">([^<]+)</bdi>", one) for one in listed] == [
        ["heath/copy1.jpg", "heath/copy2.jpg"]
    ]


def test_the_page_of_clean_data_says_so(dataset, tmp_path):
    assert check(dataset, page=tmp_path / "page.html", workers=0).is_clean
    assert "Nothing to fix" in (tmp_path / "page.html").read_text("utf-8")


def test_a_val_folder_of_its_own(tmp_path):
    data = write_dataset(tmp_path / "d", per_class=10)
    held = write_dataset(tmp_path / "held", per_class=1)  # the same pictures again
    audit = check(data, val=held, workers=0)
    assert finding(audit, FindingKind.LEAKS).count == 3
    assert finding(audit, FindingKind.LEAKS).examples[0].note == "train, val"
    assert finding(audit, FindingKind.LEAKS).examples[0].paths[0] == "../held/blue/000.png"


# --- the quick form, before a training ----------------------------------------------------------


def test_training_says_what_reading_the_files_has_shown(cli, dataset):
    shutil.copy(dataset / "red" / "000.png", dataset / "blue" / "zz.png")
    for number in range(3, 12):
        (dataset / "green" / f"{number:03d}.png").unlink()
    done = cli("train", dataset, *SMALL_FLAGS)
    assert done.code == 0
    assert (
        "warning: 1 image under two or more labels, e.g. blue/zz.png = red/000.png: decide"
    ) in done.err
    assert "1 class of fewer than 10 images to train on, e.g. 3 images of green: add" in done.err
    assert f"near-duplicates: swinclf check {dataset}" in done.err


def test_training_says_nothing_of_clean_data(cli, dataset):
    assert "swinclf check" not in cli("train", dataset, *SMALL_FLAGS).err


def test_a_single_class_is_no_dataset_to_train_on(cli, tmp_path):
    colours = {"red": (200, 50, 40)}
    data = write_dataset(tmp_path / "one", per_class=12, colours=colours)
    done = cli("check", data)
    assert done.code == 3
    assert done.out.startswith("12 images in 1 class\n")
    assert "one class only, and training needs two" in done.out
    assert cli("train", data).code == 1
