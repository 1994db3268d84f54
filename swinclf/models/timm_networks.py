"""The timm backend: networks that timm builds, with their weights and preprocessing."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from swinclf.errors import ConfigError, ModelError, WeightsError
from swinclf.models.names import DEFAULT, name_alternatives, suggest_names
from swinclf.preprocess import FIT_OF_CROP_MODE, Fit, Interpolation, Preprocess

_OTHER_OPTIONS = {  # arguments of timm's constructors that have an option, or none to change
    "img_size": "--img-size",
    "drop_path_rate": "--drop-path",
    "num_classes": "one class folder per class",
    "in_chans": "images in RGB",
    "pretrained": "--pretrained or --weights FILE",
    "checkpoint_path": "--weights FILE",
}


def check_name(name: str) -> str:
    """Return the name, ARCH or ARCH.TAG, if timm knows it; uses no network connection.

    Raises:
        ModelError: If timm has no such architecture or weights; suggests similar names.
    """
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        known = timm.list_models()
        near = suggest_names(arch, known)
        raise ModelError(
            f"the name of a backbone, such as {DEFAULT}",
            found=f"'{name}', which timm does not know",
            hint=(f"did you mean {name_alternatives(near)}? " if near else "")
            + "All names: swinclf models",
        )
    if tag and name not in timm.list_pretrained(f"{arch}.*"):
        tags = timm.list_pretrained(f"{arch}.*")
        raise ModelError(
            f"published weights of {arch}: {', '.join(tags) or 'there are none'}",
            found=f"the tag '{tag}'",
            hint=f"--model {(difflib.get_close_matches(name, tags, n=1, cutoff=0) or [arch])[0]}",
        )
    return name


def create_timm_network(
    name: str,
    *,
    num_classes: int,
    img_size: int | None,
    drop_path: float,
    model_args: Mapping[str, str] | None = None,
    **loading: Any,
) -> nn.Module:
    """Build a network by timm's name, ARCH or ARCH.TAG.

    `img_size` is the side of the input, px, None for the network's own; `drop_path` the drop rate
    of the deepest block in training; `model_args` are other arguments of timm's constructor.
    `loading` are options for loading weights; none are loaded by default.

    Raises:
        ConfigError: If an argument has an option of its own.
        ModelError: If there is no such network, or it does not support the options.
    """
    import timm

    arguments = constructor_arguments(model_args or {})
    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": False}
    options |= loading | arguments
    if drop_path:
        options["drop_path_rate"] = drop_path
    config = _data_config(name)
    if img_size and (config is None or config.fixed_input_size):
        options["img_size"] = img_size  # the others accept any size
    try:
        network: nn.Module = timm.create_model(name, **options)
    except Exception as error:  # whatever a constructor raises for an unsupported size
        if loading:
            raise
        with_arguments = "".join(f", {key}={value}" for key, value in arguments.items())
        found = first_error_text(error)
        hint = "another --img-size, or a Swin or ViT of: swinclf models"
        if arguments:
            hint = f"other values of --model-arg; timm's documentation of {name} lists them"
        if "argument 'drop_path_rate'" in found:
            hint = "--drop-path 0, since this network has no drop path"
        raise ModelError(
            f"the network '{name}' at {img_size or 'its own'} px{with_arguments}",
            found=found,
            hint=hint,
        ) from error
    return network


def constructor_arguments(arguments: Mapping[str, str]) -> dict[str, Any]:
    """Parse texts as timm's own scripts do: as Python literals, and otherwise as they are.

    Raises:
        ConfigError: If an argument has an option of its own.
    """
    for key in arguments:
        if key in _OTHER_OPTIONS:
            raise ConfigError(
                "arguments of timm's constructor that have no option of their own",
                found=f"--model-arg {key}",
                hint=_OTHER_OPTIONS[key],
            )
    return {key: _literal(text) for key, text in arguments.items()}


def _literal(text: str) -> object:
    """Parse a Python literal, or true, false or none in any case; return other text unchanged."""
    try:
        return ast.literal_eval(text.capitalize() if text.isalpha() else text)
    except (ValueError, SyntaxError):
        return text


def create_published(
    name: str,
    path: Path,
    *,
    img_size: int | None,
    drop_path: float,
    model_args: Mapping[str, str] | None = None,
) -> nn.Module:
    """Build a network with its published weights and head, loaded by timm's own code.

    Position tables are resized to `img_size`, px; None for the network's own. `drop_path` is the
    drop rate of the deepest block in training, `model_args` other arguments of timm's constructor.

    Raises:
        ConfigError: If an argument has an option of its own.
        WeightsError: If the file does not fit, tensor by tensor.
    """
    overlay = {"file": str(path), "source": "file"}
    classes = published_config(name).num_classes
    try:
        return create_timm_network(
            name,
            num_classes=classes,
            img_size=img_size,
            drop_path=drop_path,
            model_args=model_args,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
        )
    except ConfigError:
        raise
    except Exception as error:  # timm reports a mismatch by various exceptions
        raise WeightsError(
            f"the published weights of '{name}' in '{path}'",
            found=first_error_text(error),
            hint="delete the file and download it again; or --weights FILE, or --no-pretrained",
        ) from error


def published_config(name: str) -> Any:
    """Return timm's description of the published weights of a name.

    Raises:
        ModelError: If timm does not know the name.
        WeightsError: If none were published.
    """
    config = _data_config(name)
    if config is None or not config.has_weights:
        raise WeightsError(
            f"published weights of '{name}'",
            found="none were published",
            hint="--no-pretrained, --weights FILE, or a name from: swinclf models",
        )
    return config


def _data_config(name: str) -> Any:
    """Return timm's description of a name, None if it has none; ModelError for an unknown name."""
    import timm

    return timm.get_pretrained_cfg(check_name(name))


def published_license(name: str) -> str:
    """Return the license of the published weights of a name as timm states it; `unknown` if not.

    Raises:
        ModelError: If timm does not know the name.
    """
    return str(getattr(_data_config(name), "license", None) or "unknown").lower()


def timm_head_classes(name: str) -> int:
    """Return the number of classes of a published head; ImageNet-1k's if none was published.

    Raises:
        ModelError: If timm does not know the name.
    """
    config = _data_config(name)
    return int(config.num_classes) if config is not None else 1000


def timm_preprocess(name: str) -> Preprocess:
    """Return the evaluation preprocessing of a network's published weights."""
    import timm.data

    config = _data_config(name)
    known = config.to_dict() if config is not None else {}
    data = timm.data.resolve_data_config(pretrained_cfg=known)
    return Preprocess(
        height=data["input_size"][1],
        width=data["input_size"][2],
        interpolation=Interpolation(data["interpolation"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        crop_pct=float(data["crop_pct"]),
        fit=FIT_OF_CROP_MODE.get(data["crop_mode"], Fit.CROP),
    )


def first_error_text(error: Exception) -> str:
    """Return the text of an exception on one line, shortened."""
    return " ".join(str(error).split())[:240] or type(error).__name__
