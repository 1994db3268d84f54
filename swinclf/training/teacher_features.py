"""A teacher's features: those cached for each image and view, or computed per batch.

Features are cached, not logits: the classification head is linear and cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from swinclf.models.compute import Computer
from swinclf.preprocess import Interpolation, Preprocess
from swinclf.training.batches import Batch


class CachedFeatures:
    """Features computed once for each image and view.

    `whole` is (M, D) float16, on the CPU; `rows`, (V * N,) int64, the row in it of each view of
    each image (`Batch.views`).
    """

    def __init__(self, whole: torch.Tensor, rows: torch.Tensor) -> None:
        self._whole, self._rows = whole, rows

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (B, D) float32 on the batch's device, without gradient."""
        assert batch.views is not None
        return self._whole[self._rows[batch.views]].to(batch.inputs.device).float()


class OnlineFeatures:
    """Features of the augmented views that the student sees, computed for each batch.

    `student` is the preprocessing of a batch's inputs, `teacher` that of the teacher.
    """

    def __init__(self, computer: Computer, student: Preprocess, teacher: Preprocess) -> None:
        self._computer = computer
        self._student, self._teacher = student, teacher

    def to(self, device: str) -> None:
        """Move the teacher to another device."""
        self._computer.to(device)

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (B, D) float32 on the batch's device, without gradient."""
        inputs = batch.inputs.detach()
        values = inputs * _colours(self._student.std, inputs) + _colours(self._student.mean, inputs)
        size = self._teacher.height, self._teacher.width
        if values.shape[2:] != size:
            is_linear = self._teacher.interpolation is Interpolation.BILINEAR
            mode = "bilinear" if is_linear else "bicubic"
            values = F.interpolate(values, size, mode=mode, antialias=True).clamp(0, 1)
        mean, std = (_colours(one, inputs) for one in (self._teacher.mean, self._teacher.std))
        # A copy: tensors computed in inference mode cannot be part of a loss.
        return self._computer.features((values - mean) / std).clone()


def _colours(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Return (1, 3, 1, 1) numbers on a tensor's device."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)
