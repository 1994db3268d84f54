"""The activation that the weights of another tool were trained with, where only its config says it.

No tensor shows whether a network computes GELU, its approximation by tanh or the quick one of
OpenAI's CLIP; the answers differ in the third digit.
"""

from __future__ import annotations

import json
from pathlib import Path

from swinclf.config import Impl
from swinclf.models.build import OWN_SHAPES
from swinclf.models.names import is_native, native_config
from swinclf.models.vit import ViTConfig
from swinclf.reporter import Reporter
from swinclf.settings import Settings, key_values

# Names in a config.json of transformers to this package's.
_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def choose_activation(settings: Settings, weights: Path, report: Reporter) -> Settings:
    """Settle the activation by the config.json beside the weights, if it names another.

    Args:
        settings: With the network and who builds it.
        weights: The weights file.
        report: Hears of one that the network cannot have.
    """
    theirs, config = _activation_beside(weights), settings.config
    if theirs is None or "activation" in key_values(config.model_arg):
        return settings
    if config.impl is Impl.NATIVE and (is_native(config.model) or config.model in OWN_SHAPES):
        own = native_config(config.model)
        if not isinstance(own, ViTConfig) or own.activation in (theirs, "swiglu"):
            return settings
        argument = f"activation={theirs}"
        if settings.is_given("model_arg"):
            report.warn(f"config.json beside the weights says {theirs}: add --model-arg {argument}")
        return settings.choose("model_arg", (*config.model_arg, argument), "from config.json")
    is_quick = "quickgelu" in config.model
    if "_clip_" in config.model and is_quick is not (theirs == "quick_gelu"):
        named = config.model.replace("_clip_", "_clip_quickgelu_")
        named = config.model.replace("_quickgelu", "") if is_quick else named
        report.warn(f"config.json beside the weights says {theirs}, as {named} computes")
    return settings


def _activation_beside(weights: Path) -> str | None:
    """Return what transformers' config.json says, None where there is none."""
    try:
        config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
        vision = config.get("vision_config") or config
        return _NAMES.get(vision.get("hidden_act"))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
