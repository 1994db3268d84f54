"""The output of `runs`: a line for each run, and what to do with those that did not finish."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swinclf.cli.columns import align_columns
from swinclf.cli.tables import ResultFormat
from swinclf.files import to_json
from swinclf.reporter import format_percent
from swinclf.terminal import one_line

if TYPE_CHECKING:
    from swinclf.commands.runs import RunSummary

HEADER = ("run", "data", "model", "accuracy", "images", "date", "time", "size")
MINUTE_S, HOUR_S = 60, 3600
HINTS = 5  # runs with their reason or command


def runs_text(runs: Sequence[RunSummary], result_format: ResultFormat, width: int | None) -> str:
    """Return runs as JSON, or as a table within `width` columns (None for any width)."""
    if result_format is ResultFormat.JSON:
        return to_json([run.to_dict() for run in runs])
    if not runs:
        return ""
    rows = [HEADER, *map(_cells, runs)]
    lines = align_columns(rows, width=width, elided=(0, 1, 2), right=(4, 6, 7))
    return "\n".join(lines) + "\n"


def unfinished_text(runs: Sequence[RunSummary]) -> str:
    """Return what is known of runs that did not finish: a reason, or the command to resume."""
    lines = []
    for run in [one for one in runs if one.state != "finished"]:
        name, path = one_line(run.name), shlex.quote(one_line(str(run.path)))
        lines.append(
            f"{name} is interrupted: swinclf train --resume {path}"
            if run.state == "interrupted"
            else f"{name} is {run.state}: {one_line(run.reason)}"
        )
    more = [f"... and {len(lines) - HINTS:,} more"] if len(lines) > HINTS else []
    return "\n".join([*lines[:HINTS], *more])


def _cells(run: RunSummary) -> tuple[str, ...]:
    accuracy = str(run.state)
    if run.accuracy is not None and run.accuracy_ci95 is not None:
        low, high = run.accuracy_ci95
        accuracy = f"{format_percent(run.accuracy)} ({100 * low:.0f}-{100 * high:.0f})"
    return (
        one_line(run.name),
        one_line(Path(run.data).name),
        one_line(run.model),
        accuracy,
        f"{run.images:,} {run.split}" if run.images else "",
        _date(run.changed),
        "" if run.seconds is None else _duration(run.seconds),
        f"{run.size_bytes / 1e6:,.0f} MB",
    )


def _date(changed: float) -> str:
    """Return a local time, without the year if it is this year."""
    when, now = time.localtime(changed), time.localtime()
    return time.strftime("%m-%d %H:%M" if when.tm_year == now.tm_year else "%Y-%m-%d", when)


def _duration(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.1f} h"
