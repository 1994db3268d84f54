"""What a run was begun with: kept in its checkpoints, held by a resume against what it finds.

What would make another run of it is refused. What changes nothing, or roundings only, is said.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinclf.config import MOVABLE, SETTINGS
from swinclf.data.dataset import Dataset
from swinclf.data.folder import scan_folder
from swinclf.device import versions
from swinclf.errors import DataError, RunError
from swinclf.files import file_digest
from swinclf.models.tensorfile import tensors_digest
from swinclf.preprocess import Preprocess
from swinclf.reporting.report_data import FindingSummary
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings
from swinclf.training.linear_probe import linear_classifiers

DIGEST_BYTES = 16
# Where things are, what a run is called and how many threads read change no bit of it; that images
# and frozen weights are the same ones is known by their content.
FREE_SETTINGS = frozenset({*MOVABLE, "out", "name"})


@dataclass(frozen=True)
class Origin:
    """What a run was begun with.

    Attributes:
        settings: Every setting as resolved.
        versions: Of everything that can change an answer.
        machine: What else roundings depend on.
        files: sha256 of the run's own small files, by name.
        network: Digest of the frozen network's weights, which no checkpoint holds; empty where
            the network trains.
        images: (N, 16) uint8, the content digest of every image in the order of split.csv.
        teacher: Digest of the teacher's weights; empty without a teacher.
        faults: What was found wrong with the dataset, for the report. It cannot be found again: a
            run's own images are each in a split, and all readable.
        ranges: Which values of more than 8 bits are black and white, as `Preprocess.to_dict` has
            it; none in runs that were begun before there were any.
    """

    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    files: Mapping[str, str]
    network: str
    images: torch.Tensor
    faults: Sequence[FindingSummary] = ()
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    teacher: str = ""

    def to_json(self) -> dict[str, Any]:
        """All but the images."""
        return {
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "files": dict(self.files),
            "network": self.network,
            "faults": [asdict(fault) for fault in self.faults],
            "ranges": dict(self.ranges),
            "teacher": self.teacher,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], images: torch.Tensor) -> Origin:
        """The opposite of `to_json`.

        Raises:
            KeyError, TypeError: If something is missing.
        """
        faults = [FindingSummary(**fault) for fault in facts.get("faults", ())]
        return cls(images=images, **{**facts, "faults": faults})


def origin_of(
    settings: Settings,
    run: RunFolder,
    dataset: Dataset,
    digests: Mapping[str, bytes],
    *,
    network: str,
    faults: Sequence[FindingSummary],
    preprocess: Preprocess,
    teacher: str = "",
) -> Origin:
    """What a run is begun with, its small files being written.

    Args:
        settings: Every setting as resolved.
        run: The run's folder, or its draft.
        dataset: The images.
        digests: The content digest of each, by path.
        network: As in `Origin`.
        faults: As in `Origin`.
        preprocess: Whose ranges are kept.
        teacher: As in `Origin`.
    """
    files = [path for path in (run.split, run.class_indices, run.unlabelled) if path.is_file()]
    return Origin(
        settings=settings_facts(settings),
        versions=versions(),
        machine=machine_facts(settings.config.device),
        files={path.name: file_digest(path) for path in files},
        network=network,
        images=image_digests(dataset, digests),
        faults=faults,
        ranges=preprocess.to_dict().get("ranges", {}),
        teacher=teacher,
    )


def settings_facts(settings: Settings) -> dict[str, Any]:
    """Every setting, as JSON brings it back."""
    values = {name: getattr(settings.config, name) for name in SETTINGS}
    facts: dict[str, Any] = json.loads(json.dumps(values))
    return facts


def machine_facts(device: str) -> dict[str, str]:
    """What roundings depend on besides versions and settings."""
    facts = {"machine": platform.machine(), "CPU": torch.backends.cpu.get_cpu_capability()}
    if device.startswith("cuda"):
        facts["GPU"] = torch.cuda.get_device_name(device)
    return facts


def image_digests(dataset: Dataset, digests: Mapping[str, bytes]) -> torch.Tensor:
    """(N, 16) uint8: the content digest of every image of a dataset, in its order."""
    joined = bytearray(b"".join(digests[image.path] for image in dataset.images))
    return torch.frombuffer(joined, dtype=torch.uint8).reshape(-1, DIGEST_BYTES)


def frozen_digest(network: nn.Module) -> str:
    """The digest of all of a network's weights but its head's."""
    head = {id(one) for layer in linear_classifiers(network) for one in layer.parameters()}
    weights = network.state_dict(keep_vars=True).items()
    return tensors_digest({name: one.cpu() for name, one in weights if id(one) not in head}, {})


def check_settings(origin: Origin, settings: Settings, run: RunFolder) -> list[str]:
    """Compares the settings and the run's own files with what the run was begun with.

    Args:
        origin: What the checkpoint says.
        settings: As read from config.json, before anything is chosen.
        run: The run.

    Returns:
        What has changed and may, a line each.

    Raises:
        RunError: If one has been edited.
    """
    now = settings_facts(settings)
    changed = [name for name in SETTINGS if origin.settings.get(name) != now[name]]
    bad = [
        f"{name} {now[name]} instead of {origin.settings.get(name)}"
        for name in changed
        if name not in FREE_SETTINGS
    ]
    if bad:
        raise _falsified(run.path, f"the settings of '{run.config}' as it was begun with", bad)
    for name, digest in origin.files.items():
        found = file_digest(run.path / name)
        if found != digest:
            raise _falsified(
                run.path,
                f"'{run.path / name}' as it was written when the run began (sha256 {digest[:12]})",
                [f"another content (sha256 {found[:12]})" if found else "no such file"],
            )
    free = [name for name in changed if name in MOVABLE]
    notes = [f"{name} {origin.settings.get(name)} -> {now[name]} (changes no bit)" for name in free]
    new = {**versions(), **machine_facts(settings.config.device)}
    old = {**origin.versions, **origin.machine}
    moved = [
        f"{name} {old.get(name)} -> {now}" for name, now in new.items() if old.get(name) != now
    ]
    if moved:
        notes.append(f"{', '.join(moved)}: the run will be what it would have been to rounding")
    return notes


def check_network(origin: Origin, found: str, run: Path) -> None:
    """Refuses a frozen network, by its digest, that is not the one the run was begun with.

    Raises:
        RunError: Then.
    """
    if found != origin.network:
        raise _falsified(
            run,
            f"the trained weights that the run was begun with (sha256 {origin.network[:12]})",
            [f"others (sha256 {found[:12]})"],
        )


def check_teacher(origin: Origin, found: str, run: Path) -> None:
    """Refuses a teacher, by the digest of its weights, that is not the one a run was begun with.

    Raises:
        RunError: Then.
    """
    if found != origin.teacher:
        raise _falsified(
            run,
            f"the teacher that the run was begun with (digest {origin.teacher[:12]})",
            [f"another one (digest {found[:12]})"],
        )


def check_images(
    origin: Origin,
    dataset: Dataset,
    digests: Mapping[str, bytes],
    errors: Mapping[str, str],
    run: RunFolder,
) -> list[str]:
    """Compares the images with those that the run was begun with.

    Args:
        origin: What the checkpoint says.
        dataset: The run's images.
        digests: The content digest of each one that can be read, by path.
        errors: Why it cannot, of the others.
        run: The run.

    Returns:
        What has changed and may, a line each.

    Raises:
        RunError: If an image of the run has gone, or is another one now.
    """
    expected = f"the {len(dataset.images):,} images that '{run.path}' was begun with"
    put_back = (
        "put them back, or name the folder that holds them: swinclf train DATA --resume "
        f"'{run.path}', or start again: swinclf train '{dataset.root}'"
    )
    if errors:
        path, reason = next(iter(errors.items()))
        folder = (dataset.root / path).parent
        why = reason if folder.is_dir() else f"no folder '{folder}' any more"
        found = f"{len(errors):,} of them unreadable now, e.g. {path}: {why}"
        raise RunError(expected, found=found, hint=put_back)
    differs = (image_digests(dataset, digests) != origin.images).any(dim=1)
    if differs.any():
        first = dataset.images[int(differs.nonzero()[0])].path
        found = f"{int(differs.sum()):,} of them with another content now, e.g. {first}"
        raise RunError(expected, found=found, hint=put_back)
    known = {image.path for image in dataset.images} | {one.path for one in dataset.skipped}
    try:
        val = origin.settings.get("val")
        index = scan_folder(dataset.root, val=Path(val) if val else None)
    except DataError:
        return []
    new = [image.path for image in index.images if image.path not in known]
    return [f"{len(new):,} images are new, e.g. {new[0]}: this run does without"] if new else []


def _falsified(run: Path, expected: str, found: list[str]) -> RunError:
    return RunError(
        expected,
        found="; ".join(found),
        hint=f"put that back, then: swinclf train --resume '{run}'; or a new run",
    )
