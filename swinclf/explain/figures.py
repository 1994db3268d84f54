"""All figures of one network and one image, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from torch import Tensor, nn

from swinclf.data.transforms import to_torch_input
from swinclf.explain.attention import attention_rollout, compute_attention, compute_evidence
from swinclf.explain.geometry import draw_patches, draw_positions, draw_windows
from swinclf.explain.views import draw_evidence, draw_swin_attention, draw_vit_attention
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT
from swinclf.preprocess import Preprocess
from swinclf.reporter import Reporter
from swinclf.reporting.display_names import to_printable


@dataclass(frozen=True)
class InspectionInput:
    """A network and an image to draw figures of."""

    network: nn.Module  # a ViT, a Swin or a convolutional network, in evaluation mode, on the CPU
    preprocess: Preprocess
    pixels: np.ndarray  # (H, W, 3) uint8, at the network's input size
    image: str  # description of the image
    weights: str  # description of the weights
    classes: Sequence[str] = ()  # names of the classes; empty if the outputs have no names
    temperature: float = 1.0  # logits are divided by this before the softmax, > 0


@dataclass(frozen=True)
class FigureSet:
    """The figures that were drawn."""

    pictures: tuple[Path, ...]  # the files, in reading order
    label: str = ""  # the predicted class; empty if classes have no names
    probability: float = 0.0  # its probability, in [0, 1]


def draw_all(scene: InspectionInput, folder: Path, report: Reporter) -> FigureSet:
    """Draw patches, positions, windows (Swin), attention and (with class names) evidence.

    For a convolutional network, only evidence is drawn; notes say which figures do not apply.

    Raises:
        RunError: If a figure cannot be written.
    """
    image, weights = to_printable(scene.image), to_printable(scene.weights)
    about = f"Shown: {image}; {weights}."
    pictures: list[Path] = []
    if isinstance(scene.network, ViT | Swin):
        pictures = _draw_structure(scene, scene.network, folder)
        pictures.append(folder / "attention.png")
        _draw_attention(scene, scene.network, pictures[-1], about)
    else:
        report.note("only evidence.png: a convolutional network has no patches and no attention")
    if not scene.classes:
        return FigureSet(tuple(pictures))
    pictures.append(folder / "evidence.png")
    label, probability = _draw_evidence(scene, pictures[-1], about)
    return FigureSet(tuple(pictures), label, probability)


def _draw_structure(scene: InspectionInput, network: ViT | Swin, folder: Path) -> list[Path]:
    """Draw patches, positions and windows, which do not depend on the image; return the files."""
    pixels, pictures = scene.pixels, [folder / "patches.png", folder / "positions.png"]
    image, weights = to_printable(scene.image), to_printable(scene.weights)
    draw_patches(network, pixels, pictures[0], about=f"Shown: {image}.")
    draw_positions(network, pictures[1], about=f"Shown: {weights}.")
    if isinstance(network, Swin):
        pictures.append(folder / "windows.png")
        draw_windows(network, pixels, pictures[-1], about=f"Shown: {image}.")
    return pictures


def _draw_attention(scene: InspectionInput, network: ViT | Swin, path: Path, about: str) -> None:
    pixels = scene.pixels
    found = compute_attention(network, _network_input(scene))
    followed = attention_rollout(network, found)
    if isinstance(network, Swin):
        draw_swin_attention(found, followed, pixels, path, about=about)
        return
    config = network.config
    tokens = "class and distillation tokens" if config.distilled else "class token"
    reader = tokens if config.pool == "token" else "average patch"
    draw_vit_attention(found, followed, pixels, path, reader=reader, about=about)


def _draw_evidence(scene: InspectionInput, path: Path, about: str) -> tuple[str, float]:
    """Compute and draw the evidence for the predicted class; return its name and probability."""
    found = compute_evidence(scene.network, _network_input(scene))
    logits = found.logits.cpu().numpy().astype(np.float64)  # devices may lack float64
    probabilities: npt.NDArray[np.float32] = softmax(logits / scene.temperature).astype(np.float32)
    draw_evidence(found, probabilities, scene.classes, scene.pixels, path, about=about)
    return scene.classes[found.target], float(probabilities[found.target])


def _network_input(scene: InspectionInput) -> Tensor:
    return to_torch_input(np.stack([scene.pixels]), scene.preprocess, "cpu")
