"""The website of docs/ builds without a warning, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(\w+:)?//[^>]*>"
)


def test_addresses_that_a_page_loads_are_recognised():
    assert LOADED.search('<link rel="stylesheet" href="https://fonts.example/css">')
    assert LOADED.search("<script async src=//example.org/x.js></script>")
    assert not LOADED.search('<a href="https://example.org/">link</a><img src="pictures/a.png">')


def is_current(site):
    """Whether `make docs` has built this site from the pages as they are."""
    sources = [ROOT / ".mkdocs.yml", ROOT / "docs", *(ROOT / "docs").rglob("*")]
    newest = max(path.stat().st_mtime for path in sources)
    return (site / "index.html").exists() and (site / "index.html").stat().st_mtime > newest


def build(site):
    pytest.importorskip("material", reason="mkdocs-material, of the extra dev, is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    done = subprocess.run(
        [*command, "--config-file", ROOT / ".mkdocs.yml", "--site-dir", site],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_website_builds_strictly_and_loads_nothing(tmp_path):
    site = ROOT / "build" / "site"
    if not is_current(site):
        site = tmp_path / "site"
        build(site)
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not LOADED.search(page.read_text(encoding="utf-8")), page
