"""What `compare` prints: the difference and its interval, the classes, the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinclf.cli.tables import ResultFormat
from swinclf.files import to_json
from swinclf.reporter import terminal_safe

if TYPE_CHECKING:
    from swinclf.commands.compare import Comparison
    from swinclf.reporting.paired_comparison import PredictionPair

CLASSES, IMAGES, WIDTH = 20, 10, 40


def comparison_text(done: Comparison, result_format: ResultFormat) -> str:
    """All of it as JSON, or the most changed classes and the surest changed images."""
    if result_format is ResultFormat.JSON:
        return to_json(done.to_dict())
    overall = done.overall
    low, high = overall.difference_ci95
    lines = [
        f"first       {overall.first_accuracy:.1%}  {_safe(str(done.first))}",
        f"second      {overall.second_accuracy:.1%}  {_safe(str(done.second))}",
        f"difference  {_points(overall.difference)} "
        f"(95 % interval {_points(low)} to {_points(high)})",
        f"McNemar     p = {overall.p_value:.3g}: {_verdict(done)}",
        f"images      {overall.images:,}: both right {overall.both:,}, only the first "
        f"{overall.only_first:,}, only the second {overall.only_second:,}",
    ]
    changed = {name: one for name, one in done.classes.items() if one.only_first or one.only_second}
    if changed:
        shown = list(changed.items())[:CLASSES]
        width = min(WIDTH, max(len("class"), *(len(_safe(name)) for name, _ in shown)))
        lines += ["", f"{'class':<{width}}  images   first  second  only first  only second"]
        lines += [
            f"{_safe(name)[:width]:<{width}}  {one.images:6,}  {one.first_accuracy:6.1%}  "
            f"{one.second_accuracy:6.1%}  {one.only_first:10,}  {one.only_second:11,}"
            for name, one in shown
        ]
        if len(changed) > CLASSES:
            lines.append(f"... and {len(changed) - CLASSES:,} more classes")
    if done.differing:
        surest = sorted(
            done.differing, key=lambda one: -(one.first_probability + one.second_probability)
        )
        lines += ["", f"called differently: {len(done.differing):,} images, the surest first"]
        lines += [_image_line(one) for one in surest[:IMAGES]]
    return "\n".join(lines) + "\n"


def _verdict(done: Comparison) -> str:
    if done.overall.p_value >= 0.05:
        return "may be chance"
    return f"the {'second' if done.overall.difference > 0 else 'first'} is better"


def _image_line(one: PredictionPair) -> str:
    right = {one.first: "first right", one.second: "second right"}.get(one.label, "both wrong")
    return (
        f"  {_safe(one.path)}: {_safe(one.first)} {one.first_probability:.1%} -> "
        f"{_safe(one.second)} {one.second_probability:.1%} ({right})"
    )


def _points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:+.1f} points"


def _safe(text: str) -> str:
    return terminal_safe(text).replace("\n", "\\n")
