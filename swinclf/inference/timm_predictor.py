"""A folder in timm's form as a predictor, by the preprocessing in its config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swinclf.card import ModelCard, check_sizes
from swinclf.inference.predictor import InferenceOptions, TorchPredictor, choose_model_hardware
from swinclf.models.timm_folder import load_timm_folder, read_folder_metadata


def open_timm_folder(path: Path, options: InferenceOptions) -> TorchPredictor:
    """Open a folder of `swinclf export --format timm`.

    Args:
        path: The swinclf.json in it.
        options: Device and precision; the network is timm's.

    Raises:
        RunError, WeightsError, DeviceError: If it cannot be opened with these options.
    """
    folder = path.parent
    metadata = read_folder_metadata(folder)
    card = ModelCard.from_metadata(metadata, where=str(folder))
    network = load_timm_folder(folder)
    sizes: Any = network  # timm's networks have these
    features = getattr(sizes, "head_hidden_size", sizes.num_features)
    check_sizes(card, where=str(folder), logits=sizes.num_classes, features=features)
    return TorchPredictor(network, card, choose_model_hardware(card, options), metadata)
