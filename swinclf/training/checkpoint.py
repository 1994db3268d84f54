"""last.ckpt: the whole state of a training, so that it goes on as if it had never stopped."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from swinclf.errors import RunError
from swinclf.models.tensorfile import read_tensors, write_tensors
from swinclf.progress import EpochRow
from swinclf.training.loop import Best, Sums, TrainState

SAVE_EVERY_S = 60.0


class CheckpointSaver:
    """Saves a training's state now and then: what a killed process loses is about a minute.

    Args:
        path: The checkpoint file.
        every_s: Seconds between two saves; saving itself never takes more than a tenth of the time.
    """

    def __init__(self, path: Path, *, every_s: float = SAVE_EVERY_S) -> None:
        self.path, self.every_s = path, every_s
        self._due_at = time.monotonic() + every_s

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._due_at

    def save(self, state: TrainState) -> None:
        """Writes the state.

        Raises:
            RunError: If the file cannot be written; the one before it is kept.
        """
        started = time.monotonic()
        save_checkpoint(self.path, state)
        took = time.monotonic() - started
        self._due_at = time.monotonic() + max(self.every_s, 10 * took)


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Writes the state: weights, the best ones, the optimizer's, random numbers, sums, history."""
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
    tensors |= {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {"random/cuda": torch.cuda.get_rng_state()}
    tensors |= {"sums/loss": state.sums.loss, "sums/correct": state.sums.correct}
    facts: dict[str, Any] = {
        "epoch": state.epoch,
        "step": state.step,
        "count": state.sums.count,
        "seconds": state.sums.seconds,
        "history": [asdict(row) for row in state.history],
        "scaler": state.scaler.state_dict(),
        "threads": torch.get_num_threads(),
        "micro_batch": state.micro_batch,
    }
    if state.best is not None:
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.weights.items()}
        facts["best"] = {"epoch": state.best.epoch, "score": state.best.score}
    # A tensor may stand twice (the best weights are the latest ones): safetensors wants each to
    # itself.
    write_tensors(
        path, {name: one.clone() for name, one in tensors.items()}, {"state": json.dumps(facts)}
    )


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Fills a fresh state, built from the same settings, with what was saved.

    Raises:
        RunError, WeightsError: If the file is damaged or of another training.
    """
    tensors, metadata = read_tensors(path)
    try:
        facts = json.loads(metadata["state"])
        state.model.load_state_dict(_below("model/", tensors))
        _load_optimizer(state.optimizer, _below("optimizer/", tensors))
        state.scaler.load_state_dict(facts["scaler"])
        state.epoch, state.step = facts["epoch"], facts["step"]
        state.micro_batch = facts["micro_batch"]
        state.sums = Sums(
            tensors["sums/loss"], tensors["sums/correct"], facts["count"], facts["seconds"]
        )
        state.history = [EpochRow(**row) for row in facts["history"]]
        if "best" in facts:
            loss_and_score = tuple(facts["best"]["score"])
            state.best = Best(facts["best"]["epoch"], loss_and_score, _below("best/", tensors))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"the state of this training in '{path}'",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="start again: swinclf train DATA",
        ) from error
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    saved: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        saved.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved})
