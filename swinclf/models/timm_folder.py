"""A model as a folder in timm's form, which timm, transformers and the Hub read.

`config.json` and `model.safetensors` are timm's; `swinclf.json` is the rest of the model card, and
`reject.safetensors` the rule by which a program without swinclf rejects images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from swinclf.errors import RunError, WeightsError
from swinclf.files import read_json
from swinclf.models.timm_networks import constructor_arguments, first_error_text
from swinclf.preprocess import FIT_OF_CROP_MODE, Fit, Preprocess

CONFIG, REST, WEIGHTS = "config.json", "swinclf.json", "model.safetensors"
RULE = "reject.safetensors"
_CROP_MODES = {fit: mode for mode, fit in FIT_OF_CROP_MODE.items()}


def timm_config(
    name: str,
    network: nn.Module,
    classes: tuple[str, ...],
    preprocess: Preprocess,
    model_args: Mapping[str, str],
) -> dict[str, Any]:
    """Return the config.json of a network that timm has built.

    `name` is ARCH or ARCH.TAG; `model_args` are its other arguments, as text; `classes` are in the
    order of the logits. The value ranges of the preprocessing have no counterpart.
    """
    known: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    size = [preprocess.height, preprocess.width]
    is_fixed = bool(known["fixed_input_size"])
    config: dict[str, Any] = {
        "architecture": name.partition(".")[0],
        "num_classes": len(classes),
        "num_features": network.num_features,
        "label_names": list(classes),
        "pretrained_cfg": {
            "input_size": [3, *size],
            "fixed_input_size": is_fixed,
            "interpolation": str(preprocess.interpolation),
            "crop_pct": preprocess.crop_pct if preprocess.fit is Fit.CROP else 1.0,
            "crop_mode": _CROP_MODES[preprocess.fit],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": len(classes),
            "pool_size": None,
            "first_conv": known["first_conv"],
            "classifier": known["classifier"],
            "custom_load": False,
        },
    }
    arguments = constructor_arguments(model_args)
    if is_fixed:
        arguments["img_size"] = size[0]
    if arguments:
        config["model_args"] = arguments
    return config


def read_folder_metadata(folder: Path) -> dict[str, str]:
    """Return the metadata of the card in a folder: class names and preprocessing as timm has them.

    Raises:
        RunError: If a file is missing or invalid.
    """
    config, rest = read_json(folder / CONFIG), read_json(folder / REST)
    try:
        data = config["pretrained_cfg"]
        _, height, width = data["input_size"]
        own = {
            "classes": config["label_names"],
            "preprocessing": {
                "height": height,
                "width": width,
                "fit": FIT_OF_CROP_MODE[data["crop_mode"]],
                **{name: data[name] for name in ("interpolation", "mean", "std", "crop_pct")},
                **({"ranges": rest["ranges"]} if rest.get("ranges") else {}),
            },
        }
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"a config.json of timm's form, with label_names, in '{folder}'",
            found=f"{type(error).__name__}: {error}",
            hint="swinclf export --format timm",
        ) from error
    values = {**rest, **own}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }


def load_timm_folder(folder: Path) -> nn.Module:
    """Build a folder's network and load its weights, by timm's own code.

    It is in evaluation mode on the CPU in float32.

    Raises:
        WeightsError: If timm cannot load it.
    """
    import timm

    try:
        network: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # timm reports a mismatch by various exceptions
        raise WeightsError(
            f"a folder that timm loads at '{folder}'",
            found=first_error_text(error),
            hint="swinclf export --format timm",
        ) from error
    return network.eval()
