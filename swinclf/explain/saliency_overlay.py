"""Saliency overlays: evidence for a class over an image, as small JPEGs for HTML reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torch import nn

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.loader import load_for_prediction
from swinclf.data.thumbnails import encode_jpeg
from swinclf.data.transforms import to_torch_input
from swinclf.device import Hardware
from swinclf.errors import ModelError, WeightsError
from swinclf.explain.attention import has_feature_map, token_evidence
from swinclf.models.compute import Computer
from swinclf.models.store import load_model
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT

SIDE_PX = 160
FOR, AGAINST = (230, 97, 1), (94, 60, 153)  # orange and purple, as in the figures of `inspect`
STRONGEST = 0.65  # opacity of the largest value


class EvidenceDrawer:
    """Renderer of the evidence for a class in images, whose paths are relative to `root`.

    The network must satisfy `has_evidence`; it is moved to the device and set to evaluation mode.
    The precision is that up to the last tokens.
    """

    def __init__(
        self, network: nn.Module, card: ModelCard, *, root: Path, hardware: Hardware
    ) -> None:
        self._trunk = Computer(network, hardware).trunk
        self._network, self._preprocess = network, card.preprocess
        self._root, self._device = root, hardware.device
        self._index = {name: number for number, name in enumerate(card.classes)}

    @classmethod
    def open(cls, path: Path, *, root: Path, hardware: Hardware) -> EvidenceDrawer | None:
        """Open a model.safetensors; None if evidence is not supported for the network."""
        for impl in (Impl.NATIVE, None):
            try:
                network, card = load_model(path, impl=impl)
            except (ModelError, WeightsError):
                continue
            if has_evidence(network):
                return cls(network, card, root=root, hardware=hardware)
        return None

    def draw(self, answers: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Draw the evidence for several predictions, (path, label) each, in one batch.

        Of each image a JPEG at the network's input size; None if it cannot be read any more.
        """
        loaded = [load_for_prediction(self._root / path, self._preprocess) for path, _ in answers]
        shown = [one.pixels for one in loaded if one.pixels is not None]
        if not shown:
            return [None] * len(answers)
        wanted = [
            self._index[label]
            for one, (_, label) in zip(loaded, answers, strict=True)
            if one.pixels is not None
        ]
        images = to_torch_input(np.stack(shown), self._preprocess, self._device)
        _, _, cells = token_evidence(self._network, images, wanted, trunk=self._trunk)
        pictures = map(overlay_evidence, shown, cells.cpu().numpy())
        return [encode_jpeg(next(pictures)) if one.pixels is not None else None for one in loaded]


def has_evidence(network: nn.Module) -> bool:
    """Return whether evidence can be drawn: for a ViT, a Swin or a convolutional network."""
    return isinstance(network, ViT | Swin) or has_feature_map(network)


def overlay_evidence(pixels: npt.NDArray[np.uint8], cells: npt.NDArray[np.float32]) -> Image.Image:
    """Return the image in grey with positive cells in orange and negative ones in purple.

    (H, W, 3) pixels and (h, w) cells, on any scale -> RGB, its longer side `SIDE_PX`.
    """
    height, width = pixels.shape[:2]
    scale = SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = ImageOps.grayscale(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    smooth = Image.fromarray(cells.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(smooth) / max(float(np.abs(cells).max()), 1e-12)
    opacity = STRONGEST * np.abs(values).clip(0, 1)[..., None]
    colour = np.where(values[..., None] > 0, FOR, AGAINST)
    mixed = (1 - opacity) * np.asarray(grey)[..., None] + opacity * colour
    return Image.fromarray(mixed.round().astype(np.uint8))
