"""All figures of one network and one image, in one folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from swinclf.card import ModelCard
from swinclf.data.transforms import to_torch_input
from swinclf.explain.attention import attention_rollout, compute_attention, compute_evidence
from swinclf.explain.geometry import draw_patches, draw_positions, draw_windows
from swinclf.explain.views import draw_evidence, draw_swin_attention, draw_vit_attention
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT
from swinclf.preprocess import Preprocess
from swinclf.reporter import Reporter
from swinclf.reporting.display_names import to_printable


def draw_all(
    network: nn.Module,
    card: ModelCard | None,
    preprocess: Preprocess,
    pixels: np.ndarray,
    folder: Path,
    *,
    image: str,
    weights: str,
    report: Reporter,
) -> tuple[list[Path], str, float]:
    """Draw patches, positions, windows (Swin), attention and (with a card) evidence.

    `network` is a ViT, a Swin or a convolutional network, in evaluation mode, on the CPU. For the
    latter, only evidence is drawn; notes say which figures do not apply. `pixels` is an image,
    (H, W, 3) uint8, at the network's input size. `image` and `weights` describe them.

    Returns:
        The files, in reading order; the predicted class, empty without a card; its probability.

    Raises:
        RunError: If a figure cannot be written.
    """
    image, weights = to_printable(image), to_printable(weights)
    about = f"Shown: {image}; {weights}."
    inputs = to_torch_input(np.stack([pixels]), preprocess, "cpu")
    pictures: list[Path] = []
    if isinstance(network, ViT | Swin):
        pictures += [folder / "patches.png", folder / "positions.png"]
        draw_patches(network, pixels, pictures[0], about=f"Shown: {image}.")
        draw_positions(network, pictures[1], about=f"Shown: {weights}.")
        if isinstance(network, Swin):
            pictures.append(folder / "windows.png")
            draw_windows(network, pixels, pictures[-1], about=f"Shown: {image}.")
        pictures.append(folder / "attention.png")
        _draw_attention(network, inputs, pixels, pictures[-1], about)
    else:
        report.note("only evidence.png: a convolutional network has no patches and no attention")
    if card is None:
        return pictures, "", 0.0
    pictures.append(folder / "evidence.png")
    found = compute_evidence(network, inputs)
    scaled = found.logits.double() / card.confidence.temperature
    probabilities = scaled.softmax(0).float().numpy()
    draw_evidence(found, probabilities, card.classes, pixels, pictures[-1], about=about)
    return pictures, card.classes[found.target], float(probabilities[found.target])


def _draw_attention(
    network: ViT | Swin, inputs: Tensor, pixels: np.ndarray, path: Path, about: str
) -> None:
    found = compute_attention(network, inputs)
    followed = attention_rollout(network, found)
    if isinstance(network, Swin):
        draw_swin_attention(found, followed, pixels, path, about=about)
        return
    config = network.config
    readers = {"token": "class token", "avg": "average patch", "flatten": "patches, on average"}
    reader = "class and distillation tokens" if config.distilled else readers[config.pool]
    draw_vit_attention(found, followed, pixels, path, reader=reader, about=about)
