"""A folder as people have them, end to end: what is read, what is said, what is left alone."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, SMALL_FLAGS, SMALL_MODEL, Outcome, write_dataset, write_image
from PIL import Image

from swinclf.errors import ExitCode
from swinclf.files import read_csv

SIZE = (48, 40)
NOT_UTF8 = os.fsdecode(b"caf\xe9 \xff.png")


def noisy(colour, seed):
    noise = np.random.default_rng(seed).normal(0, 30, (SIZE[1], SIZE[0], 3))
    return Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype(np.uint8))


def write_odd_pictures(root: Path) -> set[str]:
    """Pictures of every kind that can be read; returns their paths."""
    blue, green, red = (COLOURS[name] for name in ("blue", "green", "red"))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.asarray(noisy(blue, 1).convert("L"))
    palette = noisy(red, 2).quantize(32)
    pictures = {
        "blue/grey.jpg": (noisy(blue, 3).convert("L"), {}),
        "blue/16 bits.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "blue/rotated.JPG": (noisy(blue, 4), {"exif": exif}),
        "blue/line\nfeed.png": (noisy(blue, 5), {}),
        "blue/=1+1.png": (noisy(blue, 6), {}),
        "green/cmyk.jpeg": (noisy(green, 7).convert("CMYK"), {}),
        "green/moving.gif": (
            noisy(green, 8),
            {"save_all": True, "append_images": [noisy(red, 9), noisy(blue, 10)]},
        ),
        "green/moving.webp": (noisy(green, 11), {"save_all": True, "append_images": [palette]}),
        "green/with alpha.png": (noisy(green, 12).convert("RGBA"), {}),
        "green/🌹.TIFF": (noisy(green, 13), {}),
        "red/palette, transparent.png": (palette, {"transparency": 3}),
        "red/صورة وردة.png": (noisy(red, 14), {}),
        f"red/{NOT_UTF8}": (noisy(red, 15), {}),
        "red/deep/er/one.bmp": (noisy(red, 16), {}),
        "red/really a png.jpg": (noisy(red, 17), {"format": "PNG"}),
        "blue/carriage\rreturn.png": (noisy(blue, 18), {}),
    }
    for name, (picture, options) in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name, **options)
    return set(pictures)


def write_links(root: Path, outside: Path) -> set[str]:
    """Links out of the folder, to a file and to a folder; returns the paths of the images."""
    write_image(outside / "elsewhere.png", COLOURS["green"], seed=21)
    write_image(outside / "more" / "one.png", COLOURS["green"], seed=22)
    (root / "green" / "outside.png").symlink_to(outside / "elsewhere.png")
    (root / "green" / "more").symlink_to(outside / "more")
    return {"green/outside.png", "green/more/one.png"}


def write_bad_files(root: Path) -> dict[str, str]:
    """Files named like pictures that are none; returns the beginning of the reason for each."""
    photo = root / "red" / "000.png"
    whole = root / "whole.jpeg.tmp"
    noisy(COLOURS["red"], 20).save(whole, "JPEG")
    broken = {
        "red/text.jpg": (b"I am a text, not a picture.\n", "not an image"),
        "red/truncated.jpg": (whole.read_bytes()[:-400], "image file is truncated"),
        "blue/truncated.png": (photo.read_bytes()[:-900], ""),
        "blue/empty.png": (b"", "the file is empty"),
        "blue/zeros.png": (bytes(4000), "not an image (only zeros)"),
        "green/two\nlines.jpg": (b"no", "not an image"),
        f"green/{os.fsdecode(bytes([0xFE]))}.jpg": (b"no", "not an image"),
    }
    whole.unlink()
    for name, (data, _) in broken.items():
        (root / name).write_bytes(data)
    (root / "green" / "gone.png").symlink_to("nowhere.png")
    (root / "green" / "up").symlink_to("..")
    os.mkfifo(root / "green" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "green" / "socket.png"))
    return {name: reason for name, (_, reason) in broken.items()} | {
        "green/gone.png": "a link to nothing",
        "green/up": "a link to a folder that holds it",
        "green/pipe.png": "not a regular file",
        "green/socket.png": "not a regular file",
    }


def write_junk(root: Path) -> None:
    """What is on every disk and is nobody's picture."""
    write_image(root / ".ipynb_checkpoints" / "1.png", (1, 1, 1), seed=0)
    write_image(root / ".hidden" / "1.png", (1, 1, 1), seed=0)
    write_image(root / "__MACOSX" / "red" / "1.png", (1, 1, 1), seed=0)
    (root / "empty").mkdir()
    for name in (".DS_Store", "Thumbs.db", "red/Thumbs.db", "red/._000.png", "red/notes.txt"):
        (root / name).write_bytes(b"junk")


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    """Everything in a folder, the folder too: size, time of change and mode."""
    found = {}
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
    return found


@dataclass(frozen=True)
class Messy:
    """The folder, and what is known of it."""

    root: Path
    good: set[str]
    bad: dict[str, str]


@pytest.fixture
def messy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Messy:
    monkeypatch.chdir(tmp_path)
    root = write_dataset(tmp_path / "my pictures", per_class=10)
    plain = {f"{name}/{number:03d}.png" for name in COLOURS for number in range(10)}
    good = plain | write_odd_pictures(root) | write_links(root, tmp_path / "outside")
    bad = write_bad_files(root)
    write_junk(root)
    return Messy(root, good, bad)


def said_in(outcome: Outcome) -> list[str]:
    return outcome.err.splitlines()


def test_a_messy_folder_from_training_to_prediction(cli, messy, tmp_path):
    before = listing(messy.root)
    words = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--augment", "trivial")
    trained = cli("train", messy.root, *words, "--epochs", 4, "--lr", "2e-3", "--device", "cpu")
    assert trained.code == ExitCode.SOME_FAILED, trained.err
    assert f"{len(messy.bad)} files skipped" in trained.err
    assert "2 images by links to outside the dataset" in trained.err
    assert "ignored, not images: 1 .txt" in trained.err
    assert "ignored folders without images: 'empty'" in trained.err
    assert "Traceback" not in trained.err
    run = tmp_path / trained.out.strip()
    assert run.is_dir()
    check_run(run, messy)

    scored = cli("eval", "--run", run, "--split", "all", "--output", "scores")
    assert scored.code == ExitCode.OK
    rows = read_csv(tmp_path / "scores" / "predictions.csv")
    assert {row["path"] for row in rows} == messy.good

    check_predictions(cli, run, messy)
    assert listing(messy.root) == before


def check_run(run: Path, messy: Messy) -> None:
    """The files of the run name exactly what was read and what was not, and agree."""
    skipped = {row["path"]: row["reason"] for row in read_csv(run / "skipped.csv")}
    assert set(skipped) == set(messy.bad)
    for path, reason in messy.bad.items():
        assert skipped[path].startswith(reason), path
    split = read_csv(run / "split.csv")
    assert len(split) == len({row["path"] for row in split})
    assert {row["path"] for row in split} == messy.good
    assert all(row["label"] == row["path"].partition("/")[0] for row in split)
    held_out = {row["path"] for row in split if row["split"] == "val"}
    assert {row["split"] for row in split} == {"train", "val"}
    assert {path.partition("/")[0] for path in held_out} == set(COLOURS)
    indices = json.loads((run / "class_indices.json").read_text(encoding="utf-8"))
    assert indices == {"0": "blue", "1": "green", "2": "red"}
    predictions = read_csv(run / "predictions.csv")
    assert {row["path"] for row in predictions} == held_out
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["images"] == len(held_out)
    assert metrics["skipped"] == len(messy.bad)
    assert metrics["classes"] == ["blue", "green", "red"]
    right = sum(row["label"] == row["predicted"] for row in predictions)
    assert metrics["accuracy"] == pytest.approx(right / len(predictions))
    assert metrics["confusion_matrix"] == [
        [
            sum(row["label"] == true and row["predicted"] == said for row in predictions)
            for said in metrics["classes"]
        ]
        for true in metrics["classes"]
    ]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "truncated.jpg" in page


def check_predictions(cli, run: Path, messy: Messy) -> None:
    """Every file has its own row, byte for byte, and the unreadable ones say why."""
    junk_links = {"green/up"}  # a link to a folder is no input
    wanted = (messy.good | set(messy.bad)) - junk_links
    readable = messy.good
    folder = f"{messy.root}{os.sep}"
    answers = {}
    for kind in ("jsonl", "json", "csv"):
        outcome = cli("predict", messy.root, "--run", run, "--format", kind)
        assert outcome.code == ExitCode.SOME_FAILED
        failed = len(wanted) - len(readable)
        assert f"{failed} of {len(wanted)} inputs could not be read" in outcome.err
        rows = rows_of(outcome.out, kind)
        paths = [row["path"].removeprefix(folder) for row in rows]
        assert len(paths) == len(set(paths))
        assert {os.fsencode(path) for path in paths} == {os.fsencode(path) for path in wanted}
        for path, row in zip(paths, rows, strict=True):
            assert bool(row.get("error")) == (path not in readable), path
            assert bool(row.get("label")) == (path in readable), path
        answers[kind] = [(row["path"], row.get("label") or "") for row in rows]
    assert answers["jsonl"] == answers["json"] == answers["csv"]
    everything = [str(messy.root / path) for path in sorted(wanted)]
    stdin = b"\n".join(os.fsencode(path) for path in everything if "\n" not in path) + b"\r\n"
    outcome = cli("predict", "-", "--run", run, "--format", "csv", stdin=stdin)
    listed = rows_of(outcome.out, "csv")
    assert [row["path"] for row in listed] == [path for path in everything if "\n" not in path]
    given = {row["path"]: row["label"] for row in listed}
    assert given.items() <= dict(answers["csv"]).items()
    table = cli("predict", *everything, "--run", run)
    assert len(table.out.splitlines()) == len(wanted)
    assert "\x1b" not in table.out


def rows_of(text: str, kind: str) -> list[dict[str, str]]:
    if kind == "json":
        return json.loads(text)
    if kind == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_same_folder_gives_the_same_split_to_every_regime(cli, messy, tmp_path):
    words = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--epochs", 1)
    splits = []
    for more in (("--freeze-layers", "True"), ("--freeze-stages", 1, "--workers", 0)):
        outcome = cli("train", messy.root, *words, *more, "--device", "cpu")
        assert outcome.code == ExitCode.SOME_FAILED, outcome.err
        splits.append((tmp_path / outcome.out.strip() / "split.csv").read_bytes())
    assert splits[0] == splits[1]
    assert os.fsencode(NOT_UTF8) in splits[0]


def test_a_file_that_goes_bad_while_training_is_left_out_and_said(cli, dataset, monkeypatch):
    from swinclf.training import loop

    first = cli("train", dataset, *SMALL_FLAGS, "--name", "first")
    assert first.code == ExitCode.OK, first.err
    rows = read_csv(dataset.parent / "runs" / "first" / "split.csv")
    trained = next(row["path"] for row in rows if row["split"] == "train")
    real, target = loop.validate, dataset / trained

    def spoil(*arguments):
        target.write_bytes(b"spoilt")
        return real(*arguments)

    monkeypatch.setattr(loop, "validate", spoil)
    # With room for no picture, each epoch reads the files anew.
    monkeypatch.setattr("swinclf.pipeline.prepare.image_cache_bytes", lambda: 0)
    words = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--epochs", 3)
    outcome = cli("train", dataset, *words, "--device", "cpu")
    assert outcome.code == ExitCode.OK, outcome.err
    warnings = [line for line in said_in(outcome) if trained in line]
    assert len(warnings) == 1
    assert "not an image of a known format" in warnings[0]
