"""The HTML page of `compare`: a table of runs, and the images on which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swinclf.files import write_text
from swinclf.reporting.html import Thumbnails, embed, names_below, page_template
from swinclf.reporting.paired_comparison import DifferingImage, RunScore, SeedGroup

MAX_IMAGES = 500


def write_compare_page(
    path: Path,
    *,
    images: int,
    runs: Sequence[RunScore],
    groups: Sequence[SeedGroup],
    differing: Sequence[DifferingImage],
    notes: Sequence[str],
    thumbnails: Thumbnails,
) -> None:
    """Write the page: one file of bounded size, without scripts and without absolute paths.

    `runs` are best first; of `differing` images those with the most wrong predictions come first;
    `notes` say what the comparison does not show.
    """
    shown = sorted(differing, key=lambda one: one.predicted.count(one.label))[:MAX_IMAGES]
    page = page_template("reporting", "compare_page.html.jinja").render(
        images=images,
        runs=runs,
        names=names_below([run.run for run in sorted(runs, key=lambda run: run.number)]),
        groups=groups,
        differing=shown,
        more=len(differing) - len(shown),
        notes=notes,
        uris=embed([one.path for one in shown], thumbnails),
    )
    write_text(path, page)
