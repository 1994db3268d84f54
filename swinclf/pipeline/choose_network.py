"""The choice of the network of a training, where it is not given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from swinclf.config import Impl
from swinclf.data.folder import TEST, VAL, FolderIndex
from swinclf.data_quality.image_stats import median_side_px
from swinclf.models.embedded import EMBEDDED
from swinclf.models.hub import is_available
from swinclf.models.names import (
    OWN_SHAPES,
    default_impl,
    is_native,
    native_config,
    native_data_config,
)
from swinclf.models.vit import ViTConfig
from swinclf.models.weights.find import StartingWeights
from swinclf.models.weights.known_preprocess import KnownPreprocess
from swinclf.reporter import Reporter
from swinclf.settings import Settings, key_values
from swinclf.shell_quoting import command_line

# Activations by their names in a config.json of transformers.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
# Below, a small network: the default one has 28 million parameters, which they cannot determine.
FEW_IMAGES = 20_000
NETWORK_SETTINGS = ("model", "model_arg", "impl", "weights")
SIZES = (32, 64, 96)  # of the input, px
# Stages of 4 x 4 patches: half of the depth and width of Swin-T, 1.3 M parameters.
SHAPE = ("embed_dim=48", "depths=2-2-2", "num_heads=3-6-12", "window_size=4")


def choose_embedded(settings: Settings, report: Reporter) -> Settings:
    """Fall back to the embedded backbone if the default's published weights are unavailable."""
    default = settings.config.model
    if settings.is_given("model") or is_available(native_data_config(default).hub_id or ""):
        return settings
    report.note(
        f"the weights of {default} are not cached and the Hub is unreachable: using the embedded "
        "EfficientNet-Lite0. For the larger network, run once with internet access, or use "
        "--weights FILE"
    )
    return settings.choose("model", EMBEDDED, f"{default} is unavailable")


def choose_small_network(settings: Settings, index: FolderIndex, report: Reporter) -> Settings:
    """Choose a small network for few images to train from random weights, unless one is given.

    It is reported, with what would be more accurate.
    """
    images = [image for image in index.images if image.split not in (VAL, TEST)]
    if len(images) >= FEW_IMAGES or any(map(settings.is_given, NETWORK_SETTINGS)):
        return settings
    reason = f"random weights and {len(images):,} images"
    side = median_side_px([index.root / image.path for image in images]) or SIZES[-1]
    size = max((one for one in SIZES if one <= side), default=SIZES[0])
    settings, size = settings.choose_value("img_size", size, reason)
    settings = settings.choose("model", "swin", reason)
    patch_px = max(2, round(size / 16))  # about 16 x 16 of them
    settings = settings.choose("model_arg", (f"patch_size={patch_px}", *SHAPE), reason)
    trained = command_line(["swinclf", "train", str(settings.config.data), "--model", "embedded"])
    report.note(
        f"for {reason}: a small Swin at {size} px. Trained weights are usually far more accurate: "
        f"{trained}"
    )
    return settings


def choose_network(
    settings: Settings,
    weights: StartingWeights | None,
    known: Sequence[KnownPreprocess],
    report: Reporter,
) -> tuple[Settings, Impl]:
    """Choose network, image size and builder; from the run of the weights, if there is one."""
    card = weights.card if weights else None
    if card is not None:
        reason = "as the run of --weights"
        settings = settings.choose("model", card.model, reason)
        settings = settings.choose("impl", card.impl, reason)
        settings = settings.choose("img_size", card.preprocess.height, reason)
        arguments = tuple(f"{key}={value}" for key, value in card.model_args.items())
        settings = settings.choose("model_arg", arguments, reason)
    impl, reason = Impl.TIMM, "not available natively"
    if settings.config.model in OWN_SHAPES:
        impl, reason = Impl.NATIVE, "a custom architecture"
    elif is_native(settings.config.model):
        impl, reason = Impl.NATIVE, "faster, same outputs"
    settings, impl = settings.choose_value("impl", impl, reason)
    if weights is not None and card is None:
        settings = choose_activation(settings, weights.path, report)
    for one in known:
        if one.img_size is not None and "img_size" not in key_values(settings.config.model_arg):
            settings = settings.choose("img_size", one.img_size, one.reason)
    return settings, impl


def choose_activation(settings: Settings, weights: Path, report: Reporter) -> Settings:
    """Choose the activation by the config.json next to the weights, if it names another.

    No tensor shows whether a network uses GELU, its tanh approximation or the quick GELU of CLIP;
    the outputs differ in the third digit. A warning is reported if the network cannot have
    that activation.
    """
    activation, config = _configured_activation(weights), settings.config
    if activation is None or "activation" in key_values(config.model_arg):
        return settings
    if config.impl is Impl.NATIVE and default_impl(config.model) is Impl.NATIVE:
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
        return _ACTIVATIONS.get(vision.get("hidden_act"))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
