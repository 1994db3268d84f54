"""The teacher of a distillation: a frozen network, given by path or by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swinclf.data.class_names import list_some
from swinclf.errors import ModelError, RunError
from swinclf.export_formats import MODEL_SUFFIXES
from swinclf.files import file_digest
from swinclf.latest_run import follow_latest
from swinclf.models.build import build_pretrained, default_preprocess
from swinclf.models.embedded import EMBEDDED
from swinclf.models.names import OWN_SHAPES, Architecture, default_impl
from swinclf.models.store import load_model
from swinclf.preprocess import Preprocess
from swinclf.reporter import Reporter
from swinclf.run_folder import find_model
from swinclf.training.feature_cache import weights_digest
from swinclf.training.linear_probe import linear_classifiers

NEEDS = "a teacher: a run, its model.safetensors, or the name of a model"


@dataclass(frozen=True)
class Teacher:
    """A network to learn from."""

    name: str  # its name in the report
    network_id: str  # what distinguishes the network from others of the same weights, for the cache
    network: nn.Module  # in float32, in evaluation mode, frozen
    preprocess: Preprocess
    # of its head, in order; None for a model whose head is still to be fitted
    classes: tuple[str, ...] | None
    digest: str  # of its weights


def locate_teacher(named: str) -> str:
    """Return the absolute path of --teacher if it is a run or a file, a model's name unchanged."""
    path = follow_latest(Path(named))
    is_name = named == EMBEDDED or not (path.exists() or _is_path(named))
    return named if is_name else str(path.resolve())


def open_teacher(named: str, num_classes: int, report: Reporter) -> Teacher:
    """Build a teacher from the result of `locate_teacher`.

    `num_classes` is for the head of a model without one.

    Raises:
        RunError, WeightsError: If there is no such run, or its file cannot be read.
        ModelError: If there is no such model, or its head is not linear.
    """
    is_file = Path(named).is_absolute()
    teacher = _open_file(Path(named)) if is_file else _build_model(named, num_classes, report)
    teacher.network.eval().requires_grad_(False)
    linear_classifiers(teacher.network)  # fail early if the head is not linear
    return teacher


def check_classes(teacher: Teacher, classes: Sequence[str]) -> None:
    """Check that the teacher's head, if it has one, has the dataset's classes.

    Raises:
        ModelError: If it has others, with their names.
    """
    if teacher.classes is None:
        return
    lacking = [name for name in classes if name not in teacher.classes]
    unknown = [name for name in teacher.classes if name not in classes]
    found = [f"it lacks {list_some(lacking)}"] if lacking else []
    found += [f"the dataset has no {list_some(unknown)}"] if unknown else []
    if found:
        raise ModelError(
            f"a teacher with the dataset's {len(classes)} classes, '{teacher.name}'",
            found="; ".join(found),
            hint="a teacher trained on these classes, or a model without a head: "
            f"--teacher {EMBEDDED}",
        )


def extract_head(teacher: Teacher, classes: Sequence[str]) -> nn.Linear:
    """Return the teacher's own head, with its rows reordered to these classes of the student.

    Raises:
        ModelError: If it has two different heads.
    """
    assert teacher.classes is not None
    first, *others = linear_classifiers(teacher.network)
    if any(not torch.equal(one.weight, first.weight) for one in others):
        raise ModelError(
            "a teacher with one classification head", found="two", hint="another --teacher"
        )
    order = torch.tensor([teacher.classes.index(name) for name in classes])
    head = nn.Linear(first.in_features, len(classes)).requires_grad_(False)
    head.weight.copy_(first.weight[order])
    head.bias.copy_(first.bias[order] if first.bias is not None else torch.zeros(len(order)))
    return head


def _is_path(named: str) -> bool:
    return "/" in named or "\\" in named or named.lower().endswith(MODEL_SUFFIXES)


def _open_file(where: Path) -> Teacher:
    """Load a run's model with its head."""
    path = find_model(where)
    if path.suffix.lower() != ".safetensors":
        raise RunError(NEEDS, found=f"an exported file, '{path}'", hint="its run")
    network, card = load_model(path)
    name = path.parent.name if path.name == "model.safetensors" else path.name
    network_id = f"{card.model} {sorted(card.model_args.items())}"
    return Teacher(name, network_id, network, card.preprocess, card.classes, file_digest(path))


def _build_model(name: str, num_classes: int, report: Reporter) -> Teacher:
    """Build a network with published weights, without a fitted head."""
    if name in OWN_SHAPES:
        raise ModelError(
            NEEDS, found=f"'{name}', a custom architecture without weights", hint="--teacher RUN"
        )
    architecture = Architecture(name, default_impl(name), num_classes)
    try:
        network = build_pretrained(architecture, report=report)
    except ModelError as error:
        raise ModelError(
            NEEDS, found=f"nothing at the path '{name}', and no model of this name", hint=error.hint
        ) from error
    preprocess = default_preprocess(architecture)
    return Teacher(name, name, network, preprocess, None, weights_digest(network))
