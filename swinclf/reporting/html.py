"""What every HTML page has in common: one file, nothing from outside, every text made safe.

Knows templates and their filters; knows nothing about what a page is about.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from swinclf.reporting.display_names import printable


def data_uri(content: bytes, kind: str) -> str:
    """A picture as text that an HTML page can hold.

    Args:
        content: The picture's file.
        kind: Its format, such as png or jpeg.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def page_template(folder: str, name: str) -> Template:
    """A page's template: everything in it escaped, a misspelt variable an error.

    Args:
        folder: The folder of the package that it lies in; page.css is at hand everywhere.
        name: Its file.
    """
    loaders = [PackageLoader("swinclf", one) for one in (folder, "reporting")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": _name,
        "percent": _percent,
        "number": _number,
        "csp_hash": _csp_hash,
    }
    return environment.get_template(name)


def _name(value: object) -> str:
    """Any text that came from outside, on one line and valid as UTF-8; the page escapes it."""
    return printable(str(value))


def _percent(share: float | None, digits: int = 1) -> str:
    """A share as percent that no line break tears apart, a dash where there is none."""
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _number(value: object, digits: int = 4) -> str:
    """A number with so many significant digits, a dash where there is none."""
    return "–" if value is None or value == "" else f"{float(str(value)):.{digits}g}"


def _csp_hash(text: str) -> str:
    """What a content security policy calls the one style sheet, or script, that it allows."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
