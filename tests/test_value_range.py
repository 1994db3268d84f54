"""The values a dataset uses: measured once, reported, stored with the model, applied everywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from conftest import SMALL_SETTINGS, resume_run, same_weights, stop_after, weights_of
from PIL import Image
from safetensors import safe_open
from torch import nn

import swinclf
from swinclf.commands.check import check
from swinclf.data.folder import scan_folder
from swinclf.data.images import content_digest, decode_image, measure_values
from swinclf.data.split import SplitRule
from swinclf.data.value_range import describe_range, measure_ranges, merge_ranges
from swinclf.device import Hardware, Precision, StopFlag
from swinclf.errors import Interrupted
from swinclf.inference.stream import _load
from swinclf.pipeline.measured_preprocess import resolve_ranges
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import ExtractionOptions, StartingModel
from swinclf.preprocess import Fit, Interpolation, Preprocess, ValueRange, parse_ranges
from swinclf.reporter import SILENT
from swinclf.training.defaults import Regime

PREPROCESS = Preprocess(
    height=32,
    width=32,
    interpolation=Interpolation.BICUBIC,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    crop_pct=1.0,
    fit=Fit.CROP,
)
TWELVE = (ValueRange("uint16", 0.0, 4095.0),)


# The rule


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("uint16", 3, 4000, (0, 4095)),
        ("uint16", 0, 1023, (0, 1023)),
        ("uint16", 900, 1024, (0, 2047)),
        ("uint16", 0, 200, (0, 255)),
        ("uint16", 0, 60_000, None),  # the whole type: nothing to say
        ("uint16", 0, 0, None),
        ("uint32", 5, 70_000, (0, 131_071)),
        ("int32", 0, 250, (0, 255)),
        ("int16", -1024, 3071, (-1024, 3071)),
        ("int16", 0, 30_000, (0, 32_767)),
        ("int32", 0, 0, None),
        ("float32", 0.01, 0.98, (0, 1)),
        ("float32", 0.0, 0.2, (0.0, 0.2)),
        ("float32", 0.0, 255.0, (0.0, 255.0)),
        ("float64", -3.5, 12.25, (-3.5, 12.25)),
        ("float32", 7.0, 7.0, None),
        ("float32", float("inf"), float("-inf"), None),
    ],
)
def test_the_rule(kind, low, high, expected):
    found = merge_ranges([ValueRange(kind, low, high)])
    assert found == (() if expected is None else (ValueRange(kind, *map(float, expected)),))


def test_images_are_merged_by_type():
    measured = [
        ValueRange("uint16", 10, 900),
        ValueRange("float32", -1.0, 2.0),
        ValueRange("uint16", 500, 3000),
        ValueRange("float32", 0.0, 5.0),
    ]
    expected = (ValueRange("float32", -1.0, 5.0), ValueRange("uint16", 0.0, 4095.0))
    assert merge_ranges(measured) == merge_ranges(measured[::-1]) == expected


def test_a_range_in_words():
    assert describe_range(TWELVE[0]) == (
        "16-bit images use 0 to 4,095 of 65,535: scaled by that range"
    )
    assert describe_range(ValueRange("int16", -1024, 3071)) == (
        "int16 images use -1,024 to 3,071: scaled by that range"
    )
    assert describe_range(ValueRange("float32", 0.25, 1e6)) == (
        "float32 images use 0.25 to 1e+06: scaled by that range"
    )


def test_ranges_travel_as_json_and_may_be_absent():
    ranges = (*TWELVE, ValueRange("int16", -5.0, 7.0))
    with_them = replace(PREPROCESS, ranges=ranges)
    stored = json.loads(json.dumps(with_them.to_dict()))
    assert stored["ranges"] == {"uint16": [0.0, 4095.0], "int16": [-5.0, 7.0]}
    assert Preprocess.from_dict(stored) == with_them
    assert "ranges" not in PREPROCESS.to_dict()
    assert Preprocess.from_dict(PREPROCESS.to_dict()) == PREPROCESS
    for bad in ({"uint16": [5, 5]}, {"uint16": [0, float("nan")]}, {"float32": [0, float("inf")]}):
        with pytest.raises(ValueError, match="value range"):
            parse_ranges(bad)


# One image


def written(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, metadata=None, **options)
    else:
        Image.fromarray(values).save(path)
    return path


GREY = np.add.outer(np.arange(24) * 4, np.arange(40) * 3).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_brightness_is_that_of_the_dataset_and_not_of_the_image(tmp_path, ending):
    for scale in (1.0, 0.5, 0.1):
        values = np.round(GREY * scale * 4095 / 255).astype(np.uint16)
        data = written(tmp_path / f"{scale}.{ending}", values).read_bytes()
        pixels = np.asarray(decode_image(data, ranges=TWELVE))[..., 0]
        assert np.array_equal(pixels, np.round(values * (255 / 4095)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["int16", "int32", "uint32", "float32", "float64"])
def test_every_type_is_scaled_by_its_range(tmp_path, kind):
    values = (GREY.astype(np.int64) * 10).astype(kind)
    data = written(tmp_path / "a.tif", values).read_bytes()
    ranges = (ValueRange(kind, 500.0, 1500.0), *TWELVE)
    expected = np.round((GREY * 10.0).clip(500, 1500) * 0.255 - 127.5)
    found = np.asarray(decode_image(data, ranges=ranges))[..., 0].astype(int)
    assert np.abs(found - expected).max() <= 1


def colours_of(data, **options):
    return np.asarray(decode_image(data, **options)).astype(int)


def test_colours_of_12_bits_in_16(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (24, 40, 4)).astype(np.uint16)
    alpha = np.full((24, 40, 1), 65535, np.uint16)
    expected = np.round(values[..., :3] * (255 / 4095))
    opaque = np.concatenate([values[..., :3], alpha], axis=-1)
    for name, pixels, options in (
        ("rgb", values[..., :3], {"photometric": "rgb"}),
        ("rgba", opaque, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    ):
        data = written(tmp_path / f"{name}.tif", pixels, **options).read_bytes()
        assert np.array_equal(colours_of(data, ranges=TWELVE), expected), name
        assert measure_values(data).high == values[..., :3].max()
        data = png_of(pixels)
        assert np.array_equal(colours_of(data, ranges=TWELVE), expected), name
        assert measure_values(data).high == values[..., :3].max()
    data = b"P6 # a comment\n40 24\n65535\n" + values[..., :3].astype(">u2").tobytes()
    assert np.array_equal(colours_of(data, ranges=TWELVE), expected)


def png_of(values, *, transparent=None):
    """A PNG of 16 bits, written by hand: grey, grey with alpha, colours, colours with alpha."""
    import struct
    import zlib

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if transparent is not None:
        parts.append(chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels):
    values = np.random.default_rng(0).integers(0, 65536, (9, 11, channels)).astype(np.uint16)
    eight = np.round(values / 257)
    expected = np.repeat(eight[..., :1], 3, axis=-1) if channels < 3 else eight[..., :3]
    if channels in (2, 4):
        alpha = values[..., -1:] / 65535
        expected = expected * alpha + 255 * (1 - alpha)
    assert np.abs(colours_of(png_of(values)) - expected).max() <= (channels in (2, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits(channels):
    values = np.random.default_rng(0).integers(0, 60_000, (9, 11, channels)).astype(np.uint16)
    values[2, 3] = values[4, 5] = 60_123
    values[6, 7] = 60_122  # the same upper eight bits
    pixels = colours_of(png_of(values, transparent=[60_123] * channels))
    assert pixels[2, 3].tolist() == pixels[4, 5].tolist() == [255, 255, 255]
    assert pixels[6, 7].tolist() == [234, 234, 234]


def test_8_bits_are_never_scaled(tmp_path):
    for name, values in (("a.png", GREY), ("a.tif", GREY), ("b.png", np.stack([GREY] * 3, -1))):
        data = written(tmp_path / name, values).read_bytes()
        assert measure_values(data) is None
        assert np.array_equal(colours_of(data, ranges=TWELVE), colours_of(data))


@pytest.mark.parametrize("most", [1023, 4095, 65535])
def test_a_range_in_the_file_comes_first(most):
    values = np.round(GREY * (most / 255.0)).astype(">u2")
    data = b"P5\n40 24\n%d\n" % most + values.tobytes()
    if most == 65535:
        assert measure_values(data).high == values.max()
        return
    assert measure_values(data) is None
    assert np.array_equal(colours_of(data, ranges=TWELVE)[..., 0], GREY)


def test_pillow_images_in_memory_are_scaled_as_files(tmp_path):
    values = np.round(GREY * (4095 / 255)).astype(np.uint16)
    path = written(tmp_path / "a.tif", values)
    preprocess = replace(PREPROCESS, ranges=TWELVE)
    wanted = _load(path, preprocess, resize=True).pixels
    assert wanted.max() > 150
    for picture in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        assert np.array_equal(_load(picture, preprocess, resize=True).pixels, wanted)


def test_no_data_is_black_and_no_extreme(tmp_path):
    values = GREY.astype(np.float32) + 100
    values[0, 0], values[0, 1], values[0, 2] = np.nan, -3.4e38, np.inf
    values.view(np.uint32)[0, 3] = 0x7F800001  # a signalling nan
    data = written(tmp_path / "a.tif", values).read_bytes()
    found = measure_values(data)
    assert (found.low, found.high) == (104.0, 100.0 + int(GREY.max()))
    pixels = colours_of(data, ranges=(found,))[..., 0]
    assert pixels[0, :4].tolist() == [0, 0, 255, 0]


# A dataset


def test_held_out_and_unreadable_images_are_not_measured(tmp_path):
    files = [
        written(tmp_path / f"{n}.png", np.full((4, 4), 100 * n + n, np.uint16)) for n in range(1, 9)
    ]
    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:60])
    (tmp_path / "none.tif").write_bytes(b"II*\0")
    others = [tmp_path / "broken.png", tmp_path / "none.tif", tmp_path / "gone.png"]
    small = {file.read_bytes() for file in files[:5]}
    for workers in (0, 2):
        assert measure_ranges([*others, *files], workers=workers) == (
            ValueRange("uint16", 0.0, 1023.0),
        )
        assert measure_ranges(files, workers=workers, takes=small.__contains__) == (
            ValueRange("uint16", 0.0, 511.0),
        )


def test_a_sample_is_enough_and_always_the_same(tmp_path, monkeypatch):
    files = [written(tmp_path / f"{n:03}.png", GREY) for n in range(30)]
    files += [written(tmp_path / f"{n:03}.png", GREY.astype(np.uint16) + n) for n in range(30, 90)]
    monkeypatch.setattr("swinclf.data.value_range.MOST_IMAGES", 5)
    read = []

    def measure(data):
        read.append(data)
        return measure_values(data)

    monkeypatch.setattr("swinclf.data.value_range.measure_values", measure)
    first = measure_ranges(files, workers=0)
    assert first == measure_ranges(files, workers=0) == (ValueRange("uint16", 0.0, 511.0),)
    assert len(read) == 10
    assert read[:5] == read[5:]


def grey_images(count, seed):
    """Of four classes: waves along, across, both, none."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    for number in range(count):
        label = number % 3
        wave = np.cos((x * (label != 1) + y * (label != 0)) * 0.9 + rng.uniform(0, 6))
        yield label, np.clip(120 + 90 * wave + rng.normal(0, 6, (32, 32)), 0, 255).astype(np.uint8)


FORMS = {
    "uint16": (lambda grey: np.round(grey * (4095 / 255)).astype(np.uint16), "tif"),
    "int16": (lambda grey: grey.astype(np.int16) * 10 - 1000, "tif"),
    "float32": (lambda grey: grey.astype(np.float32), "tif"),
    "int32": (lambda grey: grey.astype(np.int32), "tif"),
}


def write_grey(root, form="uint8", count=24, seed=0):
    make, ending = FORMS.get(form, (lambda grey: grey, "png"))
    for number, (label, grey) in enumerate(grey_images(count, seed)):
        grey[0, 0], grey[0, 1] = 0, 255  # every image has black and white
        written(root / str(label) / f"{number:03}.{ending}", make(grey))
    return root


class Notes:
    """A reporter that keeps what is said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    warn = note

    def __getattr__(self, name):
        return getattr(SILENT, name)


def preprocessing_of(file):
    with safe_open(file, framework="np") as opened:
        return json.loads(opened.metadata()["preprocessing"])


OPTIONS = {**SMALL_SETTINGS, "freeze_layers": True}


def test_a_model_of_12_bits_answers_as_its_8_bit_twin(tmp_path, monkeypatch):
    notes = Notes()
    runs = {}
    for form in ("uint8", "uint16"):
        for split, seed in (("train", 0), ("val", 1)):  # so that both hold out the same images
            write_grey(tmp_path / form / split, form, seed=seed)
        settings = {**OPTIONS, "out": str(tmp_path / "runs"), "name": form}
        runs[form] = swinclf.train(tmp_path / form, **settings, report=notes).folder.path
    said = "16-bit images use 0 to 4,095 of 65,535: scaled by that range"
    assert notes.said.count(said) == 1
    assert same_weights(weights_of(runs["uint8"]), weights_of(runs["uint16"]))
    assert "ranges" not in preprocessing_of(runs["uint8"] / "model.safetensors")
    alone = tmp_path / "alone.safetensors"
    (runs["uint16"] / "model.safetensors").rename(alone)
    assert preprocessing_of(alone)["ranges"] == {"uint16": [0.0, 4095.0]}
    files = sorted((tmp_path / "uint16").rglob("*.tif"))[:6]
    twins = sorted((tmp_path / "uint8").rglob("*.png"))[:6]
    monkeypatch.chdir(tmp_path)
    found = [one.top for one in swinclf.load(alone).predict(files)]
    assert found == [one.top for one in swinclf.load(alone).predict(twins)]
    assert found == [one.top for one in swinclf.load(runs["uint8"]).predict(twins)]


def test_a_resumed_run_has_the_ranges_that_it_began_with(tmp_path, monkeypatch):
    data = write_grey(tmp_path / "d", "uint16")
    settings = {**OPTIONS, "out": str(tmp_path / "runs")}
    whole = swinclf.train(data, **settings, name="whole").folder.path
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Interrupted):
            swinclf.train(data, **settings, name="half")
    monkeypatch.setattr("swinclf.pipeline.measured_preprocess.measure_ranges", lambda *_, **__: ())
    half = resume_run(tmp_path / "runs" / "half")
    assert preprocessing_of(half / "model.safetensors")["ranges"] == {"uint16": [0.0, 4095.0]}
    assert same_weights(weights_of(whole), weights_of(half))


def settled(data, notes, *, saved=None, seed=0):
    """The value ranges of a training on a folder."""
    options = ExtractionOptions("", 0, False, SplitRule(0.2, seed=seed), False, 0)
    start = StartingModel(nn.Identity(), PREPROCESS, Regime.HEAD, True, True, "", options)
    context = Context(Hardware("cpu", Precision.FP32, ""), notes, StopFlag())
    return resolve_ranges(scan_folder(data), start, context, saved).preprocess.ranges


def test_only_training_images_are_measured(tmp_path):
    data, bright = write_grey(tmp_path / "d", "uint16", count=9), 0
    for number in range(20):
        path = written(
            tmp_path / "d" / "0" / f"bright{number}.tif",
            np.full((4, 4), 60_000 + number, np.uint16),
        )
        if SplitRule(0.2).position(content_digest(path.read_bytes())) >= 0.2:
            path.unlink()
        else:
            bright += 1
    assert bright
    notes = Notes()
    assert settled(data, notes) == TWELVE
    assert notes.said == [describe_range(TWELVE[0])]
    assert settled(data, notes, seed=1) == ()  # they are trained on now, and use the whole type


def test_folders_that_are_held_out_are_not_measured(tmp_path):
    for split, values in (("train", 3900), ("val", 60_000), ("test", 50_000)):
        for label in "ab":
            pixels = np.full((4, 4), values + ord(label), np.uint16)
            written(tmp_path / "d" / split / label / "one.tif", pixels)
    assert settled(tmp_path / "d", Notes()) == TWELVE


def test_a_run_has_its_own_ranges(tmp_path):
    data = write_grey(tmp_path / "d", "uint16", count=6)
    saved = {"uint16": [0.0, 1023.0]}
    assert settled(data, Notes(), saved=saved) == (ValueRange("uint16", 0.0, 1023.0),)
    assert settled(data, Notes(), saved={}) == ()  # begun before there were any


@pytest.mark.parametrize("form", ["uint16", "int16", "float32", "int32"])
def test_check_reports_the_range_and_not_that_all_is_black(tmp_path, form):
    data = write_grey(tmp_path / "d", form, count=9)
    notes = Notes()
    page = tmp_path / "page.html" if form == "uint16" else None
    audit = check(data, workers=0, report=notes, page=page)
    kinds = {str(finding.kind) for finding in audit.findings}
    assert "near_empty" not in kinds
    expected = {
        "uint16": [0.0, 4095.0],
        "int16": [-1000.0, 1550.0],
        "float32": [0.0, 255.0],
        "int32": [0.0, 255.0],
    }[form]
    assert audit.to_dict()["value_ranges"] == {form: expected}
    assert any("scaled by that range" in one for one in notes.said)


def test_check_does_not_advise_to_delete_a_dataset_that_is_dark(tmp_path):
    for number in range(8):
        dark = np.random.default_rng(number).integers(0, 3, (32, 32)).astype(np.uint8)
        written(tmp_path / "d" / "ab"[number % 2] / f"{number}.png", dark)
    audit = check(tmp_path / "d", workers=0)
    found = next(one for one in audit.findings if one.kind == "near_empty")
    assert found.count == 8
    assert found.advice.startswith("delete none of them yet")
