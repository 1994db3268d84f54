"""The report is one file that asks for nothing, runs nothing, and shows every name as it is."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from conftest import metrics_from
from PIL import Image
from rich.cells import cell_len

from swinclf.cli.tables import metrics_text
from swinclf.confidence.selective import Confidence, RejectionScores, Threshold
from swinclf.confidence.temperature import Calibration
from swinclf.inference.neighbours import find_nearest
from swinclf.metrics import ImageScores, compute_metrics, ideal_calibration_error
from swinclf.reporting import charts, confusion, svg_charts
from swinclf.reporting.html import embed, without_folders
from swinclf.reporting.report import choose_gallery, write_report
from swinclf.reporting.report_data import (
    FindingSummary,
    LearningCurve,
    LearningPoint,
    Neighbour,
    PredictionRow,
    Provenance,
    ReportedSetting,
    ReportSections,
    Suspect,
    TrainingFigures,
)

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
VOID = {"meta", "img", "input", "link", "br", "hr", "rect", "wbr"}
JPEG = b"\xff\xd8 a small picture"


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
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return "\n".join(self.texts)


def metrics_of(classes, *, images=120, absent=()):
    rng = np.random.default_rng(0)
    targets = rng.choice(np.setdiff1d(np.arange(len(classes)), absent), images)
    return metrics_from(classes, rng.dirichlet(np.ones(len(classes)), images), targets)


def thumbnails(paths):
    return iter([JPEG] * len(paths))


def everything(path="cat/1.jpg", name="dog"):
    """Every optional section, about one image and one name."""
    return ReportSections(
        calibration=Calibration(1.25, 430, ece_before=0.061, ece_after=0.02),
        confidence=Confidence(thresholds=(Threshold(0.95, 0.77, 0.71),)),
        rejection=RejectionScores(0.95, 100, 0.7, 0.97, 50, 0.1, 0.8, 0.931, (0.45, 0.7)),
        suspects=[Suspect(path, name, name, 0.91)],
        learning=LearningCurve(
            [LearningPoint(0.5, 60, 0.7, 0.6, 0.8), LearningPoint(1, 120, 0.8, 0.75, 0.85)],
            [LearningPoint(2, 240, 0.85, 0.78, 0.9)],
            [name],
        ),
        audit=[
            FindingSummary(name, name, [path]),
            FindingSummary("a tiny class", "add images", (), [name]),
        ],
        evidence={path: JPEG},
        neighbours={path: [Neighbour("fox/9.jpg", name, 0.9, "fox/9.jpg")]},
    )


@pytest.fixture
def written(tmp_path):
    """Writes a report with some values changed and returns its text."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(picture)

    def write(**changes):
        values = {
            "metrics": metrics_of(["cat", "dog", "fox"]),
            "matrix": picture,
            "skipped": [("cat/broken.jpg", "truncated")],
            "rows": [PredictionRow("cat/1.jpg", "cat", "dog", 0.987)],
            "sections": ReportSections(),
            "thumbnails": lambda paths: iter([None] * len(paths)),
        }
        origin = {
            "title": "a run",
            "data": "data",
            "command": "swinclf train data --epochs 5",
            "settings": {
                "epochs": ReportedSetting(5, "auto", "because"),
                "lr": ReportedSetting(1e-4, "flag", None),
            },
            "history": [{"epoch": 1, "train_loss": 0.5, "val_loss": None}],
            "epochs": 0,
            "is_training_dataset": True,
        }
        given = {name: changes.pop(name) for name in origin if name in changes}
        path = tmp_path / "report.html"
        write_report(path, Provenance(**origin | given), **values | changes)
        return path.read_text(encoding="utf-8")

    return write


@pytest.mark.parametrize(
    ("temperature", "after", "said"),
    [
        (1.25, 0.02, "the calibration error is 2.0\xa0% with it and 6.1\xa0% without"),
        (1.0, 0.07, "is 6.1\xa0%; with a temperature, by cross-validation, it would be 7.0\xa0%"),
    ],
)
def test_it_says_whether_calibrating_was_of_use(written, temperature, after, said):
    calibration = Calibration(temperature, 430, ece_before=0.061, ece_after=after)
    page = Page(written(sections=ReportSections(calibration=calibration)))
    assert said in page.text
    assert ("Not calibrated" in page.text) == (temperature == 1.0)


def test_it_says_that_these_images_selected_the_epoch(written):
    metrics = metrics_of(["cat", "dog", "fox"])
    held_out, other = (replace(metrics, split=split) for split in ("val", "test"))
    said = "These images also selected the epoch and the head"
    page = Page(written(metrics=held_out, epochs=1)).text
    assert said in page
    assert "swinclf eval OTHER --run RUN" in page
    assert said not in Page(written(metrics=other, epochs=1)).text
    assert said not in Page(written(metrics=held_out)).text  # a linear probe
    elsewhere = {"metrics": held_out, "epochs": 1, "is_training_dataset": False}
    assert said not in Page(written(**elsewhere)).text


def test_a_probe_of_other_images_is_no_baseline(written):
    """The probe is scored on the validation images, which a test part is not."""
    training = TrainingFigures(
        counts={"cat": 100, "dog": 100, "fox": 100}, probe_accuracy=0.9, image_px=None, input_px=224
    )
    for split, is_shown in (("val", True), ("test", False)):
        metrics = replace(metrics_of(["cat", "dog", "fox"]), split=split)
        page = Page(written(metrics=metrics, sections=ReportSections(training=training))).text
        assert ("a linear probe 90.0" in page) == is_shown


def test_it_says_what_matters(written):
    metrics = metrics_of(["cat", "dog", "fox"])
    page = Page(written())
    right = round(metrics.accuracy * 120)
    assert f"{100 * metrics.accuracy:.1f}\xa0%" in page.text
    assert f"{right} of 120 images correct" in page.text
    low, high = (f"{100 * end:.1f}\xa0%" for end in metrics.accuracy_ci95)
    assert f"95 % interval {low} to {high}" in page.text
    for text in (
        "fox",
        "98.7\xa0%",
        "cat/broken.jpg",
        "truncated",
        "swinclf train data --epochs 5",
    ):
        assert text in page.text
    for text in ("epochs", "because", "flag", "0.0001"):
        assert text in page.texts
    assert page.tags.count("h1") == 1


def test_it_asks_for_nothing_outside(written):
    text = written(sections=everything(), thumbnails=thumbnails)
    page = Page(text)
    assert "://" not in text
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert not [key for _, key, _ in page.attributes if key.startswith("on") or key == "style"]
    values = {key: [v for _, k, v in page.attributes if k == key] for key in ("src", "href")}
    assert values["src"]
    assert all(value.startswith("data:image/jpeg;base64,") for value in values["src"])
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert values["href"]
    assert {value.removeprefix("#") for value in values["href"]} <= set(ids)
    assert max(Counter(ids).values()) == 1


@pytest.mark.parametrize("tag", ["style", "script"])
def test_its_policy_allows_its_own_style_and_script_and_no_other(written, tag):
    text = written()
    policy = next(v for _, key, v in Page(text).attributes if key == "content" and "default" in v)
    content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_hostile_names_are_shown_as_they_are(written):
    plain = Page(written(sections=everything(), thumbnails=thumbnails))
    names = list(HOSTILE)
    page = Page(
        written(
            title=names[0],
            metrics=metrics_of(names),
            settings={name: ReportedSetting(name, name, name) for name in names},
            skipped=[(name, name) for name in names],
            rows=[PredictionRow(name, name, names[0], 0.5) for name in names],
            sections=everything(names[1], names[0]),
            thumbnails=thumbnails,
            command=names[1],
            data=names[0],
        )
    )
    assert set(page.tags) <= {*plain.tags, "wbr", "br"}  # where a long name may break
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
    assert rows[-1].count("–") == rows[-1].count('data-value=""') == 2
    assert "–" not in rows[0]


def test_long_lists_are_cut_and_say_so(written):
    skipped = [(f"{index}.jpg", "truncated") for index in range(1500)]
    answers = [PredictionRow(f"wrong-{index}.jpg", "a", "b", 0.5) for index in range(51)]
    metrics = metrics_of([f"class {index}" for index in range(1003)])
    text = written(
        metrics=metrics,
        skipped=skipped,
        rows=answers,
        history=[{"epoch": epoch} for epoch in range(1, 701)],
    )
    page = Page(text)
    for line in (
        "And 1,300 more, in skipped.csv.",
        "And 3 more, in metrics.json.",
        f"And {120 - round(metrics.accuracy * 120) - 24} more, in predictions.csv.",
        "And 200 more, in history.csv.",
    ):
        assert line in page.text
    assert "199.jpg" in page.text
    assert "200.jpg" not in page.texts
    assert len(text) < 1_000_000


def sections_of(text):
    return [v for tag, key, v in Page(text).attributes if (tag, key) == ("section", "id")]


def test_what_is_not_there_leaves_no_empty_section(written):
    metrics = metrics_from("ab", np.eye(2), [0, 1], "all")
    text = written(metrics=metrics, settings={}, history=[], matrix=None, skipped=[], rows=[])
    assert sections_of(text) == ["verdict", "confusion", "classes", "command"]
    assert "img" not in Page(text).tags


def test_all_sections(written):
    sure = [PredictionRow(f"{index}.jpg", "cat", "cat", 0.9) for index in range(20)]
    wrong = PredictionRow("cat/1.jpg", "cat", "dog", 0.987)
    text = written(rows=[wrong, *sure], sections=everything(), thumbnails=thumbnails)
    assert sections_of(text) == [
        *("verdict", "mistakes", "confusion", "classes", "confidence", "suspects", "learning"),
        *("audit", "curves", "gallery", "skipped", "settings", "command"),
    ]
    page = Page(text)
    for words in (
        "a temperature of 1.25, fitted on 430 images",
        "is 2.0\xa0% with it and 6.1\xa0% without",
        "70.0\xa0% of the predictions for 100 images of known classes were accepted",
        "97.0\xa0% of these were correct",
        "10.0\xa0% were accepted",
        "0.8 by a low probability, 0.931 by the out-of-distribution score",
        "85.0\xa0%, forecast",
        "a tiny class",
        "It is not the model of this report, which may predict these images otherwise.",
        "add images",
        "Nearest training images:",
    ):
        assert words in page.text
    wanted = base64.b64encode(JPEG).decode()
    # The mistake, its evidence and its neighbour, a suspect, an example, 1 + 12 behind two cells,
    # 21 in the gallery.
    assert text.count(wanted) == 3 + 1 + 1 + 13 + 21
    assert len(re.findall('<svg viewBox="0 0 340', text)) == 4


def test_a_matrix_that_is_not_there_is_an_error(written, tmp_path):
    metrics = metrics_of([f"class {index}" for index in range(50)])
    with pytest.raises(FileNotFoundError):
        written(metrics=metrics, matrix=tmp_path / "none.png")


def test_every_cell_leads_to_its_images(written):
    metrics = metrics_of(["cat", "dog", "fox"])
    index = {name: number for number, name in enumerate(metrics.classes)}
    answers = [
        PredictionRow(f"{true}-{predicted}-{number}.jpg", true, predicted, number / 100)
        for true in index
        for predicted in index
        for number in range(20)
    ]
    text = written(metrics=metrics, rows=answers)
    for true, predicted, count in metrics.confusions:
        pair = f"pair-{true}-{predicted}"
        assert f'<a href="#{pair}" data-pair="{pair}">{count}</a>' in text
        panel = re.search(rf'id="{pair}" tabindex="-1">(.*?)\n</div>\n', text, re.DOTALL)[1]
        files = re.findall(r"[a-z]+-[a-z]+-\d+\.jpg", panel)
        order = range(12) if true == predicted else range(19, 7, -1)
        stem = f"{metrics.classes[true]}-{metrics.classes[predicted]}"
        assert files == [f"{stem}-{number}.jpg" for number in order]
        assert "And 8 more, in predictions.csv." in text


def test_of_many_classes_those_mixed_up_most_are_shown():
    names = [f"class {index}" for index in range(100)]
    targets = np.arange(100).repeat(10)
    predicted = targets.copy()
    predicted[targets == 70] = 7
    predicted[(targets == 7).nonzero()[0][:4]] = 99
    grid = confusion.build_grid(metrics_from(names, np.eye(100)[predicted], targets))
    assert (grid.classes, grid.is_whole) == ([7, 70, 99], False)
    counts = [[cell.count for cell in row] for row in grid.rows]
    assert counts == [[6, 0, 4], [10, 0, 0], [0, 0, 10]]
    assert [[cell.level for cell in row] for row in grid.rows] == [[7, 0, 6], [9, 0, 0], [0, 0, 9]]


def test_a_thousand_classes_and_fifty_thousand_images_stay_small(tmp_path, written):
    rng = np.random.default_rng(0)
    names = [f"a class with a name of a common length {index:03}" for index in range(1000)]
    targets = rng.integers(1000, size=50_000)
    wrong = rng.integers(1000, size=50_000)
    predicted = np.where(rng.random(50_000) < 0.75, targets, wrong)
    scores = [
        ImageScores(t, p, t == p, float(t == p), 1.0)
        for t, p in zip(targets.tolist(), predicted.tolist(), strict=True)
    ]
    answers = [
        PredictionRow(
            f"{names[t]}/a file with a name of a common length {i}.jpg", names[t], names[p], c
        )
        for i, (t, p, c) in enumerate(
            zip(targets.tolist(), predicted.tolist(), rng.random(50_000).tolist(), strict=True)
        )
    ]
    worst = tmp_path / "worst.png"
    worst.write_bytes(rng.bytes(2_000_000))  # what the largest matrix takes
    text = written(
        metrics=compute_metrics(names, scores, "val"),
        rows=answers,
        matrix=worst,
        thumbnails=lambda paths: (rng.bytes(30_000) for _ in paths),  # ten times the usual
    )
    size = len(text.encode())
    assert 12_000_000 < size < 20_000_000


def test_pictures_stop_at_the_budget_and_each_place_counts():
    asked = []

    def make(paths):
        for path in paths:
            asked.append(path)
            yield None if path == "broken" else bytes(30)

    size = len("data:image/jpeg;base64,") + 40
    uses = ["a", "broken", "b", "a", "c", "d"]
    assert list(embed(uses, make, budget=4 * size)) == ["a", "b", "c"]
    assert asked == ["a", "broken", "b", "c", "d"]
    asked.clear()
    assert list(embed(uses, make, budget=2 * size)) == ["a"]
    assert asked == ["a", "broken", "b"]


def test_reliability_agrees_with_the_calibration_error():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), 500)
    targets = rng.integers(4, size=500)
    bins = svg_charts.reliability_bins(probs.max(1), probs.argmax(1) == targets)
    assert sum(one.images for one in bins) == 500
    error = sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / 500
    assert error == pytest.approx(metrics_from("abcd", probs, targets).ece)
    for one in bins:
        assert one.low < one.confidence <= one.high
        assert one.interval[0] <= one.accuracy <= one.interval[1]


def test_coverage_keeps_ties_together():
    sure = np.array([0.9, 0.8, 0.8, 0.3])
    curve = svg_charts.coverage_curve(sure, np.array([True, False, True, False]))
    assert curve == [(0.25, 1.0, 0.9), (0.75, pytest.approx(2 / 3), 0.8), (1.0, 0.5, 0.3)]
    assert [one.coverage for one in svg_charts.coverage_rows(curve)] == [1.0, 0.75]


def test_curves_leave_gaps_and_stay_in_their_box():
    history = [
        {"epoch": epoch, "train_loss": loss, "val_loss": None, "lr": 0.001}
        for epoch, loss in enumerate((2.0, float("inf"), 1.0, 0.5), start=1)
    ]
    loss, rate = svg_charts.curves(history)
    assert (loss.title, rate.title) == ("Loss", "Learning rate")
    assert [loss.path(line).count("M") for line in loss.lines] == [2, 0]
    for diagram in (loss, rate):
        for point in (point for line in diagram.lines for point in line.marks):
            x, y = diagram.x.at(point.x), diagram.y.at(point.y)
            assert svg_charts.LEFT <= x <= svg_charts.WIDTH - svg_charts.RIGHT
            assert svg_charts.TOP <= y <= svg_charts.HEIGHT - svg_charts.BOTTOM
    (many,) = svg_charts.curves([{"epoch": epoch, "lr": 1.0} for epoch in range(5000)])
    assert many.path(many.lines[0]).count("L") < 300


def test_nearest_training_images():
    features = np.array([[1, 0], [0, 2], [-1, 0], [0, 0]], dtype=np.float32)
    images = [(f"{index}.jpg", "abcd"[index]) for index in range(4)]
    queries = np.array([[3, 1], [3, 1]], dtype=np.float32)
    found, others = find_nearest(queries, features, images, [None, "1.jpg"])
    assert [(one.path, one.label) for one in found] == [
        ("0.jpg", "a"),
        ("1.jpg", "b"),
        ("3.jpg", "d"),
    ]
    assert found[0].similarity == pytest.approx(3 / np.sqrt(10))
    assert [one.path for one in others] == ["0.jpg", "3.jpg", "2.jpg"], "not the query itself"


@pytest.mark.parametrize(("count", "is_shown"), [(5, False), (6, True)])
def test_top_5_accuracy_is_shown_of_more_than_five_classes(count, is_shown):
    metrics = metrics_of([f"c{number}" for number in range(count)])
    assert ("top-5" in metrics_text(metrics)) is is_shown


def test_columns_are_aligned_below_their_heads_whatever_the_names():
    lines = metrics_text(metrics_of(["a", "玫瑰", "x" * 60])).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("class"))
    assert {cell_len(line) for line in lines[start : start + 4]} == {len(lines[start])}


def test_headings_and_captions(written):
    text = written(sections=everything(), thumbnails=thumbnails)
    headings = re.findall(r"<h2>([^<]+)</h2>", text)
    assert headings == [
        *("Verdict", "Mistakes", "Confusion matrix", "Per-class scores"),
        *("Calibration and rejection", "Likely label errors", "Learning curve", "Dataset"),
        *("Training", "All images", "Skipped files", "Settings", "Reproduce"),
    ]
    assert "<caption>Rejection thresholds: the minimum probability" in text
    assert "<span>Labelled <strong>" in text


SECRET = "/home/someone/secret project"


def test_no_path_of_this_machine_is_in_the_page(written):
    text = written(
        command=f"swinclf train '{SECRET}/photos' --weights /home/someone/x/a.safetensors",
        settings={
            "data": ReportedSetting(f"{SECRET}/photos", "flag", f"found in '{SECRET}/photos'"),
            "weights": ReportedSetting("C:\\Users\\someone\\a.safetensors", "default", None),
            "model_arg": ReportedSetting((), "default", None),
            "teacher": ReportedSetting(None, "default", None),
            "cache": ReportedSetting(True, "default", None),
        },
        skipped=[("cat/1.jpg", f"cannot open '{SECRET}/photos/cat/1.jpg'")],
        data=f"{SECRET}/photos",
    )
    page = Page(text)
    assert "someone" not in text
    assert "secret" not in text
    assert "swinclf train photos --weights a.safetensors" in page.text.replace("'", "")
    for words in ("photos", "a.safetensors", "none", "not set", "yes", "model-arg"):
        assert words in page.texts
    for spelling in ("None", "()", "True"):
        assert spelling not in page.texts


@pytest.mark.parametrize("folder", ["/home/o'brien/it's mine", r"C:\Users\o'brien\it's mine"])
def test_folders_with_apostrophes_are_left_out_too(folder):
    path = f"{folder}{folder[-10]}a's b.jpg"
    command = shlex.join(["swinclf", "train", path, "--val", path])
    for text in (path, command, f"open '{path}' or \"{path}\": no", str([path]), f"to {path!r}."):
        shortened = without_folders(text)
        assert "brien" not in shortened
        assert "mine" not in shortened
        assert shortened.replace("'\"'\"'", "'").count("a's b.jpg") == text.count(" b.jpg")
    assert shlex.split(without_folders(command)) == [
        *shlex.split(command)[:2],
        "a's b.jpg",
        "--val",
        "a's b.jpg",
    ]


def test_the_verdict_is_the_first_thing(written):
    text = written(metrics=metrics_of(["cat", "dog"], images=60))
    terms = re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)", text)[:3]
    assert [term for term, _ in terms] == ["How good", "How certain", "What next"]
    assert "always answering the most frequent class would reach" in terms[0][1]
    assert "60 images" in terms[1][1]
    assert "hardly better than" in terms[2][1]  # random predictions
    assert text.index("How good") < text.index("images correct")


def test_sections_that_the_data_cannot_support_are_collapsed(written):
    text = written(
        rows=[PredictionRow(f"{i}.jpg", "cat", "cat", 0.5) for i in range(120)],
        sections=everything(),
    )
    (ideal,) = re.findall(r"would have a calibration error of about ([\d.]+)\xa0%", text)
    assert 1 < float(ideal) < 15
    assert "near chance is too weak to judge labels" in text
    for section in ("confidence", "suspects", "learning"):
        start = text.index(f'<section id="{section}">')
        assert "<summary>Show anyway</summary>" in text[start : text.index("</section>", start)]


def test_the_learning_curve_explains_where_it_ends(written):
    sections = everything()
    page = Page(written(sections=sections))
    assert "The curve ends at 80.0\xa0% and not at the model's" in page.text
    assert "(ridge regression)" in page.text
    sections = replace(sections, learning=replace(sections.learning, held_out=60))
    of_others = "measured on other images (60 held-out ones)"
    assert of_others not in Page(written(sections=sections)).text
    tested = replace(metrics_of(["cat", "dog", "fox"]), split="test")
    assert of_others in Page(written(sections=sections, metrics=tested)).text


def test_files_of_unknown_classes_have_their_own_sentence(written):
    sections = ReportSections(unknown_classes={"orchid": 10, "lily": 1})
    page = Page(written(sections=sections, skipped=[]))
    text = re.sub(r"\s+", " ", page.text)
    assert "does not know their classes: lily (1 image), orchid (10 images)" in text
    assert "could not be read" not in text


def test_a_gallery_has_all_mistakes_and_a_sample_of_the_rest():
    rows = [
        PredictionRow(f"{i}.jpg", "cat", "dog" if i < 30 else "cat", i / 100) for i in range(99)
    ]
    chosen = choose_gallery(rows, limit=50)
    assert [row.path for row in chosen.rows[:30]] == [f"{i}.jpg" for i in reversed(range(30))]
    rest = [row.probability for row in chosen.rows[30:]]
    assert len(rest) == 20
    assert rest == sorted(rest)
    assert choose_gallery(rows, limit=50) == chosen
    assert len(choose_gallery(rows, limit=20).rows) == 20
    assert (chosen.labels, chosen.images) == (["cat"], 99)


def test_numbers_and_nouns(written):
    page = Page(written(history=[{"epoch": 1, "images_per_second": 123456.7, "lr": 2.5e-5}]))
    assert {"123,457", "2.5e-05"} <= set(page.texts)
    one = Page(written(metrics=metrics_of(["cat", "dog"], images=1)))
    assert "of 1 image correct" in one.text


def test_a_perfectly_calibrated_model_has_the_error_of_few_images():
    rng = np.random.default_rng(0)
    errors = []
    for count in (46, 200, 5000):
        errors.append(ideal_calibration_error(rng.uniform(0.3, 1, count)))
    assert errors == pytest.approx([0.16, 0.08, 0.016], rel=0.3)


def test_colours_of_curves_are_the_same_in_page_and_picture():
    css = (files("swinclf") / "reporting" / "report.css").read_text("utf-8")
    for name, colour in (("right", charts.TRAIN_COLOUR), ("wrong", charts.VAL_COLOUR)):
        assert f"--{name}: light-dark({colour}," in css
    assert re.search(r"\.train \{[^}]*dasharray: \d", css)  # as in curves.png


@pytest.mark.parametrize("largest", [7.5e-4, 1.0, 12684.0])
def test_tick_labels_fit_in_their_margin(largest):
    for value in np.linspace(0, largest, 7)[1:]:
        text = svg_charts.as_number(float(f"{value:.2g}"))
        assert 6.5 * len(text) <= svg_charts.LEFT - 6, text


def test_long_class_names_are_whole_and_never_alike(written):
    names = [f"Dodecatheon_pulchellum_var_{n}_collected_in_the_alps" for n in ("alba", "rubra")]
    same = [f"{60 * 'long '}{n}{60 * ' name'}" for n in ("alba", "rubra")]
    text = written(metrics=metrics_of([*names, *same]), rows=[])
    heads = re.findall(r'<th scope="row"[^>]*><bdi>(.*?)</bdi>', text)
    plain = [re.sub(r"<wbr>|<br>", "", head) for head in heads]
    assert plain[:2] == names
    assert len(set(plain)) == 4
    assert all(head[i - 1] in "_ " for head in heads[:2] for i in [head.index("<br>")])
