"""The network of an exported file: logits, features and out-of-distribution score as outputs."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from swinclf.confidence.ood import BACKGROUND_WEIGHT, FeatureSpace
from swinclf.errors import ExportError
from swinclf.exporting.source import ExportSource


class DeployedNetwork(nn.Module):
    """A network with three outputs: `pixels` (N, 3, H, W), normalised -> `export_formats.OUTPUTS`.

    The logits, (N, K), are divided by the temperature, so that their softmax gives the run's
    probabilities. The features, (N, D), are the classifier's input. The out-of-distribution score,
    (N,), is that of `FeatureSpace`; 0 without one.
    """

    def __init__(self, source: ExportSource) -> None:
        super().__init__()
        confidence, self._input = source.card.confidence, source.card.preprocess
        self.network, self.temperature = source.network, confidence.temperature
        self.ood_score = _OodScore(confidence.space) if confidence.space else None
        for module in source.network.modules():  # in-place ReLU6 is decomposed, for seconds
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]
        self.eval()

    def example(self) -> torch.Tensor:
        """Return two blank images: exporters treat a size of 1 as a constant."""
        return torch.zeros(2, 3, self._input.height, self._input.width)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute (N, 3, H, W) -> (N, K), (N, D), (N,)."""
        tokens = self.network.forward_features(pixels)  # type: ignore[operator]
        logits = self.network.forward_head(tokens)  # type: ignore[operator]
        features: torch.Tensor = self.network.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        score = 0 * features[:, 0] if self.ood_score is None else self.ood_score(features)
        return logits / self.temperature, features, score


@contextlib.contextmanager
def quiet_export(model: str, what: str) -> Iterator[None]:
    """Silence an exporter's prints and warnings, and raise its exceptions as an ExportError.

    `what` is the format.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        except Exception as error:  # exporters raise anything
            text = (str(error).splitlines() or [""])[0]
            raise ExportError(
                f"a network that can be exported to {what}: '{model}'",
                found=f"{type(error).__name__}: {text}"[:240],
                hint="--impl native, or another --model",
            ) from error
        finally:
            logger.setLevel(level)


class _OodScore(nn.Module):
    """`FeatureSpace.ood_scores` in torch."""

    def __init__(self, space: FeatureSpace) -> None:
        super().__init__()
        self.leftover, self.scale = space.leftover, space.scale
        self.is_relative = space.background is not None
        background = space.whiten if space.background is None else space.background
        self.mean, self.basis, self.whiten, self.background, self.centres = (
            nn.Buffer(torch.from_numpy(array.copy()))
            for array in (space.mean, space.basis, space.whiten, background, space.centres)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute (N, D) -> (N,)."""
        centred = features - self.mean
        along = centred @ self.basis  # (N, D) -> (N, R)
        residual = (centred.square().sum(1) - along.square().sum(1)).clamp(min=0) * self.leftover
        whitened = along @ self.whiten
        squares = (whitened[:, None] - self.centres[None]).square().sum(2)  # (N, K)
        to_class = squares.amin(dim=1) + residual
        if not self.is_relative:
            return (to_class / features.shape[1]).sqrt()
        to_all = (along @ self.background).square().sum(1) + residual
        mean, deviation, all_mean, all_deviation = self.scale
        score = (to_class - to_all - mean) / deviation
        score = score + BACKGROUND_WEIGHT * (to_all - all_mean) / all_deviation
        return nn.functional.softplus(score) / math.log(2)
