"""The pictures open, have sane sizes, warn of nothing, and name every class legibly."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from conftest import metrics_from
from matplotlib.figure import Figure
from PIL import Image

from swinclf.reporting import charts
from swinclf.reporting import display_names as naming
from swinclf.reporting.charts import draw_confusion_matrix, draw_curves

HOSTILE = (
    "a_very_long_class_name_that_goes_on_and_on_and_on_and_ends",
    "a_very_long_class_name_that_goes_on_and_off_and_on_and_ends",
    "玫瑰",
    "زهرة برية",
    "🌹 rose",
    "👨‍👩‍👧",
    "two\nlines",
    "bad\udcffbyte",
    "lone\ud800half",
    "$\\nope$ for $5 or $6",
    "<script>alert(1)</script>",
    "\u202eoverride",
    " ",
    "nul\x00 and tab\t",
    "e\u0301te\u0301",
)


def metrics_of(classes, *, images=200, absent=(), split="val"):
    rng = np.random.default_rng(0)
    targets = rng.choice(np.setdiff1d(np.arange(len(classes)), absent), images)
    probs = rng.dirichlet(np.ones(len(classes)), images)
    probs[np.arange(images), targets] += 0.5
    return metrics_from(classes, probs / 1.5, targets, split)


def named(count):
    return [f"class {index:04}" for index in range(count)]


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is saved, so that a test can look at its texts."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.fixture
def only_default_font(monkeypatch):
    """A machine without any font but matplotlib's own."""
    monkeypatch.setattr(naming, "_candidates", lambda: (naming.DEFAULT_FAMILY,))


def tick_texts(figure):
    rows, columns = (
        [tick.label1.get_text() for tick in axis.get_major_ticks()]
        for axis in (figure.axes[0].yaxis, figure.axes[0].xaxis)
    )
    assert rows == columns
    return rows


def all_texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("classes", [1, 26, 200])
def test_every_class_is_named(tmp_path, drawn, classes):
    path = tmp_path / "matrix.png"
    draw_confusion_matrix(metrics_of(named(classes)), path)
    assert tick_texts(drawn[0]) == named(classes)
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert 300 < image.width < 4000
        assert 200 < image.height < 4000


def test_very_many_classes_are_named_at_intervals(tmp_path, drawn):
    path = tmp_path / "matrix.png"
    draw_confusion_matrix(metrics_of(named(2500), images=500), path)
    texts = tick_texts(drawn[0])
    assert len(texts) == 167
    assert texts[1] == named(2500)[15]
    with Image.open(path) as image:
        assert max(image.size) < 4500
    assert path.stat().st_size < 2_000_000


def test_cells_hold_counts_and_shares(tmp_path, drawn):
    predicted = [0] * 199 + [1] + [1] * 3
    metrics = metrics_from(["cat", "dog"], np.eye(2)[predicted], [0] * 200 + [1] * 3)
    draw_confusion_matrix(metrics, tmp_path / "m.png")
    texts = all_texts(drawn[0]).splitlines()
    for expected in ("199", ">99 %", "1", "<1 %", "3", "100 %"):
        assert expected in texts


@pytest.mark.parametrize(
    ("count", "text"), [(9999, "9999"), (10_000, "10k"), (999_499, "999k"), (1_250_000, "1.2M")]
)
def test_counts_stay_short(count, text):
    assert charts.short_count(count) == text


def test_classes_without_images_are_pointed_out(tmp_path, drawn):
    draw_confusion_matrix(metrics_of(named(4)), tmp_path / "a.png")
    draw_confusion_matrix(metrics_of(named(4), absent=(2,)), tmp_path / "b.png")
    assert "without images" not in all_texts(drawn[0])
    assert "without images" in all_texts(drawn[1])


def test_one_image_of_one_class_among_many(tmp_path, drawn):
    metrics = metrics_from(named(3), np.array([[0.1, 0.8, 0.1]]), [0], "all")
    draw_confusion_matrix(metrics, tmp_path / "m.png")
    cells = drawn[0].axes[0].images[0].get_array()
    assert np.nan_to_num(np.asarray(cells, float)).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert "without images" in all_texts(drawn[0])


def test_hostile_names_break_nothing(tmp_path, drawn, caplog):
    path = tmp_path / "matrix.png"
    draw_confusion_matrix(metrics_of(HOSTILE, split="$\\bad$"), path)
    texts = tick_texts(drawn[0])
    assert len(set(texts)) == len(HOSTILE)
    lines = "\n".join(texts).split("\n")
    assert all(line.isprintable() or "\u200d" in line for line in lines)
    assert texts[6:8] == ["two\\nlines", "bad\\xffbyte"]
    assert texts[9] == HOSTILE[9]
    assert texts[11].startswith("\\u202e")
    assert texts[14] == "été"
    assert not caplog.records  # matplotlib logs fonts it does not find
    with Image.open(path) as image:
        assert max(image.size) < 3000


@pytest.mark.usefixtures("only_default_font")
def test_names_without_a_font_are_numbers_with_a_key(tmp_path, drawn):
    draw_confusion_matrix(metrics_of(["rose", "玫瑰", "🌹 red"]), tmp_path / "m.png")
    assert tick_texts(drawn[0]) == ["rose", "#1", "#2"]
    texts = all_texts(drawn[0])
    assert "#1  [U+73AB U+7470]" in texts
    assert "#2  [rose] red" in texts
    assert "class_indices.json" in texts


def test_without_text_shaping_joined_scripts_are_numbers(monkeypatch):
    monkeypatch.setattr(naming, "SHAPES_TEXT", False)
    assert naming.families_for(["زهرة", "हिन्दी", "rose"]) == [None, None, ("DejaVu Sans",)]


@pytest.mark.skipif(not naming.SHAPES_TEXT, reason="matplotlib before 3.11 shapes no text")
def test_arabic_is_drawn_where_a_font_has_it():
    assert naming.families_for(["زهرة برية"]) != [None]


def test_a_font_is_taken_for_the_whole_name_where_there_is_one(monkeypatch):
    have = {"DejaVu Sans": "abc", "One": "甲", "Two": "乙", "Both": "甲乙"}
    monkeypatch.setattr(naming, "_candidates", lambda: tuple(have))
    monkeypatch.setattr(naming, "_is_drawable", lambda family, char: char in have[family])
    assert naming.families_for(["a", "甲a", "乙", "丙"]) == [
        ("DejaVu Sans",),
        ("DejaVu Sans", "One"),
        ("DejaVu Sans", "Two"),
        None,
    ]
    assert naming.families_for(["甲乙"]) == [("DejaVu Sans", "One", "Two")]
    del have["One"]  # so that the search goes on to the family that has both
    assert naming.families_for(["甲乙"]) == [("DejaVu Sans", "Both")]


def test_placeholder_fonts_are_never_taken():
    assert not [name for name in naming._candidates() if "Last Resort" in name]


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("rose", 11, "rose"),
        ("a_very_long_class_name", 11, "a_ver…_name"),
        ("玫" * 9, 11, "玫玫玫…玫玫"),
        ("e\u0301" * 9, 3, "e\u0301…e\u0301"),
        ("👨‍👩‍👧" * 9, 5, "…"),
    ],
)
def test_long_names_lose_their_middle(name, width, short):
    assert naming.shorten(name, width) == short


def history(epochs, **changes):
    return [
        {
            "epoch": epoch + 1,
            "train_loss": 2.0 / (epoch + 1),
            "train_accuracy": 1 - 0.5 / (epoch + 1),
            "val_loss": 2.2 / (epoch + 1),
            "val_accuracy": 0.9 - 0.5 / (epoch + 1),
            "lr": 1e-4,
            "seconds": 3.0,
            "images_per_second": 300.0,
        }
        | changes
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize("epochs", [1, 300])
def test_curves_of_any_length(tmp_path, drawn, epochs):
    path = tmp_path / "curves.png"
    draw_curves(history(epochs), path, saved_epoch=epochs)
    with Image.open(path) as image:
        assert 1200 < image.width < 2000
        assert 400 < image.height < 800
    assert f"epoch {epochs}" in all_texts(drawn[0])


def test_curves_without_validation(tmp_path, drawn):
    draw_curves(history(4, val_loss=None, val_accuracy=None), tmp_path / "c.png", saved_epoch=4)
    labels = drawn[0].axes[0].get_legend_handles_labels()[1]
    assert labels == ["train"]
    assert "saved" not in all_texts(drawn[0])


def test_curves_of_a_diverged_run(tmp_path, drawn):
    rows = history(3, train_loss=float("nan"), val_loss=float("inf"))
    draw_curves(rows, tmp_path / "c.png", saved_epoch=None)
    loss, accuracy = drawn[0].axes[:2]
    assert not any(np.isfinite(line.get_ydata()).any() for line in loss.get_lines()[:2])
    assert all(np.isfinite(line.get_ydata()).all() for line in accuracy.get_lines()[:2])
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 600


def test_curves_mark_the_epoch_that_was_saved(tmp_path, drawn):
    """Not the one of highest accuracy: by default, the loss selects."""
    draw_curves(history(5), tmp_path / "c.png", saved_epoch=2)
    assert "saved: epoch 2, val 65.0 %" in all_texts(drawn[0])
    mark = drawn[0].axes[1].get_lines()[-1]
    assert (mark.get_xdata(), mark.get_ydata()) == ([2], [pytest.approx(0.65)])


def test_curves_mark_no_epoch_where_the_probe_was_saved(tmp_path, drawn):
    draw_curves(history(5), tmp_path / "c.png", saved_epoch=0)
    assert "saved: the linear probe" in all_texts(drawn[0])
    assert len(drawn[0].axes[1].get_lines()) == 2


def test_accuracies_between_whole_percents_are_not_rounded(tmp_path, drawn):
    rows = [row | {"train_accuracy": 0.68, "val_accuracy": 0.86} for row in history(3)]
    draw_curves(rows, tmp_path / "c.png", saved_epoch=3)
    axis = drawn[0].axes[1].yaxis
    for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
        assert float(label.get_text().removesuffix(" %")) == pytest.approx(100 * place)


def test_curves_of_nothing():
    with pytest.raises(ValueError, match="no epoch"):
        draw_curves([], None, saved_epoch=None)


def test_the_callers_matplotlib_is_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_confusion_matrix(metrics_of(named(3)), tmp_path / "m.png")
    draw_curves(history(3), tmp_path / "c.png", saved_epoch=3)
    assert dict(matplotlib.rcParams) == before
