"""last.ckpt: the full state of a training, so that a resumed run continues bit for bit.

The checkpoint before it stays as previous.ckpt, to fall back on if the newest is damaged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinclf.errors import RunError, WeightsError
from swinclf.files import replace_path
from swinclf.models.tensorfile import read_tensors, write_tensors
from swinclf.reporter import EpochRow
from swinclf.run_folder import RunFolder
from swinclf.training.loop import Saver
from swinclf.training.resume_guard import RunFingerprint
from swinclf.training.state import BestEpoch, EpochSums, TrainState

SAVE_EVERY_S = 60.0  # at least this; more if saving took more than a tenth of the time


class CheckpointSaver(Saver):
    """Periodic checkpointing of a training: a killed process loses about a minute."""

    def __init__(self, run: RunFolder, fingerprint: RunFingerprint) -> None:
        self._run, self._origin = run, fingerprint
        self._due_at = time.monotonic() + SAVE_EVERY_S

    def is_due(self) -> bool:
        """Return whether the next save is due."""
        return time.monotonic() >= self._due_at

    def save(self, state: TrainState) -> None:
        """Save the state; raises as `save_checkpoint`."""
        started = time.monotonic()
        save_checkpoint(self._run, state, self._origin)
        took = time.monotonic() - started
        self._due_at = time.monotonic() + max(SAVE_EVERY_S, 10 * took)


def save_checkpoint(run: RunFolder, state: TrainState, fingerprint: RunFingerprint) -> None:
    """Save weights, best weights, optimizer and random states, sums and history.

    Raises:
        RunError: If the file cannot be written; the checkpoint before it stays.
    """
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer/{index}/{key}": value
            for key, value in values.items()
            if isinstance(value, torch.Tensor)  # Muon also notes how it takes the steps
        }
    objective = state.objective.state_dict().items()
    tensors |= {f"objective/{name}": tensor for name, tensor in objective}
    if state.average is not None:
        average = state.average.state_dict().items()
        tensors |= {f"average/{name}": tensor for name, tensor in average}
    tensors |= _random_states(state.model)
    state.sums.fetch()
    tensors |= {
        "sums/loss": torch.tensor(state.sums.loss, dtype=torch.float64),
        "sums/correct": torch.tensor(state.sums.correct, dtype=torch.int64),
    }
    tensors |= {"origin/images": fingerprint.images}
    record: dict[str, Any] = {
        "epoch": state.epoch,
        "step": state.step,
        "count": state.sums.count,
        "seconds": state.sums.seconds,
        "labelled": state.sums.labelled,
        "history": [asdict(row) for row in state.history],
        "floor": state.floor,
        "scaler": state.scaler.state_dict(),
        "threads": torch.get_num_threads(),
        "micro_batch": state.micro_batch,
        "origin": fingerprint.to_json(),
    }
    if state.best is not None:
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.weights.items()}
        record["best"] = {"epoch": state.best.epoch, "score": state.best.score}
    metadata = {"state": json.dumps(record)}
    write_tensors(run.checkpoint, tensors, metadata, previous=run.previous_checkpoint)


def remove_checkpoints(run: RunFolder) -> None:
    """Remove the checkpoints of a finished run, the newest last: it marks the run as unfinished."""
    run.previous_checkpoint.unlink(missing_ok=True)
    run.checkpoint.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk."""

    path: Path
    tensors: Mapping[str, torch.Tensor]  # by name
    record: Mapping[str, Any]  # everything that is no tensor, by name
    fingerprint: RunFingerprint
    newer_error: str = ""  # why a newer checkpoint could not be read; empty if this is the newest


def read_checkpoint(run: RunFolder) -> Checkpoint:
    """Read the newest intact checkpoint of a run.

    Raises:
        RunError, WeightsError: If there is none, or all are damaged.
    """
    try:
        return _read(run.checkpoint)
    except (RunError, WeightsError) as error:
        if not run.previous_checkpoint.is_file():
            raise
        try:
            previous = _read(run.previous_checkpoint)
        except (RunError, WeightsError):
            raise error from None
        return replace(previous, newer_error=error.found)


def use_previous_checkpoint(run: RunFolder) -> None:
    """Replace the newest checkpoint, which is damaged, by the one before it."""
    replace_path(run.previous_checkpoint, run.checkpoint)


def _read(path: Path) -> Checkpoint:
    tensors, metadata = read_tensors(path, signed=True)
    try:
        record = json.loads(metadata["state"])
        fingerprint = RunFingerprint.from_json(record["origin"], tensors["origin/images"])
    except (KeyError, TypeError, ValueError) as error:
        raise _another_training(path, error) from error
    return Checkpoint(path, tensors, record, fingerprint)


def restore(saved: Checkpoint, state: TrainState) -> None:
    """Load a checkpoint into a fresh state that was built from the same settings.

    Raises:
        RunError: If it is the checkpoint of another training.
    """
    tensors, record = saved.tensors, saved.record
    try:
        state.model.load_state_dict(_below("model/", tensors))
        state.objective.load_state_dict(_below("objective/", tensors))
        if state.average is not None:
            state.average.load_state_dict(_below("average/", tensors))
        _load_optimizer(state.optimizer, _below("optimizer/", tensors))
        state.scaler.load_state_dict(record["scaler"])
        state.epoch, state.step = record["epoch"], record["step"]
        state.micro_batch = record["micro_batch"]
        loss, correct = float(tensors["sums/loss"]), int(tensors["sums/correct"])
        counts = record["count"], record["seconds"], record["labelled"]
        state.sums = EpochSums(loss, correct, *counts)
        state.floor = record.get("floor", state.floor)  # runs of earlier versions have none
        state.history = [EpochRow(**row) for row in record["history"]]
        if "best" in record:
            score = tuple(record["best"]["score"])
            state.best = BestEpoch(record["best"]["epoch"], score, _below("best/", tensors))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _another_training(saved.path, error) from error
    torch.set_rng_state(tensors["random/cpu"])
    for name, generator in _device_generators(state.model).items():
        if f"random/{name}" in tensors:
            generator.set_rng_state(tensors[f"random/{name}"])


def load_teacher_head(saved: Checkpoint) -> nn.Linear:
    """Return the teacher's head that was fitted when a distillation began, on the CPU.

    Raises:
        RunError: If it is the checkpoint of another training.
    """
    try:
        weight, bias = (saved.tensors[f"objective/head_{name}"] for name in ("weight", "bias"))
        head = nn.Linear(weight.shape[1], len(bias)).requires_grad_(False)
        head.load_state_dict({"weight": weight, "bias": bias})
    except (KeyError, IndexError, RuntimeError) as error:
        raise _another_training(saved.path, error) from error
    return head


def _random_states(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of every random generator that a model uses, by its name in the file."""
    devices = _device_generators(model).items()
    states = {f"random/{name}": generator.get_rng_state() for name, generator in devices}
    return {"random/cpu": torch.get_rng_state(), **states}


def _device_generators(model: nn.Module) -> dict[str, Any]:
    """Return torch's module of a model's device, if that has a random generator of its own."""
    kind = next(model.parameters()).device.type
    return {kind: getattr(torch, kind)} if kind in ("cuda", "mps") else {}


def _another_training(path: Path, error: Exception) -> RunError:
    return RunError(
        f"a checkpoint of this training in '{path}'",
        found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        hint="start again: swinclf train DATA",
    )


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    saved: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        saved.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved})
    # Files hold contiguous tensors; a fused step needs the memory format of the weight.
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
