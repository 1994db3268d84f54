"""The state of a training: everything that changes from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from swinclf.device import Hardware, Precision
from swinclf.reporter import EpochRow
from swinclf.training.epoch_sums import EpochSums
from swinclf.training.objective import CrossEntropy


@dataclass
class BestEpoch:
    """The best epoch so far, with its weights."""

    epoch: int  # from 1 on; 0 for the linear probe
    score: tuple[float, float]  # validation accuracy and negative validation loss
    weights: dict[str, torch.Tensor]  # by name


@dataclass
class TrainState:
    """Everything that changes in training: the content of a checkpoint."""

    model: nn.Module  # the network, or the head alone
    optimizer: torch.optim.Optimizer  # over the trainable parameters
    scaler: torch.amp.GradScaler  # of the loss, in fp16; has no effect in other precisions
    epoch: int = 0  # epochs finished
    step: int = 0  # steps taken in the current epoch
    sums: EpochSums = field(default_factory=EpochSums)  # of the current epoch
    best: BestEpoch | None = None  # none before the first epoch has ended
    # validation accuracy that an epoch must reach to be the best: the linear probe's
    floor: float = 0.0
    history: list[EpochRow] = field(default_factory=list)  # a row an epoch
    # largest number of images per backward pass; None for whole batches
    micro_batch: int | None = None
    # the loss; its own parameters train with the model
    objective: CrossEntropy = field(default_factory=CrossEntropy)
    frozen_statistics: bool = False  # whether batch-norm statistics are frozen
    average: AveragedModel | None = None  # of the model's weights over the steps; None without one

    @property
    def evaluated(self) -> nn.Module:
        """Return the model that is validated and saved: the average, if there is one."""
        return self.model if self.average is None else self.average.module


def copy_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all weights and buffers by name, on the CPU."""
    return {name: one.detach().cpu().clone() for name, one in model.state_dict().items()}


def build_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, hardware: Hardware
) -> TrainState:
    """Return the state before the first step."""
    kind = hardware.device.partition(":")[0]
    scaler = torch.amp.GradScaler(kind, enabled=hardware.precision is Precision.FP16)
    return TrainState(model, optimizer, scaler)
