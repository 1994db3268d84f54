r"""Parser for lists of paths as written by other tools.

Supports lines (`find`, `ls`, `git ls-files`), NUL-terminated entries (`find -print0`, `fd -0`,
`git ls-files -z`), tables with a column of paths (CSV or TSV, a table of PowerShell) and JSON, in
UTF-8, in UTF-16 with a byte order mark, or on Windows in its code pages. A file whose name equals
an entry always takes precedence over any interpretation of the entry.

Every entry yields a path, whether or not there is such a file.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from swinclf.errors import DataError
from swinclf.files import expand_home

CHUNK = 65536
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
DELIMITERS = (",", "\t", ";")
# Names of columns and keys that hold paths, lower case, without spaces, "-" and "_"; best first.
COLUMNS = (
    *("path", "filepath", "fullname", "fullpath", "imagepath", "imgpath", "imagefilepath"),
    *("filename", "imagefile", "sourcefile", "file", "image", "img", "paths", "files", "images"),
    *("uri", "url", "name"),
)
_QUOTES = ('"', "'")
_CODE_PAGES = ("mbcs", "oem") if os.name == "nt" else ()  # of older programs, of cmd.exe
_C_ESCAPES = {
    "a": 7,
    "b": 8,
    "t": 9,
    "n": 10,
    "v": 11,
    "f": 12,
    "r": 13,
    '"': 34,
    "'": 39,
    "\\": 92,
}


def read_path_list(
    stream: BinaryIO, *, base: Path | None = None, note: Callable[[str], None] = lambda _: None
) -> Iterator[str]:
    """Yield the paths of a list, open in binary mode, each as soon as its entry has arrived.

    Relative paths in a table may refer to `base`, if the working folder has no such file. `note`
    is called with remarks such as the column in use.

    Raises:
        DataError: If the list is a malformed table.
    """
    texts = _decoded(stream)
    head = ""
    for text in texts:
        head += text
        if "\0" in head or "\n" in head:
            break
    texts = chain([head], texts)
    if "\0" in head:
        yield from filter(None, _split(texts, "\0"))
    else:
        yield from _Lines(base, note).paths(_split(texts, "\n"))


def _decoded(stream: BinaryIO) -> Iterator[str]:
    """Yield the text in pieces, without its byte order mark."""
    read = getattr(stream, "read1", stream.read)
    head = b""
    while chunk := read(CHUNK):
        head += chunk
        if not any(mark != head and mark.startswith(head) for mark in MARKS):
            break
    mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    yield decoder.decode(head[len(mark) :])
    while chunk := read(CHUNK):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _split(texts: Iterable[str], separator: str) -> Iterator[str]:
    rest = ""
    for text in texts:
        *whole, rest = (rest + text).split(separator)
        yield from whole
    if rest:
        yield rest


class _Lines:
    """Parser for a list of lines, whose first lines determine the format."""

    def __init__(self, base: Path | None, note: Callable[[str], None]) -> None:
        self._base, self._note = base, note
        self._cell: tuple[str, int] | None = None  # delimiter and column of rows without a header
        self._is_plain = False  # whether whole lines are paths, so that none is a row
        self._said_base = False

    def paths(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield the path of each line."""
        first = next((line for line in lines if not _is_skipped(line)), None)
        if first is None:
            return
        head = first.strip().lstrip("\ufeff")
        if _exists(first) or _exists(head):
            yield from self._plain(chain([first], lines))
        elif head.startswith("["):
            yield from self._json_list(chain([first], lines))
        elif found := _path_column(head):
            yield from self._table(found, first, lines)
        else:
            yield from self._plain(chain([first], lines))

    def _plain(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            for part in line.split("\0"):
                if not _is_skipped(part):
                    yield self._of_line(part)

    def _of_line(self, line: str) -> str:
        guesses = list(_interpretations(line))
        if found := next(filter(_exists, guesses), None):
            self._is_plain = self._cell is None
            return found
        return ("" if self._is_plain else self._of_row(line)) or guesses[-1]

    def _of_row(self, line: str) -> str:
        """Return the path in a row without a header, such as `path,label`; empty for none.

        It is the first cell that names a file: a label may equal the name of a class folder.
        """
        for delimiter in DELIMITERS:
            if delimiter not in line:
                continue
            cells = _cells(line, delimiter)
            for index, cell in enumerate(cells):
                if cell and (found := self._existing(cell, _is_no_folder)):
                    self._cell = delimiter, index
                    return found
        if self._cell is not None and self._cell[0] in line:
            cells = _cells(line, self._cell[0])
            return cells[self._cell[1]] if self._cell[1] < len(cells) else ""
        return ""

    def _existing(self, cell: str, exists: Callable[[str], bool]) -> str:
        """Return an interpretation of a cell that exists; empty for none."""
        for guess in _interpretations(cell):
            if exists(guess):
                return guess
            if self._base is not None and not os.path.isabs(guess):  # noqa: PTH117 - a string
                based = os.path.join(self._base, guess)  # noqa: PTH118 - surrogates and dots stay
                if exists(based):
                    self._say_base()
                    return based
        return ""

    def _say_base(self) -> None:
        if not self._said_base:
            self._note(f"relative paths of the list refer to '{self._base}'")
            self._said_base = True

    def _of_cell(self, cell: str) -> str:
        return self._existing(cell, _exists) or list(_interpretations(cell))[-1]

    def _table(
        self, column: tuple[str, str, int], header: str, lines: Iterator[str]
    ) -> Iterator[str]:
        """Yield the cells of a column; the line after the header tells the kind of table."""
        name, delimiter, index = column
        self._note(f"the list is read as a table: paths from its column '{name}'")
        second = next(lines, None)
        if second is None:
            return
        if re.fullmatch(r"\s*-[-\s]*", second):  # a table of PowerShell: columns of fixed width
            start, end = _span(header, second, name)
            for line in lines:
                if cell := line[start:end].strip():
                    yield self._of_cell(cell)
            return
        rows = csv.reader((f"{line}\n" for line in chain([second], lines)), delimiter=delimiter)
        try:
            for row in rows:
                if any(cell.strip() for cell in row):
                    yield self._of_cell(row[index]) if index < len(row) else ""
        except csv.Error as error:
            raise DataError(
                f"a table with the column '{name}' on standard input",
                found=f"{error} in line {rows.line_num + 1}",
                hint="a list with one path per line",
            ) from error

    def _json_list(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the paths in one JSON array; if it is invalid, its lines unchanged."""
        text = "\n".join(lines)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            yield from self._plain(text.split("\n"))
            return
        for value in values:
            found = _path_in(value)
            yield json.dumps(value) if found is None else self._of_cell(found)


def _is_skipped(line: str) -> bool:
    """Return whether a line is blank or a comment."""
    bare = line.strip()
    is_comment = bare.rstrip("#") == "" or bare.startswith("# ")
    return is_comment and not (bare and _exists(line))


def _interpretations(line: str) -> Iterator[str]:
    """Yield possible meanings of an entry: the literal one first, the most likely one last."""
    yield from _meanings(line)
    if re.search("[\udc80-\udcff]", line):  # bytes that are not UTF-8
        with suppress(UnicodeEncodeError):  # lone surrogates of UTF-16
            raw = line.encode("utf-8", "surrogateescape")
            for page in _CODE_PAGES:
                yield from _meanings(raw.decode(page, "replace"))


def _meanings(line: str) -> Iterator[str]:
    yield line
    bare = line.lstrip("\ufeff").rstrip("\r\n")
    yield bare
    bare = bare.strip()
    yield bare
    if bare.startswith("{"):
        try:
            found = _path_in(json.loads(bare.rstrip(",")))
        except (ValueError, RecursionError):
            found = None
        if found is not None:
            bare = found
            yield bare
    if match := re.fullmatch(r"(?:FullName|Path)\s*: (.+)", bare):  # a list of PowerShell
        bare = match[1].strip()
        yield bare
    if bare.startswith("$'") or "'$'" in bare:  # names with control characters, by `ls`
        bare = "".join(_shell_word(bare))
        yield bare
    elif len(bare) > 1 and bare[0] in _QUOTES and bare[-1] == bare[0]:
        yield from (inner := list(_unquoted(bare)))
        bare = inner[-1]
    if bare.startswith(("file:", "FILE:")):
        yield _path_of_url(bare)
    elif bare.startswith("~"):
        yield expand_home(bare)


def _unquoted(text: str) -> Iterator[str]:
    """Yield possible meanings of a quoted entry, the most likely one last."""
    inner = text[1:-1]
    yield inner
    if "\\" not in inner or text[0] != '"' or os.name == "nt":
        return
    try:
        yield str(json.loads(text))
    except ValueError:
        yield _without_c_escapes(inner)


def _without_c_escapes(text: str) -> str:
    r"""Return a name with C escapes decoded, as `git ls-files` quotes names.

    >>> _without_c_escapes(r"caf\303\251")
    'café'
    """

    def byte(match: re.Match[bytes]) -> bytes:
        digits = match[1].decode()
        code = _C_ESCAPES.get(digits)
        return bytes([int(digits, 8) & 255 if code is None else code])

    raw = re.sub(rb"""\\([0-7]{1,3}|[abtnvfr"'\\])""", byte, os.fsencode(text))
    return raw.decode("utf-8", "surrogateescape")


def _shell_word(text: str) -> Iterator[str]:
    r"""Yield the parts of a word that `ls` quoted for a shell: 'a'$'\n''b'."""
    for escaped, quoted, plain in re.findall(r"\$'((?:\\.|[^'\\])*)'|'([^']*)'|([^'$]+|\$)", text):
        yield _without_c_escapes(escaped) or quoted or plain


def _path_of_url(url: str) -> str:
    """Return the path in a file: URL; other URLs unchanged."""
    parts = urlsplit(url, allow_fragments=False)
    path = unquote(parts.path, errors="surrogateescape")
    if parts.query:
        path += f"?{unquote(parts.query, errors='surrogateescape')}"
    if os.name == "nt":
        path = path.lstrip("/") if re.match(r"/+[A-Za-z]:", path) else path
    return path if parts.netloc in ("", "localhost") else f"//{parts.netloc}{path}"


def _path_in(value: object) -> str | None:
    """Return the path in a JSON value: a string, or an object with a key for it."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    keys = {_plain_name(key): key for key in value}
    for name in COLUMNS:
        if name in keys and isinstance(value[keys[name]], str):
            return str(value[keys[name]])
    return None


def _path_column(header: str) -> tuple[str, str, int] | None:
    """Return the name, delimiter and index of the path column in a header line."""
    for delimiter in (*DELIMITERS, None):
        cells = header.split() if delimiter is None else _cells(header, delimiter)
        names = [_plain_name(cell) for cell in cells]
        if delimiter is not None and len(names) == 1 and any(one in header for one in DELIMITERS):
            continue
        if delimiter is None and not all(cell.isidentifier() for cell in cells):
            continue
        for name in COLUMNS:
            if name in names:
                index = names.index(name)
                return cells[index], delimiter or ",", index
    return None


def _span(header: str, rule: str, name: str) -> tuple[int, int | None]:
    """Return the span of a column in a table whose second line is a rule of dashes."""
    start = next(re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", header)).start()
    later = [match.start() for match in re.finditer("-+", rule) if match.start() > start]
    return start, min(later, default=None)


def _cells(line: str, delimiter: str) -> Sequence[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], delimiter=delimiter), [])]
    except csv.Error:
        return [line]


def _plain_name(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.lstrip("\ufeff")).lower()


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in it
        return False


def _is_no_folder(path: str) -> bool:
    return _exists(path) and not os.path.isdir(path)  # noqa: PTH112 - a string with surrogates
