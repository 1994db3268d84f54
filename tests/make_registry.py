"""Write registry.json, all that this package knows of timm's names, from timm itself.

    python tests/make_registry.py

An architecture is native if every argument that timm's function of that name passes to its network
has a counterpart here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from unittest import mock

import timm
import torch
from timm.models import deit, swin_transformer, vision_transformer
from torch import nn

from swinclf.models.names import REGISTRY_FILE

FAMILIES = ("swin_*", "swinv2_*", "vit_*", "deit_*", "deit3_*", "beit*", "eva02_*")
_NETWORKS: dict[type[nn.Module], tuple[str, dict[str, Any]]] = {
    vision_transformer.VisionTransformer: ("vit", {}),
    deit.VisionTransformerDistilled: ("vit", {"distilled": True}),
    swin_transformer.SwinTransformer: ("swin", {}),
}
# Arguments of timm's weight loading, which do not affect the shape.
_NO_SHAPE = ("pretrained_strict", "feature_cfg", "cache_dir", "dynamic_img_size")
_SAME = (
    *("patch_size", "embed_dim", "depth", "depths", "num_heads", "window_size", "mlp_ratio"),
    *("qkv_bias", "class_token", "reg_tokens", "no_embed_class", "pre_norm", "final_norm"),
    "fc_norm",
)
_POOLS = ("token", "avg")
_ACTIVATIONS = ("gelu_tanh", "quick_gelu")


def architectures() -> dict[str, dict[str, Any]]:
    """Return the shape of every architecture in the registry: `network` and its `fields`.

    Both are missing if this package cannot build it. No weights are initialised or downloaded.
    """
    published = {name.partition(".")[0] for name in timm.list_models([*FAMILIES], pretrained=True)}
    shapes = {name: _shape(name) for name in timm.list_models([*FAMILIES])}
    return {name: shapes[name] for name in sorted(shapes) if shapes[name] or name in published}


def weights(arch: str, *, is_native: bool) -> dict[str, dict[str, Any]]:
    """Return the data config of each set of weights of an architecture by tag, the default first.

    `is_native` is whether to include weights that are not published.
    """
    found = {}
    for tag in timm.models._registry._model_default_cfgs[arch].tags:
        config = timm.get_pretrained_cfg(f"{arch}.{tag}" if tag else arch)
        if config.input_size[0] == 3 and (is_native or config.has_weights):
            hub = config.hf_hub_id or None
            found[tag] = {
                "img_size": config.input_size[1],
                "mean": list(config.mean),
                "std": list(config.std),
                "interpolation": config.interpolation,
                "crop_pct": config.crop_pct,
                "crop_mode": config.crop_mode,
                "num_classes": config.num_classes,
                "hub_id": f"timm/{arch}.{tag}" if hub == "timm/" else hub,
                "is_published": bool(config.has_weights),
            }
    return found


def count_parameters(arch: str) -> int:
    """Return the number of parameters of a network without its head."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(arch, num_classes=0)
    return sum(parameter.numel() for parameter in network.parameters())


def _shape(arch: str) -> dict[str, Any]:
    """Return an architecture's network and fields; empty if this package has no such network.

    timm's function is intercepted before it builds the network.
    """
    modules = (vision_transformer, deit, swin_transformer)
    create = timm.models.model_entrypoint(arch)
    if create.__module__ not in {module.__name__ for module in modules}:
        return {}
    with ExitStack() as patches:
        for module in modules:
            build = patches.enter_context(mock.patch.object(module, "build_model_with_cfg"))
            build.side_effect = lambda network, _, __, **arguments: (network, arguments)
        network, arguments = create()
    return _translated(network, arguments)


def _translated(network: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return this package's fields for timm's arguments; empty if one has no counterpart."""
    if network not in _NETWORKS:
        return {}
    kind, fields = _NETWORKS[network]
    fields = dict(fields)
    for key, value in arguments.items():
        if key in _SAME:
            fields[key] = value
        elif key == "global_pool" and value in _POOLS:
            fields["pool"] = value
        elif key == "init_values":
            fields["layer_scale"] = value
        elif key == "act_layer" and value in _ACTIVATIONS:
            fields["activation"] = value
        elif key == "mlp_layer" and "GluMlp" in str(value) and "gate_last=False" in str(value):
            fields["activation"] = "swiglu"
        elif key == "norm_layer" and set(getattr(value, "keywords", {})) == {"eps"}:
            fields["norm_eps"] = value.keywords["eps"]
        elif key == "act_layer" and value is nn.SiLU and "mlp_layer" in arguments:
            continue  # the one of swiglu
        elif key == "pretrained_filter_fn" and "align_corners" not in str(value):
            continue  # the usual one: position tables are resized as this package does it
        elif key not in _NO_SHAPE and value is not None:
            return {}
    return {"network": kind, "fields": fields}


def _write() -> None:
    lines = []
    for arch, shape in architectures().items():
        tags = weights(arch, is_native=bool(shape))
        if tags:
            head = json.dumps({"parameters": count_parameters(arch), **shape})
            body = ",\n".join(f"  {json.dumps(tag)}: {json.dumps(tags[tag])}" for tag in tags)
            lines.append(f'{json.dumps(arch)}: {head[:-1]}, "weights": {{\n{body}}}}}')
    REGISTRY_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
