"""HTML pages from templates: one file without external resources, every text escaped.

Absolute paths are replaced by their last part, as a page may be mailed to others. Images are
embedded in order of importance, within a budget.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from swinclf import __version__
from swinclf.reporting.display_names import to_printable
from swinclf.settings import setting_text


def data_uri(content: bytes, kind: str) -> str:
    """Return an encoded image as a data URI; `kind` is its format, such as png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def page_template(folder: str, name: str) -> Template:
    """Return a template that escapes every value and raises on an undefined variable.

    It is in the package's folder `folder`; the frame of all pages and what several of them include
    is in `reporting`.
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
        "name": lambda value: to_printable(str(value)),
        "portable": without_folders,
        "setting": lambda value: without_folders(setting_text(value)),
        "percent": _percent,
        "points": _points,
        "number": _number,
        "amount": _amount,
        "csp_hash": _csp_hash,
        "breakable": _breakable,
        "zip": zip,
    }
    environment.globals["version"] = __version__
    return environment.get_template(name)


def _breakable(label: str) -> Markup:
    """Return a label with its line breaks, which may break after underscores and the like too."""
    lines = (re.split(r"(?<=[_/.-])(?=\w)", line) for line in label.split("\n"))
    return Markup("<br>").join(Markup("<wbr>").join(pieces) for pieces in lines)  # escapes


def _percent(share: float | None, digits: int = 1) -> str:
    """Return a share as percent with a no-break space; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _points(share: float) -> str:
    """Return a difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _number(value: object, digits: int = 4) -> str:
    """Return a number with significant digits, a large one as a whole; a dash for none."""
    if value is None or value == "":
        return "–"
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 10**digits else f"{number:.{digits}g}"


def _amount(count: int, noun: str = "") -> str:
    """Return a number with its thousands separated, before a noun if there is one."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}" if noun else f"{count:,}"


def _csp_hash(text: str) -> str:
    """Return the hash of a style sheet or script for the content security policy."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


_DRIVE = r"(?:[A-Za-z]:|\\\\[^\\/\s'\"]+)?"
_WHOLE = re.compile(rf"{_DRIVE}[\\/](?:.*[\\/])?([^\\/]+)[\\/]?", re.DOTALL)
# A quoted path may contain spaces; an unquoted one ends at the first. An apostrophe before a letter
# is in a name; within single quotes, a shell needs it as '"'"'.
_APOSTROPHE = r"""'"'"'|'(?=\w)"""
_QUOTED = [
    re.compile(rf"({quote}){_DRIVE}[\\/](?:(?:{char})*[\\/])?((?:(?![\\/]){char})+)[\\/]?{quote}")
    for quote, char in (('"', r'[^"\n]'), ("'", rf"(?:[^'\n]|{_APOSTROPHE})"))
]
_PLAIN = re.compile(
    rf"""(?<![^\s'"=(\[]){_DRIVE}[\\/](?:(?:[^\\/\s'"]|{_APOSTROPHE})+[\\/])*(?=[^\\/\s'"])"""
)


def without_folders(text: str) -> str:
    r"""Return a text whose absolute paths have only their last part left.

    >>> without_folders("swinclf train '/home/me/my photos' --val /data/x/val --out runs/a")
    "swinclf train 'my photos' --val val --out runs/a"
    >>> without_folders(r"weights of C:\Users\me\model.safetensors")
    'weights of model.safetensors'
    """
    if whole := _WHOLE.fullmatch(text):
        return whole[1]
    for quoted in _QUOTED:
        text = quoted.sub(r"\1\2\1", text)
    return _PLAIN.sub("", text)


def names_below(files: Sequence[str]) -> list[str]:
    """Return each path below the folder that all files are in; the last part on several drives."""
    paths = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 - links stay as they are
    try:
        top = os.path.commonpath({path.parent for path in paths}) if paths else ""
    except ValueError:
        return [path.name for path in paths]
    return [path.relative_to(top).as_posix() for path in paths]


MAX_CHARS = 12_000_000  # of all data URIs in a page

# Paths of images -> a JPEG for each, in order; None for one that cannot be read. Called once, and
# not exhausted if the budget is spent.
Thumbnails = Callable[[Sequence[str]], Iterator[bytes | None]]


def embed(
    uses: Sequence[str], thumbnails: Thumbnails, *, budget: int = MAX_CHARS
) -> dict[str, str]:
    """Return the data URIs of a page's thumbnails by path, up to a budget in characters.

    `uses` are paths of the images in order of importance, once for each use: a thumbnail that the
    page shows twice costs twice. Unreadable images are missing from the result, and so are all from
    the first one that would have exceeded the budget.
    """
    counts = Counter(uses)
    uris: dict[str, str] = {}
    spent = 0
    for path, jpeg in zip(counts, thumbnails(list(counts)), strict=False):
        if jpeg is None:
            continue
        uri = data_uri(jpeg, "jpeg")
        spent += len(uri) * counts[path]
        if spent > budget:
            break
        uris[path] = uri
    return uris
