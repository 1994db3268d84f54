"""timm's half of building a network: the only file besides the catalogue that imports timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from swinclf.errors import ModelError, WeightsError
from swinclf.models.catalogue import check_name
from swinclf.preprocess import Fit, Interpolation, Preprocess


def create_network(
    name: str, *, num_classes: int, img_size: int | None, drop_path: float, **loading: Any
) -> nn.Module:
    """A network by timm's name for it.

    Args:
        name: ARCH or ARCH.TAG.
        num_classes: Logits, K.
        img_size: Side of the picture it sees, px; None for its own.
        drop_path: Chance to skip the deepest block in training.
        loading: What timm is to load; nothing by default.

    Raises:
        ModelError: If there is no such network, or it cannot be built so.
    """
    import timm

    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": False, **loading}
    if drop_path:
        options["drop_path_rate"] = drop_path
    config = timm.get_pretrained_cfg(check_name(name))
    if img_size and (config is None or config.fixed_input_size):
        options["img_size"] = img_size  # the others take any size as they are
    try:
        network: nn.Module = timm.create_model(name, **options)
    except Exception as error:  # whatever a constructor makes of a size it cannot have
        if loading:
            raise
        raise ModelError(
            f"the network '{name}' at {img_size or 'its own'} px",
            found=_short(error),
            hint="another --img-size, or a Swin or ViT of: swinclf models",
        ) from error
    return network


def create_published(name: str, path: Path, *, img_size: int | None, drop_path: float) -> nn.Module:
    """A network with its published weights and its published head, loaded by timm's own code.

    Args:
        name: ARCH or ARCH.TAG.
        path: The weights file.
        img_size: Side of the picture it sees, px; position tables are resized. None for its own.
        drop_path: Chance to skip the deepest block in training.

    Raises:
        WeightsError: If the file does not fit, tensor by tensor.
    """
    overlay = {"file": str(path), "source": "file"}
    classes = published_config(name).num_classes
    try:
        return create_network(
            name,
            num_classes=classes,
            img_size=img_size,
            drop_path=drop_path,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
        )
    except Exception as error:  # timm tells of a misfit by whatever exception comes first
        raise WeightsError(
            f"the published weights of '{name}' in '{path}'",
            found=_short(error),
            hint="delete the file and fetch it again; or --weights FILE, or --no-pretrained",
        ) from error


def published_config(name: str) -> Any:
    """How timm describes the published weights of a name.

    Raises:
        ModelError: If timm does not know the name.
        WeightsError: If none were published.
    """
    import timm

    config = timm.get_pretrained_cfg(check_name(name))
    if config is None or not config.has_weights:
        raise WeightsError(
            f"published weights of '{name}'",
            found="none were published",
            hint="--no-pretrained, --weights FILE, or a name from: swinclf models",
        )
    return config


def published_classes(name: str) -> int:
    """Return the classes of a name's published head; ImageNet-1k's where none was published.

    Raises:
        ModelError: If timm does not know the name.
    """
    import timm

    config = timm.get_pretrained_cfg(check_name(name))
    return int(config.num_classes) if config is not None else 1000


def preprocess_of(name: str) -> Preprocess:
    """The preprocessing that a network's published weights were scored with."""
    import timm.data

    config = timm.get_pretrained_cfg(check_name(name))
    known = config.to_dict() if config is not None else {}
    data = timm.data.resolve_data_config(pretrained_cfg=known)
    red, green, blue = data["mean"]
    std_red, std_green, std_blue = data["std"]
    return Preprocess(
        height=data["input_size"][1],
        width=data["input_size"][2],
        interpolation=Interpolation(data["interpolation"]),
        mean=(red, green, blue),
        std=(std_red, std_green, std_blue),
        crop_pct=float(data["crop_pct"]),
        fit=Fit.SQUASH if data["crop_mode"] == "squash" else Fit.CROP,
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
