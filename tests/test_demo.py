"""demo: the whole loop, offline, in an empty folder."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from command_lines import parse, program_calls
from PIL import Image

PHOTOGRAPHS = ("flower", "palace", "portrait")


def test_the_demo_does_what_it_says(cli, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("swinclf.demo.DIGITS_PER_CLASS", 25)
    monkeypatch.setattr("swinclf.demo.TILES_PER_CLASS", 18)  # with fewer, it is cross-validated
    done = cli("demo")
    assert done.code == 0, done.err
    assert done.out == "", "nothing to read for a program"
    assert [path.name for path in tmp_path.iterdir()] == ["swinclf-demo"]
    demo = tmp_path / "swinclf-demo"
    counts = {path.name: len(list(path.iterdir())) for path in (demo / "pictures").iterdir()}
    assert counts == dict.fromkeys("0123456789", 25) | dict.fromkeys(PHOTOGRAPHS, 18)

    run = (demo / "runs" / "latest").resolve()
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["accuracy"] > 0.75
    assert all(metrics["per_class"][name]["recall"] > 0.8 for name in PHOTOGRAPHS)
    assert metrics["split"] == "val"
    assert metrics["images"] > 40
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert config["model"] == "embedded"
    assert config["mirror"] is False, "a mirrored digit is another one"
    assert (run / "model.onnx").is_file()
    assert (run / "eval-1" / "metrics.json").is_file()

    said = re.sub(r"\s+", " ", done.raw_err)
    assert f"{100 * metrics['accuracy']:.1f} %" in said
    assert f"of the {_digits(metrics)} digits among them" in said
    for words in ("1. Wrote", "2. Training", "3. Evaluated", "4. Predicted", "5. Exported"):
        assert words in said
    assert "tiles of the same photographs are trained on" in said
    assert "6. The report" in said
    assert "report.html" in said
    for command in ("swinclf train DATA", "swinclf predict PICTURE"):
        assert command in said
    predicted = re.findall(r"new/(\S+)\.(?:png|jpg): (\S+) \(\d+\.\d %\)", said)
    assert [name for name, _ in predicted] == ["digit-2", "digit-5", "digit-8", *PHOTOGRAPHS]
    assert "Traceback" not in done.err
    lines = done.raw_err.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("   swinclf train"))
    assert lines[start].endswith(" \\")
    assert max(map(len, lines[start : start + 2])) <= 80
    (call,) = program_calls(lines[start].strip().removesuffix("\\") + lines[start + 1])
    parse(call)


def _digits(metrics):
    """How many of the held-out pictures are digits."""
    per_class = metrics["per_class"].items()
    return sum(row["support"] for name, row in per_class if name not in PHOTOGRAPHS)


def test_the_photographs_are_cut_into_tiles_and_no_picture_is_there_twice(tmp_path):
    from swinclf.demo import TILES, TILES_PER_CLASS, write_samples

    data, new = write_samples(tmp_path)
    for name, (columns, rows) in TILES.items():
        with Image.open(new / f"{name}.jpg") as middle:  # half of each side of the photograph
            size = (middle.width * 2 // columns, middle.height * 2 // rows)
        tiles = sorted((data / name).iterdir())
        assert len(tiles) == TILES_PER_CLASS < columns * rows
        for path in tiles:
            with Image.open(path) as tile:
                assert tile.size == size
                assert np.asarray(tile.convert("L")).std() > 5, "not the plain sky"
    content = [path.read_bytes() for path in tmp_path.rglob("*.*g")]
    assert len(content) == len(set(content)) == 10 * 60 + 3 * 24 + 6


def test_a_folder_that_cannot_be_written_is_an_error(cli, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = cli("demo", "--output", tmp_path / "taken")
    assert done.code == 1
    assert "swinclf demo --output DIR" in done.err
