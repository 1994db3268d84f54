"""The output of `predict`: rows for people, CSV and JSON for programs, written as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path

from rich.cells import cell_len

from swinclf.cli.columns import elide, pad
from swinclf.cli.streams import flush_data, write_data
from swinclf.files import FileReplacement, csv_text, to_utf8
from swinclf.inference.prediction import REJECT_COLUMNS, Prediction, prediction_json
from swinclf.reporter import format_percent
from swinclf.run_folder import make_folder
from swinclf.terminal import one_line

MAX_LABEL = 40  # columns; a quarter of a terminal
COLUMNS = ("path", "label", "probability", "error")


class PredictFormat(StrEnum):
    """Output format of predictions."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


EXTENSIONS = {
    ".csv": PredictFormat.CSV,
    ".json": PredictFormat.JSON,
    ".jsonl": PredictFormat.JSONL,
    ".ndjson": PredictFormat.JSONL,
}


@contextmanager
def open_writer(
    output: Path | None,
    output_format: PredictFormat,
    classes: Sequence[str],
    *,
    runners_up: int = 0,
    reject: bool = False,
    width: int | None = None,
) -> Iterator[PredictionWriter]:
    """Write predictions inside the `with` block, to a file or, with None, to standard output.

    A file is written atomically; after an error or an interrupt an existing one is unchanged. The
    other arguments are those of `PredictionWriter`.
    """
    if output is not None:
        make_folder(output.parent)
    with nullcontext() if output is None else FileReplacement(output) as file:
        writer = PredictionWriter(
            file, output_format, classes, runners_up=runners_up, reject=reject, width=width
        )
        writer.begin()
        yield writer
        writer.end()


class PredictionWriter:
    """Streaming output of predictions, to standard output or a file.

    Names are written byte for byte, except in the table, which is for terminals.

    `file` is None for standard output. `classes` are for the width of the table; a row of it fits
    `width` columns of the terminal, None for any. CSV has columns for `runners_up` classes after
    the first. `reject` is whether predictions may be rejected: CSV and JSON get the withheld label
    and the out-of-distribution score.

    The attribute `count` is the number of predictions written.
    """

    def __init__(
        self,
        file: FileReplacement | None,
        output_format: PredictFormat,
        classes: Sequence[str],
        *,
        runners_up: int,
        reject: bool,
        width: int | None,
    ) -> None:
        from swinclf.confidence.selective import UNKNOWN  # numpy

        self.count = 0
        self._format, self._width = output_format, width
        labels = (*classes, *[UNKNOWN] * reject)
        longest = max(cell_len(one_line(name)) for name in labels)
        self._label_width = min(MAX_LABEL if width is None else max(7, width // 4), longest)
        self._runners_up, self._reject = min(runners_up, len(classes) - 1), reject
        self._file = file

    def begin(self) -> None:
        """Write what comes before the predictions."""
        if self._format is PredictFormat.CSV:
            ranks = range(2, self._runners_up + 2)
            more = [f"{name}_{rank}" for rank in ranks for name in ("label", "probability")]
            self._put(csv_text([[*COLUMNS, *more, *(REJECT_COLUMNS if self._reject else ())]]))
        elif self._format is PredictFormat.JSON:
            self._put("[")

    def end(self) -> None:
        """Write what comes after them; flush standard output."""
        if self._format is PredictFormat.JSON:
            self._put("\n]\n" if self.count else "]\n")
        if self._file is None:
            flush_data()

    def write(self, prediction: Prediction) -> None:
        """Write one prediction; flush standard output."""
        self._put(self._text(prediction))
        self.count += 1
        if self._file is None and self._format is not PredictFormat.JSON:
            flush_data()

    def _put(self, text: str) -> None:
        if self._file is None:
            write_data(text)
        else:
            self._file.write(to_utf8(text))

    def _text(self, one: Prediction) -> str:
        if self._format is PredictFormat.CSV:
            return csv_text([self._fields(one)])
        if self._format is PredictFormat.JSONL:
            return prediction_json(one, reject=self._reject) + "\n"
        if self._format is PredictFormat.JSON:
            return (",\n  " if self.count else "\n  ") + prediction_json(one, reject=self._reject)
        return self._table_row(one).rstrip() + "\n"

    def _fields(self, one: Prediction) -> list[object]:
        """Return the fields of a row of CSV; those that do not apply are empty."""
        fields: list[object] = [one.path, one.label, "" if one.error else one.probability]
        more = [value for pair in one.top[1 : 1 + self._runners_up] for value in pair]
        fields += [one.error, *more, *[""] * (2 * self._runners_up - len(more))]
        if self._reject:
            fields += [*one.withheld.values()]
        return fields

    def _table_row(self, one: Prediction) -> str:
        """Return probability, label, path and other classes; on a terminal in columns."""
        share = "error" if one.error else "-" if one.is_unknown else format_percent(one.probability)
        start = f"{share:>7}  {pad(one_line(one.label) or '-', self._label_width)}  "
        path = one_line(one.path)
        classes = one.top if one.is_unknown else one.top[1:]
        others = [f"{one_line(label)} {format_percent(value)}" for label, value in classes]
        if self._width is None:
            end = f": {one_line(one.error)}" if one.error else others and f"  ({', '.join(others)})"
            return f"{start}{path}{end or ''}"
        room = max(20, self._width - len(start))
        if not others and not one.error:
            return start + elide(path, room)
        path = pad(path, room // 2)
        left = room - room // 2 - 2
        if one.error:
            return f"{start}{path}  {elide(one_line(one.error), left)}"
        while len(others) > 1 and cell_len(", ".join(others)) > left - 2:
            others.pop()
        joined = ", ".join(others)
        return f"{start}{path}  {elide(f'({joined})', left)}"
