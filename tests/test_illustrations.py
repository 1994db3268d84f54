"""A report's pictures: thumbnails of whole images, and what spoke for an answer laid over one."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from conftest import read_rows, write_image
from PIL import Image

from swinclf.data.thumbnails import thumbnail, thumbnails
from swinclf.device import Hardware, Precision
from swinclf.explain.saliency_overlay import SIDE_PX, EvidenceDrawer, overlay_evidence

FP32 = Hardware("cpu", Precision.FP32, "for the test")


def test_a_thumbnail_is_small_upright_and_without_metadata(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    exif[0x010F] = "maker"
    Image.new("RGB", (400, 200), (200, 50, 40)).save(path, exif=exif)
    with Image.open(io.BytesIO(thumbnail(path, 100))) as small:
        assert (small.format, small.size) == ("JPEG", (50, 100))
        assert not small.getexif()


def test_thumbnails_come_in_order_and_none_for_what_cannot_be_read(tmp_path):
    write_image(tmp_path / "a.png", (200, 50, 40), seed=0, size=(30, 20))
    (tmp_path / "broken.png").write_bytes(b"broken")
    for workers in (0, 2):
        found = list(
            thumbnails(tmp_path, ["a.png", "broken.png", "none.png", "a.png"], workers=workers)
        )
        assert found[1:3] == [None, None]
        assert found[0] == found[3] is not None


def test_orange_speaks_for_and_purple_against():
    cells = np.zeros((2, 4), np.float32)
    cells[:, 0], cells[:, 3] = 1, -1
    pixels = np.full((32, 64, 3), 128, np.uint8)
    laid = np.asarray(overlay_evidence(pixels, cells)).astype(int)
    assert laid.shape == (SIDE_PX // 2, SIDE_PX, 3)
    left, middle, right = laid[40, 5], laid[40, SIDE_PX // 2], laid[40, -5]
    assert left[0] > left[1] > left[2]
    assert np.ptp(middle) < 8
    assert right[2] > right[0] > right[1]


@pytest.fixture
def native_run(cli, dataset, tmp_path):
    """A run of this package's own small network, after an epoch."""
    (dataset / "red" / "copy.png").write_bytes((dataset / "red" / "000.png").read_bytes())
    done = cli(
        *("train", dataset, "--model", "swin", "--no-pretrained", "--img-size", 32),
        *("--model-arg", "embed_dim=16", "--model-arg", "depths=1,1"),
        *("--model-arg", "num_heads=1,2", "--model-arg", "window_size=4"),
        *("--epochs", 1, "--lr", "1e-9", "--name", "native", "--precision", "fp32"),
    )
    assert done.code == 0, done.err
    return tmp_path / "runs" / "native"


def test_a_report_shows_its_mistakes_and_what_spoke_for_them(native_run, dataset):
    text = (native_run / "report.html").read_text()
    mistakes = text.count('<div class="mistake">')
    assert mistakes  # it has learned nothing
    assert text.count('alt="Saliency map of the prediction"') == mistakes
    shown = re.search(r'<div class="views shot">\n<img src="data:image/jpeg;base64,', text)
    assert shown
    assert "no picture" not in text
    assert text.count("Nearest training images:") == mistakes
    split = read_rows(native_run / "split.csv")
    trained_on = [row["path"] for row in split if row["split"] == "train"]
    near = re.findall(r'<figure class="shot">\n<img src="data:[^"]*" alt="([^"]+)" ', text)
    assert len(near) == 3 * mistakes
    assert set(near) <= set(trained_on)
    audit = text[text.index('<section id="audit">') :]
    assert "red/copy.png" in audit[: audit.index("</section>")]
    drawer = EvidenceDrawer.open(native_run / "model.safetensors", root=dataset, hardware=FP32)
    answers = [("red/000.png", "blue"), ("red/none.png", "blue"), ("blue/001.png", "red")]
    first, none, last = drawer.draw(answers)
    with Image.open(io.BytesIO(first)) as drawn:
        assert drawn.size == (SIDE_PX, SIDE_PX)
    assert none is None
    assert drawer.draw(answers[1:]) == [None, last]
    assert drawer.draw(answers[1:2]) == [None]


def test_no_evidence_of_an_export_or_of_a_network_that_is_not_known(trained, tmp_path):
    for path in (trained.path / "model.safetensors", tmp_path / "model.onnx"):
        assert EvidenceDrawer.open(path, root=trained.data, hardware=FP32) is None
    assert "data:image/jpeg;base64," in (trained.path / "report.html").read_text()
