"""A program of torch.export as a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from swinclf.config import ExportFormat
from swinclf.inference.exported_predictor import ExportedPredictor
from swinclf.models.program_file import load_program


class ProgramPredictor(ExportedPredictor):
    """A .pt2 file, computed by torch without the network's code."""

    kind = ExportFormat.TORCH_EXPORT

    def _read(self) -> Mapping[str, str]:
        self._network, metadata = load_program(self._path)
        return metadata

    @torch.inference_mode()
    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        return [one.numpy() for one in self._network(torch.from_numpy(inputs))]
