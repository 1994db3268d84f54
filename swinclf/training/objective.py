"""The training loss: which outputs of the network it needs, and the loss of each image.

An objective is a module, so that its own parameters are trained and saved with the network's. In
distillation, a student learns from labels and from a teacher's outputs.

Letters: B images in a batch, K classes, D features of the teacher, S features of the student.

Source: Hinton, Vinyals & Dean 2015, sec. 2; features through a learned projection:
Romero et al. 2015 (FitNets), sec. 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from swinclf.data.transforms import to_device
from swinclf.models.compute import Computer
from swinclf.preprocess import Colours, Interpolation, Preprocess
from swinclf.training.batches import UNLABELLED, Batch
from swinclf.training.schedule import Schedule

ModelOutputs = tuple[torch.Tensor, ...]


class CrossEntropy(nn.Module):
    """Cross-entropy of the labels, with class weights and label smoothing."""

    def outputs(self, model: nn.Module, batch: Batch) -> ModelOutputs:
        """Return the model's outputs for a batch, logits (B, K) first; called under autocast."""
        return (model(batch.inputs),)

    def losses(self, outputs: ModelOutputs, batch: Batch, schedule: Schedule) -> torch.Tensor:
        """Return the loss of each image, (B,), from the results of `outputs` in float32."""
        return label_losses(outputs[0], batch, schedule)


def label_losses(logits: torch.Tensor, batch: Batch, schedule: Schedule) -> torch.Tensor:
    """Return the cross-entropy of each image, (B,); 0 where there is no label.

    Logits are (B, K) float32. The loss of a mixed image is the mean of those of its two labels,
    weighted by their shares.
    """
    losses = _cross_entropy(logits, batch.targets, schedule)
    if batch.others is None:
        return losses
    return batch.share * losses + (1 - batch.share) * _cross_entropy(logits, batch.others, schedule)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    return F.cross_entropy(
        logits,
        targets,
        weight=schedule.class_weights,
        label_smoothing=schedule.label_smoothing,
        reduction="none",
        ignore_index=UNLABELLED,
    )


class CachedFeatures:
    """A teacher's features, computed once for each image and view; its head is linear and cheap.

    `whole` is (M, D) float16, on the CPU; `rows`, (V * N,) int64, the row in it of each view of
    each image (`Batch.views`).
    """

    def __init__(self, whole: torch.Tensor, rows: torch.Tensor) -> None:
        self._whole, self._rows = whole, rows

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (B, D) float32 on the batch's device, without gradient."""
        assert batch.views is not None
        features = self._whole[self._rows[batch.views]].numpy()
        return to_device(features, str(batch.inputs.device)).float()


class OnlineFeatures:
    """A teacher's features of the augmented views that the student sees, computed for each batch.

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


def _colours(numbers: Colours, like: torch.Tensor) -> torch.Tensor:
    """Return (1, 3, 1, 1) numbers on a tensor's device."""
    return _colours_on(numbers, like.dtype, like.device)


@lru_cache(maxsize=8)
def _colours_on(numbers: Colours, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device).view(1, 3, 1, 1)


@dataclass(frozen=True)
class DistillationTerms:
    """Weights of the loss terms."""

    temperature: float  # divisor of both logits, > 0
    weight: float  # of the soft targets, in [0, 1]; the labels get 1 - weight
    features: float  # of the feature loss, >= 0; 0 turns it off


def soft_target_losses(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of each image, (B,).

    T is the temperature, > 0; both logits are (B, K). The factor keeps the size of the gradient
    about the same for every temperature.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return divergence * temperature**2


def feature_losses(projected: torch.Tensor, standardised: torch.Tensor) -> torch.Tensor:
    """Return 1 - cosine similarity of student and teacher features of each image, (B,).

    Both are (B, D): the student's projected to the teacher's space, the teacher's standardised to
    mean 0 and standard deviation 1.
    """
    return 1 - F.cosine_similarity(projected, standardised, dim=1)


class Distillation(CrossEntropy):
    """(1 - w) cross-entropy + w soft targets + f features; without a label, the last two.

    The teacher's head and the standardisation are buffers, so that a resumed training uses the same
    values. The projection trains with the student and is discarded at the end.

    Args:
        teacher: Source of its features.
        head: Its classification head, D -> K in the order of the student's classes.
        sample: (N, D) float32, its features of training images, for mean and deviation.
        terms: Weights of the loss terms.
        width: Features of the student, S.
    """

    head_weight: torch.Tensor
    head_bias: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        teacher: CachedFeatures | OnlineFeatures,
        head: nn.Linear,
        sample: torch.Tensor,
        terms: DistillationTerms,
        width: int,
    ) -> None:
        super().__init__()
        self._teacher, self._terms = teacher, terms
        std, mean = torch.std_mean(sample, dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(1e-6))
        self.register_buffer("head_weight", head.weight.detach().clone())
        self.register_buffer("head_bias", head.bias.detach().clone())
        self.projection = nn.Linear(width, head.in_features) if terms.features else None

    def outputs(self, model: nn.Module, batch: Batch) -> ModelOutputs:
        """See `CrossEntropy`; with a feature loss, the student's features (B, S) come second."""
        if self.projection is None:
            return super().outputs(model, batch)
        tokens = model.forward_features(batch.inputs)  # type: ignore[operator]
        logits: torch.Tensor = model.forward_head(tokens)  # type: ignore[operator]
        return logits, model.forward_head(tokens, pre_logits=True)  # type: ignore[operator]

    def losses(self, outputs: ModelOutputs, batch: Batch, schedule: Schedule) -> torch.Tensor:
        """See `CrossEntropy`."""
        terms, features = self._terms, self._teacher.features(batch)
        labels = label_losses(outputs[0], batch, schedule)
        soft = soft_target_losses(outputs[0], self.teacher_logits(features), terms.temperature)
        losses = (1 - terms.weight) * labels + terms.weight * soft
        if self.projection is None:
            return losses
        standardised = (features - self.mean) / self.std
        return losses + terms.features * feature_losses(self.projection(outputs[1]), standardised)

    def teacher_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, K) logits of the teacher's (B, D) features."""
        return F.linear(features, self.head_weight, self.head_bias)
