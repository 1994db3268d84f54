r"""Parser for lists of paths as written by other tools.

Supports lines (`find`, `git ls-files`), NUL-terminated entries (`find -print0`, `fd -0`), tables
with a column of paths (CSV or TSV) and JSON, in UTF-8 or, with a byte order mark, in UTF-16. A file
whose name equals an entry always takes precedence over any interpretation of the entry.

Every entry yields a path, whether or not there is such a file.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from os.path import lexists
from pathlib import Path
from typing import BinaryIO

from swinclf.errors import DataError
from swinclf.path_patterns import expand_home

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
    head: list[str] = []
    for text in texts:
        head.append(text)
        if "\0" in text or "\n" in text:
            break
    texts = chain(head, texts)
    if head and "\0" in head[-1]:
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
    parts: list[str] = []  # of the entry that has not ended
    for text in texts:
        first, *others = text.split(separator)
        parts.append(first)
        for other in others:
            yield "".join(parts)
            parts = [other]
    if rest := "".join(parts):
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
        head = first.strip()
        if not lexists(first) and not lexists(head):
            if head.startswith("["):
                yield from self._json_list(chain([first], lines))
                return
            if column := _path_column(head):
                yield from self._table(*column, lines)
                return
        yield from self._plain(chain([first], lines))

    def _plain(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if _is_skipped(line):
                continue
            meanings = list(_meanings(line))
            if found := next(filter(lexists, meanings), None):
                self._is_plain = self._cell is None
                yield found
            else:
                yield ("" if self._is_plain else self._of_row(line)) or meanings[-1]

    def _of_row(self, line: str) -> str:
        """Return the path in a row without a header, such as `path,label`; empty for none.

        It is the first cell that names a file: a label may equal the name of a class folder.
        """
        for delimiter in filter(line.__contains__, DELIMITERS):
            for index, cell in enumerate(_cells(line, delimiter)):
                if cell and (found := self._existing(cell, _is_no_folder)):
                    self._cell = delimiter, index
                    return found
        if self._cell is not None and self._cell[0] in line:
            delimiter, index = self._cell
            return "".join(_cells(line, delimiter)[index : index + 1])
        return ""

    def _existing(self, cell: str, exists: Callable[[str], bool]) -> str:
        """Return a meaning of a cell that exists; empty for none."""
        for meaning in _meanings(cell):
            if exists(meaning):
                return meaning
            if self._base is not None and not os.path.isabs(meaning):  # noqa: PTH117 - a string
                based = os.path.join(self._base, meaning)  # noqa: PTH118 - surrogates stay
                if exists(based):
                    if not self._said_base:
                        self._note(f"relative paths of the list refer to '{self._base}'")
                    self._said_base = True
                    return based
        return ""

    def _of_cell(self, cell: str) -> str:
        return self._existing(cell, lexists) or list(_meanings(cell))[-1]

    def _table(self, name: str, delimiter: str, index: int, lines: Iterator[str]) -> Iterator[str]:
        """Yield the cells of a column of the rows after the header."""
        self._note(f"the list is read as a table: paths from its column '{name}'")
        first = next(lines, "")
        is_rule = re.fullmatch(r"\s*--[-\s]*", first)  # PowerShell underlines the header
        lines = lines if is_rule else chain([first], lines)
        rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
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
    return is_comment and not (bare and lexists(line))


def _meanings(entry: str) -> Iterator[str]:
    """Yield possible meanings of an entry: the literal one first, the most likely one last."""
    yield entry
    yield entry.rstrip("\r")
    bare = entry.strip()
    yield bare
    if bare.startswith("{"):
        with suppress(ValueError, RecursionError):
            bare = _path_in(json.loads(bare.rstrip(","))) or bare
    elif len(bare) > 1 and bare[0] in "\"'" and bare[-1] == bare[0]:
        quoted, bare = bare, bare[1:-1]
        yield bare
        if "\\" in bare and quoted[0] == '"' and os.name != "nt":
            with suppress(ValueError):
                bare = _unescaped(quoted)
    yield expand_home(bare)


def _unescaped(quoted: str) -> str:
    r"""Return a name that JSON or, with bytes in octal, `git ls-files` has quoted.

    >>> _unescaped(r'"caf\303\251.png"')
    'café.png'
    """

    def decoded(escape: re.Match[bytes]) -> bytes:
        return bytes([int(escape[1], 8)]) if escape[1] else escape[0]

    raw = re.sub(rb"\\(?:([0-3][0-7]{2})|.)", decoded, os.fsencode(quoted))
    return str(json.loads(os.fsdecode(raw), strict=False))


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
    for delimiter in DELIMITERS:
        cells = _cells(header, delimiter)
        names = [_plain_name(cell) for cell in cells]
        if len(names) == 1 and any(one in header for one in DELIMITERS):
            continue
        for name in COLUMNS:
            if name in names:
                index = names.index(name)
                return cells[index], delimiter, index
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], delimiter=delimiter), [])]
    except csv.Error:
        return [line]


def _plain_name(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()


def _is_no_folder(path: str) -> bool:
    return lexists(path) and not os.path.isdir(path)  # noqa: PTH112 - a string with surrogates
