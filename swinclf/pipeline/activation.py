"""The activation of weights from another tool, which may only be recorded in its config.json.

No tensor shows whether a network uses GELU, its tanh approximation or the quick GELU of OpenAI's
CLIP; the outputs differ in the third digit.
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

# From the names in a config.json of transformers.
_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def choose_activation(settings: Settings, weights: Path, report: Reporter) -> Settings:
    """Choose the activation by the config.json next to the weights, if it names another.

    A warning is reported if the network cannot have that activation.
    """
    activation, config = _configured_activation(weights), settings.config
    if activation is None or "activation" in key_values(config.model_arg):
        return settings
    if config.impl is Impl.NATIVE and (is_native(config.model) or config.model in OWN_SHAPES):
        own = native_config(config.model)
        if not isinstance(own, ViTConfig) or own.activation in (activation, "swiglu"):
            return settings
        argument = f"activation={activation}"
        if settings.is_given("model_arg"):
            report.warn(f"the weights' config.json has {activation}: add --model-arg {argument}")
        return settings.choose("model_arg", (*config.model_arg, argument), "from config.json")
    is_quick = "quickgelu" in config.model
    if "_clip_" in config.model and is_quick is not (activation == "quick_gelu"):
        named = config.model.replace("_clip_", "_clip_quickgelu_")
        named = config.model.replace("_quickgelu", "") if is_quick else named
        report.warn(f"the weights' config.json has {activation}, the activation of {named}")
    return settings


def _configured_activation(weights: Path) -> str | None:
    """Return the activation in transformers' config.json; None without one."""
    try:
        config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
        vision = config.get("vision_config") or config
        return _NAMES.get(vision.get("hidden_act"))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
