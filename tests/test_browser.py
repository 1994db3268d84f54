"""The report in a real browser without a network: it says nothing, asks for nothing, and moves."""

from __future__ import annotations

import re
from dataclasses import replace

import browser
import pytest
from test_report import HOSTILE, Answer, everything, metrics_of

from swinclf.data.thumbnails import thumbnail, thumbnails
from swinclf.evaluation.report import write_report

pytestmark = pytest.mark.skipif(
    browser.EXECUTABLE is None, reason="needs chromium (Debian: apt-get install chromium)"
)
# Names that would show in the page if any of them ran.
NAMES = (
    "<script>document.title = 'ran'</script>",
    "\"><img src=x onerror='document.title=1'>",
    "زهرة",
    "🌹 rose",
)
# The panels of the matrix that are to be seen.
SHOWN = "[...document.querySelectorAll('.pair')].filter(p => p.checkVisibility()).map(p => p.id)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every section, of images whose classes have hostile names."""
    from conftest import write_image

    root = tmp_path_factory.mktemp("page")
    metrics = metrics_of(NAMES, absent=(0,))
    write_image(root / "image.png", (200, 50, 40), seed=0)
    (root / "tall <b>&amp;.png").write_bytes((root / "image.png").read_bytes())
    answers = [
        Answer("tall <b>&amp;.png", metrics.classes[true], metrics.classes[predicted], 0.5)
        for true, predicted, count in metrics.confusions
        for _ in range(count)
    ]
    picture = thumbnail(root / "image.png")
    assert picture
    extra = everything("tall <b>&amp;.png", NAMES[1])
    path = root / "report.html"
    write_report(
        path,
        title=NAMES[0],
        metrics=metrics,
        settings={},
        history=[{"epoch": epoch, "train_loss": 1 / epoch, "lr": 0.1} for epoch in (1, 2, 3)],
        matrix=None,
        skipped=[(name, name) for name in HOSTILE],
        answers=answers,
        command="swinclf eval",
        data="data",
        sections=replace(extra, evidence={"tall <b>&amp;.png": picture}),
        thumbnails=lambda files: thumbnails(root, files, workers=0),
    )
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def opened(chromium, page):
    """The page, just opened; what it said and asked for is looked at afterwards."""
    chromium.said.clear()
    chromium.asked.clear()
    chromium.open(page)
    assert chromium.run("document.querySelector('h1').textContent") == NAMES[0]
    yield chromium
    assert chromium.said == []
    assert set(chromium.asked) == {page.as_uri()}


def column(chromium, number):
    """The texts of a column of the per-class table."""
    script = f"[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[{number}]"
    return chromium.run(script + ".textContent)")


def colour(chromium):
    return chromium.run("getComputedStyle(document.body).backgroundColor")


def test_the_browser_hears_and_sees(chromium, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.log('heard'); nothing.at.all</script><img src='x.png'>")
    chromium.open(bad)
    chromium.run("fetch('https://example.com/x').catch(() => 0)")
    assert any("heard" in one for one in chromium.said)
    assert any("ReferenceError" in one for one in chromium.said)
    assert (tmp_path / "x.png").as_uri() in chromium.asked
    assert "https://example.com/x" in chromium.asked


def test_nothing_in_a_name_runs_and_names_read_as_they_are(opened):
    assert opened.run("document.scripts.length") == 1
    assert opened.run("document.title").startswith(NAMES[0])
    assert sorted(column(opened, 1)) == sorted(NAMES)
    assert opened.run("document.images.length") > 50
    assert opened.run("[...document.images].filter(i => !i.naturalWidth).length") == 0


def test_a_script_that_is_not_the_page_own_is_refused(chromium, page, tmp_path):
    changed = tmp_path / "changed.html"
    foreign = "<script>document.title = 'ran'</script><b onclick='document.title = 1'>b</b></main>"
    changed.write_text(page.read_text("utf-8").replace("</main>", foreign), "utf-8")
    chromium.said.clear()
    chromium.open(changed)
    chromium.click("main > b")
    assert chromium.run("document.title").startswith(NAMES[0])
    assert sum("Content Security Policy" in one for one in chromium.said) == 2


def test_a_click_on_a_header_sorts_and_another_turns_round(opened):
    header = "#classes th:nth-child(4)"
    *shares, nothing = column(opened, 3)
    assert nothing == "–"  # of the class without images: last, whichever way
    assert len(set(shares)) > 2
    for order in ("descending", "ascending"):
        opened.click(f"{header} button")
        assert opened.run(f"document.querySelector('{header}').ariaSort") == order
        by_share = sorted(shares, key=lambda text: float(text.rstrip("%")))
        in_order = by_share[::-1] if order == "descending" else by_share
        assert column(opened, 3) == [*in_order, nothing]
    assert opened.run("document.querySelectorAll('#classes [aria-sort]').length") == 1


def test_sorting_by_keyboard(opened):
    opened.run("document.querySelector('#classes th:nth-child(2) button').focus()")
    opened.press("Enter")
    names = column(opened, 1)
    opened.press("Enter")
    assert column(opened, 1) == names[::-1]
    assert sorted(names) == sorted(NAMES)


def test_a_click_on_a_cell_shows_its_images(opened):
    links = opened.run("[...document.querySelectorAll('.matrix a')].map(a => a.dataset.pair)")
    assert len(links) > 4
    (first,) = opened.run(SHOWN)
    other = next(link for link in links if link != first)
    opened.click(f'.matrix a[data-pair="{other}"]')
    assert opened.run(SHOWN) == [other]
    current = "[...document.querySelectorAll('.matrix [aria-current]')].map(a => a.dataset.pair)"
    assert opened.run(current) == [other]
    count = opened.run(f"document.querySelectorAll('#{other} img').length")
    assert count == min(12, int(opened.run(f"document.querySelector('[data-pair={other}]').text")))
    assert "tall <b>&amp;.png" in opened.run(f"document.getElementById('{other}').textContent")
    opened.run(f"document.querySelector('.matrix a[data-pair=\"{first}\"]').focus()")
    opened.press("Enter")
    assert opened.run(SHOWN) == [first]


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_until_the_button_is_pressed(opened, page, dark):
    opened.open(page, dark=dark)
    before = colour(opened)
    assert (sum(map(int, re.findall(r"\d+", before))) < 200) is dark
    opened.click("#theme")
    after = colour(opened)
    assert (sum(map(int, re.findall(r"\d+", after))) < 200) is not dark
    opened.click("#theme")
    assert colour(opened) == before


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_out_sideways(opened, page, width):
    opened.open(page, width=width)
    assert opened.run("document.documentElement.scrollWidth") == width


def test_without_scripts_cells_are_links_and_all_is_there(opened, page):
    opened.without_scripts(True)
    try:
        opened.open(page)
        assert opened.run("document.querySelector('#theme').checkVisibility()") is False
        assert opened.run("document.querySelectorAll('button.sort').length") == 0
        assert opened.run(SHOWN) == []
        pair = opened.run("document.querySelector('.matrix a').dataset.pair")
        opened.click(".matrix a")
        assert opened.run(SHOWN) == [pair]
    finally:
        opened.without_scripts(False)
        opened.open(page)
