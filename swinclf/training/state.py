"""The state of a training: everything that changes from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from swinclf.device import Hardware, Precision
from swinclf.processes import Processes
from swinclf.reporter import EpochRow
from swinclf.training.batches import UNLABELLED
from swinclf.training.objective import CrossEntropy


@dataclass
class EpochSums:
    """Running sums of an epoch, divided once, at its end.

    Values stay on the device until `fetch` fetches those of many steps at once and sums them up in
    float64 on the CPU: waiting after every step is slow, and MPS has no float64.
    """

    loss: float = 0.0  # sum of the fetched losses
    correct: int = 0  # number of correct predictions among them
    count: int = 0  # images
    seconds: float = 0.0  # time spent training
    labelled: int = 0  # fetched images that have a label
    _losses: list[torch.Tensor] = field(default_factory=list)  # (B,) of each batch
    _hits: list[torch.Tensor] = field(default_factory=list)  # (B,) bool
    _labels: list[torch.Tensor] = field(default_factory=list)  # (B,) bool

    def add(self, losses: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch: losses (B,), logits (B, K), targets (B,)."""
        self._losses.append(losses)
        self._hits.append(logits.argmax(1) == targets)
        self._labels.append(targets != UNLABELLED)
        self.count += len(targets)

    def fetch(self) -> None:
        """Add the values still on the device; the sums do not depend on when this is called."""
        if not self._losses:
            return
        sizes = [len(losses) for losses in self._losses]
        losses, hits = torch.cat(self._losses).cpu(), torch.cat(self._hits).cpu()
        for batch in losses.double().split(sizes):
            self.loss += float(batch.sum())
        self.correct += int(hits.sum())
        self.labelled += int(torch.cat(self._labels).sum())
        self._losses.clear()
        self._hits.clear()
        self._labels.clear()

    def add_others(self, processes: Processes) -> None:
        """Add the sums of all other processes, so that each has those of all."""
        if processes.count == 1:
            return
        self.fetch()
        self.loss, *counts = processes.total([self.loss, self.correct, self.count, self.labelled])
        self.correct, self.count, self.labelled = map(int, counts)

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy of labelled images; nan without any."""
        self.fetch()
        loss = self.loss / self.count if self.count else math.nan
        return loss, self.correct / self.labelled if self.labelled else math.nan


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
    # validation accuracy that an epoch must reach to be the best: the linear probe's less its
    # standard error
    floor: float = 0.0
    history: list[EpochRow] = field(default_factory=list)  # a row an epoch
    # largest number of images per backward pass; None for whole batches
    micro_batch: int | None = None
    # the loss; its own parameters train with the model
    objective: CrossEntropy = field(default_factory=CrossEntropy)
    frozen_statistics: bool = False  # whether batch-norm statistics are frozen
    average: WeightAverage | None = None  # of the weights over the steps; None without one

    @property
    def evaluated(self) -> nn.Module:
        """Return the model that is validated and saved: the average, if there is one."""
        return self.model if self.average is None else self.average.module


def copy_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all weights and buffers by name, on the CPU."""
    return {name: one.detach().to("cpu", copy=True) for name, one in model.state_dict().items()}


def build_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, hardware: Hardware
) -> TrainState:
    """Return the state before the first step."""
    kind = hardware.device.partition(":")[0]
    scaler = torch.amp.GradScaler(kind, enabled=hardware.precision is Precision.FP16)
    return TrainState(model, optimizer, scaler)


class WeightAverage(AveragedModel):
    """The exponential moving average (EMA) of a copied model's weights, so far the model itself.

    `decay` is the weight of the old average at each step, in (0, 1). As in timm and TensorFlow, the
    first steps are averaged over fewer weights: at step n it is at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average a further step, without waiting for a GPU as torch's own method does."""
        step = int(self.n_averaged)  # on the CPU
        tensors = ([*one.parameters(), *one.buffers()] for one in (self.module, model))
        pairs = list(zip(*tensors, strict=True))
        averaged = [pair for pair in pairs if step and pair[0].is_floating_point()]
        if averaged:
            share = 1 - min(self._decay, (1 + step) / (10 + step))
            averages, weights = zip(*averaged, strict=True)
            torch._foreach_lerp_(list(averages), list(weights), share)
        for old, new in pairs:
            if not step or not old.is_floating_point():  # the counter of batch norm
                old.copy_(new)
        self.n_averaged += 1
