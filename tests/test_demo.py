"""demo: the whole loop through the installed program, offline, in an empty folder."""

from __future__ import annotations

import json
import re

import pytest


def test_the_demo_does_what_it_says(program, tmp_path):
    pytest.importorskip("onnxruntime")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no-cache")}
    done = program("demo", env={**offline})
    assert done.code == 0, done.err
    assert done.out == "", "nothing to read for a program"
    assert [path.name for path in tmp_path.iterdir()] == ["swinclf-demo"]
    demo = tmp_path / "swinclf-demo"
    assert sorted(path.name for path in (demo / "digits").iterdir()) == list("0123456789")
    assert len(list((demo / "digits").rglob("*.png"))) == 1797

    run = (demo / "runs" / "latest").resolve()
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["accuracy"] > 0.95
    assert metrics["split"] == "val"
    assert metrics["images"] > 300
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert config["model"].startswith("swin")
    assert config["mirror"] is False, "a mirrored digit is another one"
    assert (run / "model.onnx").is_file()
    assert (run / "eval-1" / "metrics.json").is_file()

    said = re.sub(r"\s+", " ", done.err)
    assert f"{metrics['accuracy']:.1%}" in said
    for words in ("1,797", "Training", "held out", "Exported", "report.html"):
        assert words in said
    for command in ("swinclf train DATA", "swinclf predict PICTURE"):
        assert command in said
    assert re.search(r"digits/\d/\d+\.png: \d \(\d+\.\d%\)", said), "a few predictions"
    assert "Traceback" not in done.err


def test_a_folder_that_cannot_be_written_is_an_error(cli, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = cli("demo", "--output", tmp_path / "taken")
    assert done.code == 1
    assert "swinclf demo --output DIR" in done.err
