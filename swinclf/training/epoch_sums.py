"""The sums of an epoch: loss, correct predictions and images, divided once at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from swinclf.processes import Processes
from swinclf.training.batches import UNLABELLED


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
