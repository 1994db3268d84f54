"""The fingerprint of a run: stored in its checkpoints, checked on resume.

Differences that would change the run are refused; those that change nothing, or only rounding, are
reported.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from swinclf.config import MOVABLE, SETTINGS
from swinclf.data.folder import FolderIndex, scan_folder
from swinclf.device import versions
from swinclf.errors import DataError, RunError
from swinclf.files import file_digest
from swinclf.reporting.report_data import FindingSummary
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings
from swinclf.shell_quoting import quoted

DIGEST_BYTES = 16
# Paths, the run's name and the number of reader threads do not change the result; images and frozen
# weights are compared by content.
FREE_SETTINGS = frozenset({*MOVABLE, "out", "name"})


@dataclass(frozen=True)
class RunFingerprint:
    """Everything that the result of a run depends on."""

    settings: Mapping[str, Any]  # every setting as resolved
    versions: Mapping[str, str]  # of every package that can change a prediction
    machine: Mapping[str, str]  # what else rounding depends on
    files: Mapping[str, str]  # sha256 of the run's own small files, by name
    # digest of the frozen network's weights, which are in no checkpoint; empty where the network
    # trains
    network: str
    # (N, 16) uint8, the content digest of every image in the order of split.csv
    images: torch.Tensor
    # problems of the dataset, for the report. A resumed run cannot find them again: it reads only
    # its own images, which are all readable
    findings: Sequence[FindingSummary] = ()
    # value ranges of images of more than 8 bits, as in `Preprocess.to_dict`; empty in runs of
    # versions that had none
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    teacher: str = ""  # digest of the teacher's weights; empty without a teacher

    def to_json(self) -> dict[str, Any]:
        """Return everything but the images."""
        values = {**vars(self), "faults": [asdict(finding) for finding in self.findings]}
        return {name: one for name, one in values.items() if name not in ("images", "findings")}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], images: torch.Tensor) -> RunFingerprint:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError: If something is missing.
        """
        values = {name: value for name, value in record.items() if name != "faults"}
        findings = [FindingSummary(**finding) for finding in record.get("faults", ())]
        return cls(images=images, findings=findings, **values)


def settings_record(settings: Settings) -> dict[str, Any]:
    """Return every setting, as read back from JSON."""
    values = {name: getattr(settings.config, name) for name in SETTINGS}
    record: dict[str, Any] = json.loads(json.dumps(values))
    return record


def machine_record(device: str) -> dict[str, str]:
    """Return what rounding depends on besides versions and settings."""
    record = {"machine": platform.machine(), "CPU": torch.backends.cpu.get_cpu_capability()}
    if device.startswith("cuda"):
        record["GPU"] = torch.cuda.get_device_name(device)
    return record


def image_digests(dataset: FolderIndex, digests: Mapping[str, bytes]) -> torch.Tensor:
    """Return the content digest of every image of a dataset, in order, (N, 16) uint8."""
    joined = bytearray(b"".join(digests[image.path] for image in dataset.images))
    return torch.frombuffer(joined, dtype=torch.uint8).reshape(-1, DIGEST_BYTES)


def check_settings(
    fingerprint: RunFingerprint, settings: Settings, run: RunFolder, device: str
) -> list[str]:
    """Compare the settings and the run's own files with its fingerprint; return harmless changes.

    The settings are as read from config.json, without defaults; `device` is the one in use, as the
    recorded one may be gone. There is a line for each change.

    Raises:
        RunError: If a setting or a file has been edited.
    """
    now = settings_record(settings)
    changed = [name for name in SETTINGS if fingerprint.settings.get(name) != now[name]]
    bad = [
        f"{name} {now[name]} instead of {fingerprint.settings.get(name)}"
        for name in changed
        if name not in FREE_SETTINGS
    ]
    if bad:
        raise _mismatch(run.path, f"the original settings in '{run.config}'", bad)
    for name, digest in fingerprint.files.items():
        found = file_digest(run.path / name)
        if found != digest:
            raise _mismatch(
                run.path,
                f"the original '{run.path / name}' (sha256 {digest[:12]})",
                [f"changed content (sha256 {found[:12]})" if found else "no such file"],
            )
    free = [name for name in changed if name in MOVABLE]
    old_values = fingerprint.settings
    notes = [f"{name} {old_values.get(name)} -> {now[name]} (same result)" for name in free]
    new = {**versions(), **machine_record(device)}
    old = {**fingerprint.versions, **fingerprint.machine}
    moved = [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    ]
    if moved:
        notes.append(f"{', '.join(moved)}: results may differ by rounding")
    return notes


def check_weights(what: str, digest: str, wanted: str, run: Path) -> None:
    """Check the digest of a run's frozen weights, named `what`, that are in no checkpoint.

    Raises:
        RunError: If they are not those that the run started with.
    """
    if digest != wanted:
        raise _mismatch(
            run,
            f"the {what} that the run started with (sha256 {wanted[:12]})",
            [f"other weights (sha256 {digest[:12]})"],
        )


def check_images(
    fingerprint: RunFingerprint,
    dataset: FolderIndex,
    digests: Mapping[str, bytes],
    errors: Mapping[str, str],
    run: RunFolder,
) -> list[str]:
    """Compare the images with those that the run started with; return harmless changes.

    There is a line for each change. `digests` are the content digests of the readable images,
    `errors` the read errors of the others, both by path.

    Raises:
        RunError: If an image is missing or has changed.
    """
    expected = f"the {len(dataset.images):,} images that '{run.path}' started with"
    put_back = (
        "restore them, or name the folder that has them: swinclf train DATA --resume "
        f"{quoted(run.path)}, or start again: swinclf train {quoted(dataset.root)}"
    )
    if errors:
        path, reason = next(iter(errors.items()))
        folder = (dataset.root / path).parent
        why = reason if folder.is_dir() else f"the folder '{folder}' is gone"
        found = f"{len(errors):,} now unreadable, e.g. {path}: {why}"
        raise RunError(expected, found=found, hint=put_back)
    differs = (image_digests(dataset, digests) != fingerprint.images).any(dim=1)
    if differs.any():
        first = dataset.images[int(differs.nonzero()[0])].path
        found = f"{int(differs.sum()):,} with changed content, e.g. {first}"
        raise RunError(expected, found=found, hint=put_back)
    known = {image.path for image in dataset.images} | {one.path for one in dataset.skipped}
    try:
        val = fingerprint.settings.get("val")
        index = scan_folder(dataset.root, val=Path(val) if val else None)
    except DataError:
        return []
    new = [image.path for image in index.images if image.path not in known]
    return [f"{len(new):,} new images, e.g. {new[0]}: not used by this run"] if new else []


def _mismatch(run: Path, expected: str, found: list[str]) -> RunError:
    return RunError(
        expected,
        found="; ".join(found),
        hint=f"restore that, then: swinclf train --resume {quoted(run)}; or start a new run",
    )
