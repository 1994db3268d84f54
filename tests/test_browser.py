"""The pages in a real browser without a network: they say nothing, ask for nothing, and move."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
from conftest import write_image
from PIL import Image
from test_check import scene, write_scenes
from test_report import HOSTILE, PredictionRow, everything, metrics_of

from swinclf.commands.check import check
from swinclf.data.thumbnails import thumbnail, thumbnails
from swinclf.data_quality.findings import FindingKind
from swinclf.reporting.report import write_report
from swinclf.reporting.report_data import Provenance

# Names that would show in the page if any of them ran.
NAMES = (
    "<script>document.title = 'ran'</script>",
    "\"><img src=x onerror='document.title=1'>",
    "زهرة",
    "🌹 rose",
)
# The same as folders with a file each: what a class and an image are called may close a tag, too.
PATHS = (
    "<script>document.title = 'ran'</script>.jpg",
    '"><img src=x onerror=\'document.title=1\'>/1 " onload="document.title=1" <b>&amp;.jpg',
    "زهرة/وردة حمراء 2.jpg",
    "🌹 rose/" + 40 * "very" + "long.jpg",
)
# The panels of the matrix that are to be seen.
SHOWN = "[...document.querySelectorAll('.pair')].filter(p => p.checkVisibility()).map(p => p.id)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every section, of images whose classes have hostile names."""
    root = tmp_path_factory.mktemp("page")
    metrics = metrics_of(NAMES, absent=(0,))
    write_image(root / "image.png", (200, 50, 40), seed=0)
    (root / "tall <b>&amp;.png").write_bytes((root / "image.png").read_bytes())
    answers = [
        PredictionRow("tall <b>&amp;.png", metrics.classes[true], metrics.classes[predicted], 0.5)
        for true, predicted, count in metrics.confusions
        for _ in range(count)
    ]
    picture = thumbnail(root / "image.png")
    assert picture
    extra = everything("tall <b>&amp;.png", NAMES[1])
    path = root / "report.html"
    write_report(
        path,
        Provenance(
            title=NAMES[0],
            data="data",
            command="swinclf eval",
            history=[
                {"epoch": epoch, "train_loss": 1 / epoch, "lr": 7.5e-4} for epoch in (1, 2, 3)
            ],
        ),
        metrics=metrics,
        matrix=None,
        skipped=[(name, name) for name in HOSTILE],
        rows=answers,
        sections=replace(extra, evidence={"tall <b>&amp;.png": picture}),
        thumbnails=lambda files: thumbnails(root, files, workers=0),
    )
    return path


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The page of a check that finds something of every kind, in a dataset of hostile names."""
    root = write_scenes(
        tmp_path_factory.mktemp("checked") / NAMES[1], per_class=24, labels=("land",)
    )
    for number, path in enumerate(PATHS):
        (root / path).parent.mkdir()
        shutil.copy(root / "land" / f"{number:03d}.jpg", root / path)
    Image.open(root / "land" / "005.jpg").resize((130, 100)).save(root / "land" / "near.jpg")
    Image.new("RGB", (90, 70), (250, 250, 250)).save(root / "land" / "empty.png")
    (root / "land" / "<b>broken.jpg").write_bytes(b"no picture")
    (root / "lost").mkdir()
    (root / "lost" / "only.jpg").write_bytes(b"no picture")
    (root / "LAND").mkdir()  # but for case, a class that there is
    scene(98).save(root / "LAND" / "one.jpg")
    scene(97).save(root / "loose.jpg")  # in no class folder
    lying = Image.Exif()
    lying[0x112] = 6
    scene(99, (300, 100)).save(root / "land" / "lying.jpg", exif=lying)
    path = root.parent / "page.html"
    audit = check(root, page=path, workers=2)
    found = {one.kind for one in audit.findings}
    assert found == set(FindingKind) - {
        FindingKind.CLASS_SETS,
        FindingKind.LEAKS,
        FindingKind.SINGLE_CLASS,
    }
    return path


@contextmanager
def quietly(chromium, page, title):
    """The page, just opened; what it said and asked for is looked at afterwards."""
    chromium.said.clear()
    chromium.asked.clear()
    chromium.open(page)
    assert chromium.run("document.querySelector('h1').textContent") == title
    yield
    assert chromium.said == []
    assert set(chromium.asked) == {page.as_uri()}


@pytest.fixture
def opened(chromium, page):
    """The report, just opened."""
    with quietly(chromium, page, NAMES[0]):
        yield chromium


@pytest.fixture
def opened_check(chromium, checked):
    """The page of a check, just opened."""
    with quietly(chromium, checked, NAMES[1]):
        yield chromium


@pytest.fixture(params=["opened page", "opened_check checked"])
def either(request):
    """The browser and the page in it: each of the two."""
    return tuple(map(request.getfixturevalue, request.param.split()))


def column(chromium, number):
    """The texts of a column of the per-class table."""
    script = f"[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[{number}]"
    return chromium.run(script + ".textContent)")


def colour(chromium, of="backgroundColor"):
    return chromium.run(f"getComputedStyle(document.body).{of}")


def is_dark(colour):
    return sum(map(int, re.findall(r"\d+", colour))) < 200


def texts(chromium, selector):
    """What is to be read in each of some elements."""
    return chromium.run(f"[...document.querySelectorAll('{selector}')].map(e => e.innerText)")


def pictures_loaded(chromium):
    """How many pictures there are, if each is one."""
    seen = "(i.loading = 'eager', i.decode().then(() => i.naturalWidth * i.naturalHeight))"
    sizes = chromium.run(f"Promise.all([...document.images].map(i => {seen}))")
    assert all(sizes)
    return len(sizes)


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
    assert pictures_loaded(opened) > 50


def test_nothing_in_a_name_runs_and_names_read_as_they_are_when_checked(opened_check):
    assert opened_check.run("document.scripts.length") == 0
    assert opened_check.run("document.title") == f"{NAMES[1]}: checked"
    shown = texts(opened_check, "figcaption")
    assert set(PATHS) <= set(shown)
    tiny = texts(opened_check, ".tiny_classes .note")
    names = ["LAND", *(path.partition("/")[0] for path in PATHS)]
    assert sorted(tiny) == sorted(f"1 image of {name}" for name in names)
    assert pictures_loaded(opened_check) == len(shown) - 2  # all but the broken files
    targets = "[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash).id)"
    assert len(set(opened_check.run(targets))) == opened_check.run(
        "document.querySelectorAll('main > section[id]').length"
    )


def test_a_class_stands_before_its_file_however_it_is_written(opened_check):
    parts = "[...e.querySelectorAll('bdi')].map(b => b.getBoundingClientRect().left)"
    figures = f"[...document.querySelectorAll('figcaption')].map(e => [e.innerText, {parts}])"
    class_left, file_left = dict(opened_check.run(figures))[PATHS[2]]
    assert class_left < file_left


def test_a_script_in_the_page_of_a_check_is_refused(chromium, checked, tmp_path):
    changed = tmp_path / "changed.html"
    foreign = "<script>document.title = 'ran'</script><img src=x onerror='document.title=1'></main>"
    changed.write_text(checked.read_text("utf-8").replace("</main>", foreign), "utf-8")
    chromium.said.clear()
    chromium.open(changed)
    assert chromium.run("document.title").startswith(NAMES[1])
    assert any("Content Security Policy" in one for one in chromium.said)


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
    assert is_dark(before) is dark
    opened.click("#theme")
    assert is_dark(colour(opened)) is not dark
    opened.click("#theme")
    assert colour(opened) == before


@pytest.mark.parametrize("dark", [False, True])
def test_colours_follow_the_system(opened_check, checked, dark):
    opened_check.open(checked, dark=dark)
    assert is_dark(colour(opened_check)) is dark
    assert is_dark(colour(opened_check, "color")) is not dark


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_out_sideways(either, width):
    chromium, page = either
    chromium.open(page, width=width)
    assert pictures_loaded(chromium)
    assert chromium.run("document.documentElement.scrollWidth") == width


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


SHOWN_IMAGES = (
    "[...document.querySelectorAll('#gallery figure')].filter(f => f.checkVisibility())"
    ".map(f => [f.dataset.class, f.dataset.result])"
)


def choose(chromium, select, value):
    """Chooses an option as a user does, which makes the page hear of it."""
    chromium.run(
        f"(s => (s.value = '{value}', s.dispatchEvent(new Event('change', {{bubbles: true}}))))"
        f"(document.querySelector('#{select}'))"
    )
    return chromium.run(SHOWN_IMAGES)


def test_the_gallery_is_filtered_by_class_result_and_confidence(opened):
    assert opened.run(SHOWN_IMAGES) == []
    opened.click("#gallery summary")
    everything_shown = opened.run(SHOWN_IMAGES)
    assert len(everything_shown) == 120
    wrong = choose(opened, "of-result", "0")
    assert wrong == [one for one in everything_shown if one[1] == "0"]
    assert choose(opened, "of-class", "1") == [one for one in wrong if one[0] == "1"]
    assert choose(opened, "of-confidence", "0.95 2") == []  # all are of 50 %
    assert opened.run("document.querySelector('#gallery output').textContent") == (
        "0 of 120 images"
    )
    for select in ("of-class", "of-result", "of-confidence"):
        choose(opened, select, "")
    assert opened.run(SHOWN_IMAGES) == everything_shown


def test_the_gallery_opens_and_filters_by_keyboard(opened):
    opened.run("document.querySelector('#gallery summary').focus()")
    opened.press("Enter")
    for select in ("of-class", "of-result", "of-confidence"):
        opened.press("Tab")
        assert opened.run("document.activeElement.id") == select
        assert opened.run("document.activeElement.labels[0].innerText.trim().length > 0")


def test_the_printed_page_has_no_gallery_and_a_sensible_length(opened):
    opened.click("#gallery summary")
    opened.print_media(True)
    try:
        assert opened.run(SHOWN_IMAGES) == []
        assert opened.run("document.querySelector('#gallery h2').checkVisibility()")
        assert opened.run("document.querySelector('#curves table').checkVisibility()") is False
    finally:
        opened.print_media(False)


def test_no_label_of_a_diagram_is_cut_off(opened):
    cut = (
        "[...document.querySelectorAll('.diagrams svg')]"
        ".flatMap(s => [...s.querySelectorAll('text')]"
        ".filter(t => t.getBoundingClientRect().left < s.getBoundingClientRect().left - 0.5"
        " || t.getBoundingClientRect().right > s.getBoundingClientRect().right + 0.5)"
        ".map(t => t.textContent))"
    )
    assert opened.run("document.querySelectorAll('.diagrams svg text').length") > 20
    opened.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert opened.run(cut) == []


def test_without_scripts_the_gallery_can_be_opened(opened, page):
    opened.without_scripts(True)
    try:
        opened.open(page)
        opened.click("#gallery summary")
        assert len(opened.run(SHOWN_IMAGES)) == 120
        assert opened.run("document.querySelector('#of-class').checkVisibility()") is False
    finally:
        opened.without_scripts(False)
        opened.open(page)
