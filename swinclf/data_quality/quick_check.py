"""The quick form of a check: what is known for free once every file has been read for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from swinclf.data.folder import ImageFile
from swinclf.data_quality.duplicate_groups import same_bytes
from swinclf.data_quality.findings import Finding, find_class_faults, find_copies
from swinclf.reporting.report_data import EXAMPLES, FindingSummary


def quick_findings(images: Sequence[ImageFile], digests: Mapping[str, bytes]) -> Iterator[Finding]:
    """Copies by their bytes, two labels, leaks, tiny classes, imbalance.

    Args:
        images: With the splits that the folders say.
        digests: Content digest of every readable image, by path.
    """
    readable = [image for image in images if image.path in digests]
    yield from find_copies(readable, same_bytes([digests[image.path] for image in readable]))
    yield from find_class_faults(readable)


def in_one_line(finding: Finding) -> str:
    """A finding with its first example and what to do."""
    first = finding.examples[0]
    return f"{finding.says}, e.g. {' = '.join(first.paths[:2]) or first.note}: {finding.advice}"


def for_report(finding: Finding) -> FindingSummary:
    """What a run's report shows of a finding: images where it is about images, else its notes."""
    paths = [path for example in finding.examples for path in example.paths]
    notes = [example.note for example in finding.examples if not example.paths]
    return FindingSummary(finding.says, finding.advice, paths[:EXAMPLES], notes[:EXAMPLES])
