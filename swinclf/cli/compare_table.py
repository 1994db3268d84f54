"""The output of `compare`: difference and interval, per-class scores, changed images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinclf.cli.columns import align_columns
from swinclf.cli.tables import ResultFormat
from swinclf.files import to_json
from swinclf.reporter import format_percent, terminal_safe

if TYPE_CHECKING:
    from swinclf.commands.compare import Comparison, Leaderboard
    from swinclf.reporting.paired_comparison import PredictionPair

CLASSES, IMAGES, WIDTH = 20, 10, 40


def comparison_text(done: Comparison, result_format: ResultFormat) -> str:
    """Return the comparison as JSON, or a table of the most changed classes and images."""
    if result_format is ResultFormat.JSON:
        return to_json(done.to_dict())
    overall = done.overall
    low, high = overall.difference_ci95
    lines = [
        f"first       {format_percent(overall.first_accuracy)}  {_safe(str(done.first))}",
        f"second      {format_percent(overall.second_accuracy)}  {_safe(str(done.second))}",
        f"difference  {_points(overall.difference)} "
        f"(95 % interval {_points(low)} to {_points(high)})",
        f"McNemar     p = {overall.p_value:.3g}: {_verdict(done)}",
        f"images      {overall.images:,}: both correct {overall.both:,}, only the first "
        f"{overall.only_first:,}, only the second {overall.only_second:,}",
    ]
    changed = {name: one for name, one in done.classes.items() if one.only_first or one.only_second}
    if changed:
        shown = list(changed.items())[:CLASSES]
        width = min(WIDTH, max(len("class"), *(len(_safe(name)) for name, _ in shown)))
        lines += ["", f"{'class':<{width}}  images    first   second  only first  only second"]
        lines += [
            f"{_safe(name)[:width]:<{width}}  {one.images:6,}  "
            f"{format_percent(one.first_accuracy):>7}  {format_percent(one.second_accuracy):>7}  "
            f"{one.only_first:10,}  {one.only_second:11,}"
            for name, one in shown
        ]
        if len(changed) > CLASSES:
            lines.append(f"... and {len(changed) - CLASSES:,} more classes")
    if done.differing:
        most_confident = sorted(
            done.differing, key=lambda one: -(one.first_probability + one.second_probability)
        )
        lines += [
            "",
            f"different predictions: {len(done.differing):,} images, most confident first",
        ]
        lines += [_image_line(one) for one in most_confident[:IMAGES]]
    return "\n".join([*lines, "", *done.notes]) + "\n"


def leaderboard_text(done: Leaderboard, result_format: ResultFormat, width: int | None) -> str:
    """Return the comparison of several runs as JSON, or as tables of runs and groups of seeds."""
    if result_format is ResultFormat.JSON:
        return to_json(done.to_dict())
    rows = [("run", "accuracy", "95 % interval", "difference", "p (Holm)")]
    for one in done.runs:
        low, high = one.accuracy_ci95
        p_value = "best" if one.p_value is None else f"{one.p_value:.2g}"
        gap = "" if one.p_value is None else _points(one.difference)
        interval = f"{format_percent(low)} to {format_percent(high)}"
        rows.append((_safe(one.run), format_percent(one.accuracy), interval, gap, p_value))
    title = f"accuracy on the {done.images:,} images of all runs; McNemar's test against the best"
    lines = [title, *align_columns(rows, width=width, elided=[0], right=[1, 2, 3, 4])]
    if not done.images:
        lines = ["no image was scored by all runs: each seed has its own validation images"]
    if done.groups:
        lines += ["", "mean and standard deviation over seeds, each run on all its images"]
        groups = [("settings", "accuracy", "deviation", "difference (95 %)", "seeds")]
        for group in done.groups:
            deviation = "" if group.deviation is None else f"{100 * group.deviation:.1f} points"
            seeds = ", ".join(map(str, group.seeds))
            gap = " to ".join(map(_points, group.difference_ci95 or ())).replace(" points", "", 1)
            mean = format_percent(group.mean)
            groups.append((_safe(group.settings), mean, deviation, gap, seeds))
        lines += align_columns(groups, width=width, elided=[0, 4], right=[1, 2, 3])
    if done.differing:
        lines += ["", f"different predictions: {len(done.differing):,} images; --page shows them"]
    return "\n".join([*lines, "", *done.notes]) + "\n"


def _verdict(done: Comparison) -> str:
    if done.overall.p_value >= 0.05:
        return "not significant"
    return f"the {'second' if done.overall.difference > 0 else 'first'} is better on these images"


def _image_line(one: PredictionPair) -> str:
    scored = {one.first: "first correct", one.second: "second correct"}.get(one.label, "both wrong")
    return (
        f"  {_safe(one.path)}: {_safe(one.first)} {format_percent(one.first_probability)} -> "
        f"{_safe(one.second)} {format_percent(one.second_probability)} ({scored})"
    )


def _points(difference: float) -> str:
    """Return a difference of fractions in percentage points."""
    return f"{100 * difference:+.1f} points"


def _safe(text: str) -> str:
    return terminal_safe(text).replace("\n", "\\n")
