"""The output of `runs` and `compare`: a line for each run, and how two or more of them differ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swinclf.cli.columns import align_columns
from swinclf.durations import duration_text
from swinclf.reporter import format_percent
from swinclf.shell_quoting import command_line
from swinclf.terminal import one_line, wrapped

if TYPE_CHECKING:
    from swinclf.commands.runs import RunSummary
    from swinclf.reporting.paired_comparison import Leaderboard, RunScore

HEADER = ("run", "data", "model", "accuracy", "images", "date", "time", "size")
# From so many columns on, a table also has these, the time of day, and splits in full.
WIDE, BASELINES = 100, ("largest class", "probe")
HINTS = 5  # runs with their reason or command
IMAGES = 10  # with different predictions, of two runs


def runs_text(runs: Sequence[RunSummary], width: int | None) -> str:
    """Return runs as a table within `width` columns (None for any width)."""
    if not runs:
        return ""
    if width is None or width >= WIDE:
        rows = [(*HEADER, *BASELINES), *((*_cells(run), *_baseline_cells(run)) for run in runs)]
    else:
        rows = [HEADER, *(_cells(run, is_narrow=True) for run in runs)]
    lines = align_columns(rows, width=width, elided=(0, 1, 2), right=(4, 6, 7, 8, 9))
    return "\n".join(lines) + "\n"


def unfinished_text(runs: Sequence[RunSummary]) -> str:
    """Return what is known of runs that did not finish: a reason, or the command to resume."""
    lines = []
    for run in [one for one in runs if one.state != "finished"]:
        name, path = one_line(run.name), command_line([one_line(str(run.path))])
        lines.append(
            f"{name} is interrupted: swinclf train --resume {path}"
            if run.state == "interrupted"
            else f"{name} is {run.state}: {one_line(run.reason)}"
        )
    more = [f"... and {len(lines) - HINTS:,} more"] if len(lines) > HINTS else []
    return "\n".join([*lines[:HINTS], *more])


def _cells(run: RunSummary, *, is_narrow: bool = False) -> tuple[str, ...]:
    from swinclf.data.folder import CROSS_VALIDATION  # numpy

    split = run.split.replace(CROSS_VALIDATION, "CV") if is_narrow else run.split
    accuracy = str(run.state)
    if run.accuracy is not None and run.accuracy_ci95 is not None:
        low, high = run.accuracy_ci95
        accuracy = f"{format_percent(run.accuracy)} ({100 * low:.0f}-{100 * high:.0f})"
    return (
        one_line(run.name),
        one_line(Path(run.data).name),
        one_line(run.model),
        accuracy,
        f"{run.images:,} {split}" if run.images else "",
        _date(run.changed).split()[0] if is_narrow else _date(run.changed),
        "" if run.seconds is None else duration_text(run.seconds),
        f"{run.size_bytes / 1e6:,.0f} MB",
    )


def _baseline_cells(run: RunSummary) -> tuple[str, ...]:
    shares = (run.majority_accuracy, run.probe_accuracy)
    return tuple("" if share is None else format_percent(share) for share in shares)


def _date(changed: float) -> str:
    """Return a local time, without the year if it is this year; a dash if no calendar has it."""
    try:
        when, now = time.localtime(changed), time.localtime()
    except (ValueError, OverflowError, OSError):
        return "-"
    return time.strftime("%m-%d %H:%M" if when.tm_year == now.tm_year else "%Y-%m-%d", when)


def leaderboard_text(done: Leaderboard, width: int | None) -> str:
    """Return the comparison of several runs as tables of runs and groups of seeds."""
    rows = [("run", "accuracy", "difference (points)", "p (Holm)"), *map(_score_cells, done.runs)]
    rows += [(name, format_percent(accuracy), "", "") for name, accuracy in done.baselines]
    lines = [
        f"accuracy on the {done.images:,} images of all runs, with 95 % intervals;",
        "difference from the best, and McNemar's test against it",
        *align_columns(rows, width=width, elided=[0], right=[1, 2, 3]),
    ]
    if not done.images:
        lines = ["no image was scored by all runs: each seed has its own validation images"]
    if done.groups:
        lines += ["", "mean and standard deviation over seeds, each run on all its images"]
        groups = [("settings", "accuracy", "deviation", "difference (95 %)", "seeds")]
        for group in done.groups:
            deviation = "" if group.deviation is None else f"{100 * group.deviation:.1f} points"
            seeds = ", ".join(map(str, group.seeds))
            gap = ""
            if group.difference_ci95 is not None:
                low, high = (100 * end for end in group.difference_ci95)
                gap = f"{low:+.1f} to {high:+.1f} points"
            mean = format_percent(group.mean)
            groups.append((one_line(group.settings), mean, deviation, gap, seeds))
        lines += align_columns(groups, width=width, elided=[0, 4], right=[1, 2, 3])
    if done.differing:
        lines += ["", f"different predictions: {len(done.differing):,} images; --page shows them"]
        lines += [
            one_line(f"  {one.path}: {one.label}; {' -> '.join(one.predicted)}")
            for one in done.differing[: IMAGES * (len(done.runs) == 2)]
        ]
    return "\n".join([*lines, "", *map(wrapped, done.notes)]) + "\n"


def _score_cells(one: RunScore) -> tuple[str, ...]:
    low, high = (100 * end for end in one.accuracy_ci95)
    accuracy = f"{format_percent(one.accuracy)} ({low:.1f} to {high:.1f})"
    if one.p_value is None:
        return one_line(one.run), accuracy, "", "best"
    low, high = (100 * end for end in one.difference_ci95)
    gap = f"{100 * one.difference:+.1f} ({low:+.1f} to {high:+.1f})"
    return one_line(one.run), accuracy, gap, f"{one.p_value:.2g}"
