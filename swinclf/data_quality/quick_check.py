"""Checks that need only paths, labels and digests: run at every training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from swinclf.data.folder import ImageFile
from swinclf.data_quality.duplicate_groups import group_identical
from swinclf.data_quality.findings import Finding, find_class_faults, find_duplicates
from swinclf.reporting.report_data import EXAMPLES, FindingSummary


def quick_findings(images: Sequence[ImageFile], digests: Mapping[str, bytes]) -> Iterator[Finding]:
    """Yield exact duplicates, conflicting labels, leaks, tiny classes and class imbalance.

    `digests` has the content digest of every readable image, by path.
    """
    readable = [image for image in images if image.path in digests]
    yield from find_duplicates(readable, group_identical([digests[one.path] for one in readable]))
    yield from find_class_faults(readable)


def format_finding(finding: Finding) -> str:
    """Return a finding in one line, with its first example and the advice."""
    first = finding.examples[0]
    return f"{finding.message}, e.g. {' = '.join(first.paths[:2]) or first.note}: {finding.advice}"


def to_report_finding(finding: Finding) -> FindingSummary:
    """Return a finding as a run's report shows it, with its first few images and notes."""
    paths = [path for example in finding.examples for path in example.paths]
    notes = [example.note for example in finding.examples if not example.paths]
    return FindingSummary(finding.message, finding.advice, paths[:EXAMPLES], notes[:EXAMPLES])
