"""The output of `check`: a block for each finding, with a few examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinclf.cli.tables import ResultFormat
from swinclf.files import to_json
from swinclf.reporter import terminal_safe

if TYPE_CHECKING:
    from swinclf.commands.check import Audit
    from swinclf.data_quality.findings import Example, Finding

EXAMPLES, PATHS = 3, 4  # of a finding; of an example


def audit_text(audit: Audit, result_format: ResultFormat) -> str:
    """Return all findings as JSON, or a table with a few examples of each."""
    if result_format is ResultFormat.JSON:
        return to_json(audit.to_dict())
    lines = [f"{len(audit.images):,} images in {len(audit.classes):,} classes"]
    for finding in audit.findings:
        lines += ["", *_block(finding)]
    if audit.is_clean:
        lines += ["", "nothing to fix"]
    return "\n".join(lines) + "\n"


def _block(finding: Finding) -> list[str]:
    lines = [
        f"{'FIX ' if finding.needs_fix else 'note'}  {terminal_safe(finding.message)}",
        f"      -> {finding.advice}",
    ]
    shown = finding.examples[:EXAMPLES]
    lines += [f"      {_one_line(one)}" for one in shown if one.paths or one.note]
    if finding.count > EXAMPLES:
        lines.append(f"      ... and {finding.count - EXAMPLES:,} more")
    return lines


def _one_line(example: Example) -> str:
    paths = "  =  ".join(example.paths[:PATHS])
    if len(example.paths) > PATHS:
        paths += f"  and {len(example.paths) - PATHS:,} more"
    text = f"{paths}  ({example.note})" if paths and example.note else paths or example.note
    return terminal_safe(text).replace("\n", "\\n")
