"""The pages of predict and compare in a real browser: they filter, sort and ask for nothing."""

from __future__ import annotations

import pytest
from conftest import write_image

from swinclf.data.thumbnails import thumbnails
from swinclf.reporting.compare_page import write_compare_page
from swinclf.reporting.paired_comparison import DifferingImage, Leaderboard, RunScore, SeedGroup
from swinclf.reporting.prediction_page import PageRow, write_prediction_page

SCRIPT = "<script>document.title = 'ran'</script>"
LABELS = [SCRIPT, "زهرة", "🌹 rose", "very" * 30]
PATHS = "[...document.querySelectorAll('figure')].filter(f => !f.hidden)"
PATHS += ".map(f => f.querySelector('.path').textContent)"


def small_images(root):
    def make(files):
        return thumbnails(root, files, workers=0)

    return make


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A page of ten predictions, from 10 to 100 %."""
    root = tmp_path_factory.mktemp("gallery")
    rows = []
    for number in range(1, 11):
        name = f"IMG {number} <b>&amp;.png"
        write_image(root / name, (200, 50, 40), seed=number)
        label = LABELS[number % 4]
        share = min(number / 10, 0.99996)
        rows.append(PageRow(str(root / name), label, share, SCRIPT, is_unknown=number == 3))
    write_prediction_page(
        root / "p.html",
        rows[::-1],
        [(str(root / SCRIPT), SCRIPT)],
        model=SCRIPT,
        thumbnails=small_images(root),
    )
    return root / "p.html"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A page of three runs with hostile names and two images."""
    root = tmp_path_factory.mktemp("comparison")
    write_image(root / "a.png", (200, 50, 40), seed=1)
    runs = [
        RunScore(f"runs/{label}", number, 0.5, (0.4, 0.6), -0.1, (-0.2, 0.1), p_value, 9, 0.5)
        for number, (label, p_value) in enumerate([("🌹", None), ("very" * 30, 0.1)], 1)
    ]
    write_compare_page(
        root / "c.html",
        Leaderboard(
            images=9,
            runs=runs,
            groups=[SeedGroup(SCRIPT, (0, 1), 0.5, 0.02), SeedGroup("lr 1", (0,), 0.4, None)],
            differing=[
                DifferingImage(name, SCRIPT, (SCRIPT, "x")) for name in ("a.png", "gone.png")
            ],
            notes=["A note."],
        ),
        small_images(root),
    )
    return root / "c.html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["gallery", "comparison"])
def test_a_page_fits_asks_for_nothing_and_runs_no_name(chromium, request, name, width):
    page = request.getfixturevalue(name)
    chromium.said.clear()
    chromium.asked.clear()
    chromium.open(page, width=width)
    assert chromium.run("document.documentElement.scrollWidth") == width
    assert chromium.run("document.title") in ("11 predictions", "Runs compared")
    assert chromium.run("document.images.length") == (10 if name == "gallery" else 1)
    assert chromium.said == []
    assert set(chromium.asked) == {page.as_uri()}


def choose(chromium, control, value):
    element = f"document.getElementById('{control}')"
    chromium.run(f"{element}.value = '{value}'")
    chromium.run(f"{element}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def test_predictions_are_filtered_and_sorted(chromium, gallery):
    def numbers():
        return [int(path.split()[1]) for path in chromium.run(PATHS)]

    chromium.open(gallery)
    assert numbers() == list(range(1, 11))
    choose(chromium, "order", "confidence")
    assert numbers() == list(range(10, 0, -1))
    choose(chromium, "order", "path")
    assert numbers() == list(range(1, 11))  # 2 before 10
    choose(chromium, "low", 30)
    choose(chromium, "high", 60)
    assert numbers() == [3, 4, 5, 6]
    assert chromium.run("document.getElementById('count').textContent") == "4 of 10 images"
    label = "[...document.querySelectorAll('#label option')].find(o => o.text.startsWith('🌹'))"
    choose(chromium, "label", chromium.run(f"{label}.value"))
    assert numbers() == [6]
    choose(chromium, "high", 100)
    choose(chromium, "low", 100)  # 0.99996 is shown as 100.0 %
    assert numbers() == [10]
    choose(chromium, "low", 0)
    assert numbers() == [2, 6, 10]


def test_without_scripts_every_image_is_shown(chromium, gallery):
    chromium.without_scripts(True)
    try:
        chromium.open(gallery)
        assert len(chromium.run(PATHS)) == 10
        assert chromium.run("document.querySelector('form').checkVisibility()") is False
    finally:
        chromium.without_scripts(False)
