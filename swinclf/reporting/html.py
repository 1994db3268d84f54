"""HTML pages from templates: one file without external resources, every text escaped.

Knows templates and their filters; knows nothing about the contents of a page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from swinclf.reporting.display_names import to_printable
from swinclf.reporting.local_paths import without_folders

LONG_NUMBER = re.compile(r"\b\d\.\d{5,}\b")  # in a text, such as the mean of each channel


def data_uri(content: bytes, kind: str) -> str:
    """Return an encoded image as a data URI; `kind` is its format, such as png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def page_template(folder: str, name: str) -> Template:
    """Return a template that escapes every value and raises on an undefined variable.

    It is in the package's folder `folder`; page.css can be included from any.
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
        "portable": without_folders,
        "setting": _setting_text,
        "percent": _percent,
        "number": _number,
        "csp_hash": _csp_hash,
        "breakable": _breakable,
        "zip": zip,
    }
    return environment.get_template(name)


def _name(value: object) -> str:
    """Return a text from outside on one line and as valid UTF-8; the page escapes it."""
    return to_printable(str(value))


def _breakable(label: str) -> Markup:
    """Return a label with its line breaks, which may break after underscores and the like too."""
    lines = (re.split(r"(?<=[_/.-])(?=\w)", line) for line in label.split("\n"))
    return Markup("<br>").join(Markup("<wbr>").join(pieces) for pieces in lines)  # escapes


def _setting_text(value: object) -> str:
    """Return the value of a setting in words, without the folders of a path."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "not set"
    return LONG_NUMBER.sub(lambda found: f"{float(found[0]):.4g}", without_folders(str(value)))


def _percent(share: float | None, digits: int = 1) -> str:
    """Return a share as percent with a no-break space; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _number(value: object, digits: int = 4) -> str:
    """Return a number with significant digits; a dash for none."""
    return "–" if value is None or value == "" else f"{float(str(value)):.{digits}g}"


def _csp_hash(text: str) -> str:
    """Return the hash of a style sheet or script for the content security policy."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
