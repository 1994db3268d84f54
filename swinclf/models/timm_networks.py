"""The timm backend: networks that timm builds, with their weights and preprocessing."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinclf.errors import ConfigError, ModelError, WeightsError
from swinclf.models.embedded import architecture_name
from swinclf.models.names import DEFAULT, Architecture, name_alternatives, suggest_names
from swinclf.preprocess import Preprocess

_OTHER_OPTIONS = {  # arguments of timm's constructors that have an option, or none to change
    "img_size": "--img-size",
    "drop_path_rate": "--drop-path",
    "num_classes": "one class folder per class",
    "in_chans": "images in RGB",
    "pretrained": "--pretrained or --weights FILE",
    "checkpoint_path": "--weights FILE",
}
# In the exception of a constructor without drop path.
_NO_DROP_PATH = re.compile(r"unexpected keyword argument.*'drop_path_rate'")


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


def create_timm_network(architecture: Architecture, weights: Path | None = None) -> nn.Module:
    """Build a network by timm's name, ARCH or ARCH.TAG.

    With a file of its published weights, these are loaded by timm's own code, with their head and
    their number of classes; position tables are resized to the size of the images.

    Raises:
        ConfigError: If an argument has an option of its own.
        ModelError: If there is no such network, or it does not support the options.
        WeightsError: If the file does not fit, tensor by tensor.
    """
    import timm

    name = architecture_name(architecture.name)
    options = constructor_arguments(architecture.model_args)
    config = _data_config(name)
    if architecture.img_size and (config is None or config.fixed_input_size):
        options["img_size"] = architecture.img_size  # the others accept any size
    if architecture.drop_path:
        options["drop_path_rate"] = architecture.drop_path
    if weights is None:
        options["num_classes"] = architecture.num_classes
    else:
        options["num_classes"] = config.num_classes
        options["pretrained_cfg_overlay"] = {"file": str(weights), "source": "file"}
    try:
        network: nn.Module = timm.create_model(name, pretrained=weights is not None, **options)
    except Exception as error:  # whatever a constructor raises; a mismatch has various exceptions
        if weights is None:
            raise _constructor_error(architecture, first_error_text(error)) from error
        create_timm_network(architecture)  # raises if the constructor is the cause
        again = "without --model-arg" if architecture.model_args else "delete and download it again"
        raise WeightsError(
            f"the published weights of '{name}' in '{weights}'",
            found=first_error_text(error),
            hint=f"{again}; or --weights FILE, or --no-pretrained",
        ) from error
    return network


def _constructor_error(architecture: Architecture, found: str) -> ModelError:
    """Return the error of a network that timm does not build, for the text of an exception."""
    name, arguments = architecture.name, architecture.model_args
    if _NO_DROP_PATH.search(found):
        return ModelError(
            f"a network with drop path, for --drop-path {architecture.drop_path:g}",
            found=f"'{name}', which has none",
            hint="--drop-path 0",
        )
    hint = "another --img-size, or a Swin or ViT of: swinclf models"
    if arguments:
        hint = f"other values of --model-arg; timm's documentation of {name} lists them"
    return ModelError(
        f"the network '{name}' at {architecture.img_size or 'its own'} px"
        + "".join(f", {key}={value}" for key, value in arguments.items()),
        found=found,
        hint=hint,
    )


@cache
def takes_drop_path(name: str) -> bool:
    """Return whether timm's constructor of a network has drop path; only building it shows."""
    import timm

    architecture = architecture_name(name)
    check_name(architecture)
    try:
        with torch.device("meta"):
            timm.create_model(architecture, drop_path_rate=0.1)
    except Exception as error:  # others are raised again where the network is built
        return not _NO_DROP_PATH.search(str(error))
    return True


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
    return Preprocess.from_timm(timm.data.resolve_data_config(pretrained_cfg=known))


def first_error_text(error: Exception) -> str:
    """Return the text of an exception on one line, shortened."""
    return " ".join(str(error).split())[:240] or type(error).__name__
