"""The HTML page of `compare`: a table of runs, and the images on which they differ."""

from __future__ import annotations

from pathlib import Path

from swinclf.files import write_text
from swinclf.reporting.html import Thumbnails, embed, names_below, page_template
from swinclf.reporting.paired_comparison import Leaderboard

MAX_IMAGES = 500


def write_compare_page(path: Path, done: Leaderboard, thumbnails: Thumbnails) -> None:
    """Write the page: one file of bounded size, without scripts and without absolute paths.

    Of the differing images those with the most wrong predictions come first.
    """
    shown = sorted(done.differing, key=lambda one: one.predicted.count(one.label))[:MAX_IMAGES]
    page = page_template("reporting", "compare_page.html.jinja").render(
        images=done.images,
        runs=done.runs,
        baselines=done.baselines,
        names=names_below([run.run for run in sorted(done.runs, key=lambda run: run.number)]),
        groups=done.groups,
        differing=shown,
        more=len(done.differing) - len(shown),
        notes=done.notes,
        uris=embed([one.path for one in shown], thumbnails),
    )
    write_text(path, page)
