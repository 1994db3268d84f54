"""last.ckpt: the whole state of a training, so that it goes on as if it had never stopped.

The one before it is kept as previous.ckpt: if the newest is damaged, a little more is done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from swinclf.errors import RunError, WeightsError
from swinclf.files import replace_path
from swinclf.models.tensorfile import read_tensors, write_tensors
from swinclf.reporter import EpochRow
from swinclf.run_folder import RunFolder
from swinclf.training.loop import Best, Sums, TrainState
from swinclf.training.resume_guard import Origin

SAVE_EVERY_S = 60.0  # between two saves; saving itself never takes more than a tenth of the time


class CheckpointSaver:
    """Saves a training's state now and then: what a killed process loses is about a minute.

    Args:
        run: The run's folder.
        origin: What the run was begun with.
    """

    def __init__(self, run: RunFolder, origin: Origin) -> None:
        self._run, self._origin = run, origin
        self._due_at = time.monotonic() + SAVE_EVERY_S

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._due_at

    def save(self, state: TrainState) -> None:
        """Writes the state.

        Raises:
            RunError: If the file cannot be written; the one before it is kept.
        """
        started = time.monotonic()
        save_checkpoint(self._run, state, self._origin)
        took = time.monotonic() - started
        self._due_at = time.monotonic() + max(SAVE_EVERY_S, 10 * took)


def save_checkpoint(run: RunFolder, state: TrainState, origin: Origin) -> None:
    """Writes the state: weights, the best ones, the optimizer's, random numbers, sums, history.

    Args:
        run: The run's folder.
        state: Of its training.
        origin: What the run was begun with.

    Raises:
        RunError: If the file cannot be written; the one before it is kept.
    """
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
    objective = state.objective.state_dict().items()
    tensors |= {f"objective/{name}": tensor for name, tensor in objective}
    tensors |= _random_states()
    state.sums.settle()
    tensors |= {
        "sums/loss": torch.tensor(state.sums.loss, dtype=torch.float64),
        "sums/correct": torch.tensor(state.sums.correct, dtype=torch.int64),
    }
    tensors |= {"origin/images": origin.images}
    facts: dict[str, Any] = {
        "epoch": state.epoch,
        "step": state.step,
        "count": state.sums.count,
        "seconds": state.sums.seconds,
        "labelled": state.sums.labelled,
        "history": [asdict(row) for row in state.history],
        "scaler": state.scaler.state_dict(),
        "threads": torch.get_num_threads(),
        "micro_batch": state.micro_batch,
        "origin": origin.to_json(),
    }
    if state.best is not None:
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.weights.items()}
        facts["best"] = {"epoch": state.best.epoch, "score": state.best.score}
    facts_text = {"state": json.dumps(facts)}
    write_tensors(run.checkpoint, tensors, facts_text, previous=run.previous_checkpoint)


def remove_checkpoints(run: RunFolder) -> None:
    """Removes what a finished run needs no more; the newest last, as it says that this is to do."""
    run.previous_checkpoint.unlink(missing_ok=True)
    run.checkpoint.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """A saved state as it lies on disk, whole.

    Attributes:
        path: Its file.
        tensors: By name.
        facts: By name.
        origin: What the run was begun with.
        instead_of: Why a newer one could not be taken; empty where this is the newest.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]
    origin: Origin
    instead_of: str = ""


def read_checkpoint(run: RunFolder) -> Checkpoint:
    """The newest whole checkpoint of a run.

    Raises:
        RunError, WeightsError: If there is none, or every one of them is damaged.
    """
    try:
        return _read(run.checkpoint)
    except (RunError, WeightsError) as error:
        if not run.previous_checkpoint.is_file():
            raise
        try:
            before = _read(run.previous_checkpoint)
        except (RunError, WeightsError):
            raise error from None
        return replace(before, instead_of=error.found)


def step_back(run: RunFolder) -> None:
    """Makes the checkpoint before the newest: that one is damaged, and must not replace a whole."""
    replace_path(run.previous_checkpoint, run.checkpoint)


def _read(path: Path) -> Checkpoint:
    tensors, metadata = read_tensors(path, signed=True)
    try:
        facts = json.loads(metadata["state"])
        origin = Origin.from_json(facts["origin"], tensors["origin/images"])
    except (KeyError, TypeError, ValueError) as error:
        raise _another_training(path, error) from error
    return Checkpoint(path, tensors, facts, origin)


def restore(saved: Checkpoint, state: TrainState) -> None:
    """Fills a fresh state, built from the same settings, with what was saved.

    Raises:
        RunError: If it is the state of another training.
    """
    tensors, facts = saved.tensors, saved.facts
    try:
        state.model.load_state_dict(_below("model/", tensors))
        state.objective.load_state_dict(_below("objective/", tensors))
        _load_optimizer(state.optimizer, _below("optimizer/", tensors))
        state.scaler.load_state_dict(facts["scaler"])
        state.epoch, state.step = facts["epoch"], facts["step"]
        state.micro_batch = facts["micro_batch"]
        loss, correct = float(tensors["sums/loss"]), int(tensors["sums/correct"])
        counts = facts["count"], facts["seconds"], facts["labelled"]
        state.sums = Sums(loss, correct, *counts)
        state.history = [EpochRow(**row) for row in facts["history"]]
        if "best" in facts:
            loss_and_score = tuple(facts["best"]["score"])
            state.best = Best(facts["best"]["epoch"], loss_and_score, _below("best/", tensors))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _another_training(saved.path, error) from error
    torch.set_rng_state(tensors["random/cpu"])
    for name, generator in _device_generators().items():
        if f"random/{name}" in tensors:
            generator.set_rng_state(tensors[f"random/{name}"])


def _random_states() -> dict[str, torch.Tensor]:
    """Return the state of every global generator of random numbers, by its name in the file."""
    devices = _device_generators().items()
    states = {f"random/{name}": generator.get_rng_state() for name, generator in devices}
    return {"random/cpu": torch.get_rng_state(), **states}


def _device_generators() -> dict[str, Any]:
    """Return the modules of the devices of this machine that draw random numbers of their own."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return {name: getattr(torch, name) for name, is_there in has.items() if is_there}


def _another_training(path: Path, error: Exception) -> RunError:
    return RunError(
        f"the state of this training in '{path}'",
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
            if value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
