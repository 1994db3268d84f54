"""The report is one file that asks for nothing, runs nothing, and shows every name as it is."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from swinclf.evaluation.metrics import Tally
from swinclf.evaluation.report import write_report

HOSTILE = (
    '<script>alert("x")</script>',
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }} {% raw %}",
    "زهرة",
    "\u202eoverride",
    "🌹",
    "bad\udcffbyte",
    "nul\x00\nline",
    "&lt; & &amp;",
)
VOID = {"meta", "img", "input", "link", "br", "hr", "rect"}


@dataclass
class Setting:
    value: object
    source: str = "auto"
    reason: str = "because"


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and insists that tags nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return "\n".join(self.texts)


def metrics_of(classes, *, images=120, absent=()):
    rng = np.random.default_rng(0)
    total = Tally(classes)
    targets = rng.choice(np.setdiff1d(np.arange(len(classes)), absent), images)
    total.update(rng.dirichlet(np.ones(len(classes)), images), targets)
    return total.result("val")


@pytest.fixture
def written(tmp_path):
    """Writes a report with some values changed and returns its text."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(picture)

    def write(**changes):
        values = {
            "title": "a run",
            "metrics": metrics_of(["cat", "dog", "fox"]),
            "settings": {"epochs": Setting(5), "lr": Setting(1e-4, "flag", None)},
            "history": [{"epoch": 1, "train_loss": 0.5, "val_loss": None}],
            "images": {"confusion_matrix": picture, "curves": picture},
            "skipped": [("cat/broken.jpg", "truncated")],
            "mistakes": [("cat/1.jpg", "cat", "dog", 0.987)],
            "command": "swinclf train data --epochs 5",
            "data": "data",
        }
        path = tmp_path / "report.html"
        write_report(path, **values | changes)
        return path.read_text(encoding="utf-8")

    return write


def test_it_says_what_matters(written):
    metrics = metrics_of(["cat", "dog", "fox"])
    page = Page(written())
    right = round(metrics.accuracy * 120)
    assert f"{100 * metrics.accuracy:.1f} %" in page.text
    assert f"{right} of 120 images right" in page.text
    low, high = (f"{100 * end:.1f} %" for end in metrics.accuracy_ci95)
    assert f"95 % interval {low} to {high}" in page.text
    for text in ("fox", "98.7 %", "cat/broken.jpg", "truncated", "swinclf train data --epochs 5"):
        assert text in page.text
    for text in ("epochs", "because", "flag", "0.0001"):
        assert text in page.texts
    assert page.tags.count("img") == 2
    assert page.tags.count("h1") == 1


def test_it_asks_for_nothing_outside_and_runs_nothing(written):
    text = written()
    page = Page(text)
    assert "://" not in text
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [key for _, key, _ in page.attributes if key.startswith("on") or key == "style"]
    sources = [value for _, key, value in page.attributes if key in ("src", "href", "srcset")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_its_policy_allows_its_own_style_and_no_other(written):
    text = written()
    policy = next(v for tag, key, v in Page(text).attributes if tag == "meta" and "default" in v)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_hostile_names_are_shown_as_they_are(written):
    plain = Page(written())
    names = list(HOSTILE)
    page = Page(
        written(
            title=names[0],
            metrics=metrics_of(names),
            settings={name: Setting(name, name, name) for name in names},
            skipped=[(name, name) for name in names],
            mistakes=[(name, name, name, 0.5) for name in names],
            command=names[1],
            data=names[0],
        )
    )
    assert set(page.tags) == set(plain.tags)
    assert {key for _, key, _ in page.attributes} == {key for _, key, _ in plain.attributes}
    for name in (*HOSTILE[:4], HOSTILE[5], HOSTILE[8]):
        assert name in page.texts
    for escaped in ("\\u202eoverride", "bad\\xffbyte", "nul\\x00\\nline"):
        assert escaped in page.texts
    assert "\u202e" not in page.text


def test_classes_without_images_have_no_recall(written):
    text = written(metrics=metrics_of(["cat", "dog", "empty"], absent=(2,)))
    rows = re.findall(r"<tr><td class=\"num index.*", text)
    assert "empty" in rows[-1]
    assert rows[-1].count("–") == 2
    assert "–" not in rows[0]


def test_long_lists_are_cut_and_say_so(written):
    skipped = [(f"{index}.jpg", "truncated") for index in range(1500)]
    mistakes = [(f"wrong-{index}.jpg", "a", "b", 0.5) for index in range(51)]
    text = written(
        metrics=metrics_of([f"class {index}" for index in range(1003)]),
        skipped=skipped,
        mistakes=mistakes,
        history=[{"epoch": epoch} for epoch in range(1, 701)],
    )
    page = Page(text)
    for line in (
        "And 1,300 more, in skipped.csv.",
        "And 3 more, in metrics.json.",
        "And 1 more, in predictions.csv.",
        "And 200 more, in history.csv.",
    ):
        assert line in page.text
    assert "199.jpg" in page.text
    assert "200.jpg" not in page.texts
    assert len(text) < 1_000_000


def test_what_is_not_there_leaves_no_empty_section(written):
    total = Tally(["a", "b"])
    total.update(np.eye(2), np.arange(2))
    text = written(
        metrics=total.result("all"), settings={}, history=[], images={}, skipped=[], mistakes=[]
    )
    page = Page(text)
    assert [value for _, key, value in page.attributes if key == "id"] == ["classes", "command"]
    assert "img" not in page.tags


def test_other_pictures_are_embedded_too(written, tmp_path):
    text = written(images={"reliability_diagram": tmp_path / "picture.png"})
    assert "reliability diagram" in Page(text).texts
    assert Page(text).tags.count("img") == 1


def test_a_picture_that_is_not_there_is_an_error(written, tmp_path):
    with pytest.raises(FileNotFoundError):
        written(images={"curves": tmp_path / "none.png"})
