"""State dicts of timm's networks under the names that other tools save them with.

Written from the tools' own files, tensor by tensor, the other way round than the package reads
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def _block(name: str) -> tuple[str, str] | None:
    """Return a block's number and the rest of a tensor's name, of a ViT."""
    match = re.match(r"blocks\.(\d+)\.(.+)", name)
    return (match[1], match[2]) if match else None


def _thirds(rest: str, value: Tensor, names: tuple[str, str, str]) -> State:
    """Return queries, keys and values under three names."""
    kind = rest.rpartition(".")[2]
    return {f"{name}.{kind}": part for name, part in zip(names, value.chunk(3), strict=True)}


OLD = {
    "attn.proj": "attention.output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "ls1.gamma": "lambda_1",
    "ls2.gamma": "lambda_2",
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
}
NEW = OLD | {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
DINO = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
}
QKV = {
    False: tuple(f"attention.attention.{one}" for one in ("query", "key", "value")),
    True: tuple(f"attention.{one}_proj" for one in "qkv"),
}
EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "fc_norm.weight": "pooler.layernorm.weight",
    "fc_norm.bias": "pooler.layernorm.bias",
}


def _renamed(rest: str, names: dict[str, str]) -> str:
    """Return a name within a block by the table, with its weight or bias."""
    part, _, kind = rest.rpartition(".")
    return names[rest] if rest in names else f"{names[part]}.{kind}"


def transformers_vit(
    state: State, *, new: bool, base: str = "vit", dino: bool = False, layers: str = ""
) -> State:
    """Write ViT, DeiT, BEiT or DINOv2 as transformers does.

    Args:
        state: timm's tensors.
        new: Whether in the names of version 5.
        base: Name of the network within one with a head; empty: saved without.
        dino: Whether in DINOv2's names.
        layers: What comes before a block's number; by default as the version has it.
    """
    layers = layers or ("layers" if new and not dino else "encoder.layer")
    names = (DINO if dino else {}) | {
        name: own for name, own in (NEW if new else OLD).items() if not dino or name == "attn.proj"
    }
    dot, found = base and base + ".", {}
    for name, value in state.items():
        block = _block(name)
        if name.startswith("head_dist."):
            found[name.replace("head_dist", "distillation_classifier")] = value
        elif name.startswith("head."):
            distilled = "dist_token" in state
            found[name.replace("head", "cls_classifier" if distilled else "classifier")] = value
        elif block is None:
            found[dot + EMBEDDINGS[name]] = value
        else:
            at, rest = f"{dot}{layers}.{block[0]}.", block[1]
            if rest.startswith("attn.qkv."):
                found |= {at + key: one for key, one in _thirds(rest, value, QKV[new]).items()}
            elif rest in ("attn.q_bias", "attn.v_bias"):
                found[at + QKV[new][0 if "q_" in rest else 2] + ".bias"] = value
            elif rest == "attn.relative_position_bias_table":
                table = "relative_position_bias.relative_position_bias_table"
                found[at + ("" if new else "attention.attention.") + table] = value
            else:
                found[at + _renamed(rest, names)] = value
    return found


def with_class_position(state: State, dot: str) -> State:
    """Give DINOv2 with registers the position of the class token that it is stored with."""
    place = torch.randn(1, 1, state[dot + "cls_token"].shape[-1])
    table = dot + ("position_embeddings" if dot else "pos_embed")
    state[dot + "cls_token"] = state[dot + "cls_token"] - place
    state[table] = torch.cat((place, state[table]), dim=1)
    return state


def transformers_dinov3(state: State, *, new: bool) -> State:
    """Write DINOv3 as transformers does; it is saved without the `model.` that it has in memory."""
    found: State = {"embeddings.mask_token": torch.zeros(1, 1, state["cls_token"].shape[-1])}
    gates = {"mlp.fc1_g": "mlp.gate_proj", "mlp.fc1_x": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
    names = DINO | gates | {"mlp.fc1": "mlp.up_proj", "attn.proj": "attention.o_proj"}
    for name, value in state.items():
        block = _block(name)
        if block is None:
            own = EMBEDDINGS[name].replace("projection.", "").replace("layernorm", "norm")
            found[own] = value
            continue
        at, rest = ("model." if new else "") + f"layer.{block[0]}.", block[1]
        if rest == "attn.qkv.weight":
            found |= {at + key: one for key, one in _thirds(rest, value, QKV[True]).items()}
        elif rest in ("attn.q_bias", "attn.v_bias"):
            found[f"{at}attention.{rest[5]}_proj.bias"] = value
        else:
            found[at + _renamed(rest, names)] = value
    return found


def transformers_swin(state: State, *, new: bool, base: str = "swin") -> State:
    """Write Swin or Swin V2 as transformers does; V2's names are the same in both versions."""
    dot, found = base and base + ".", {}
    names = OLD if base == "swinv2" or not new else NEW
    kept = "self." if names is OLD else ""
    qkv = tuple(f"attention.self.{one}" for one in ("query", "key", "value"))
    qkv = qkv if names is OLD else QKV[True]
    table = f"attention.{kept or 'relative_position_bias.'}relative_position_bias_table"
    for name, value in state.items():
        match = re.match(r"layers\.(\d)\.(downsample|blocks\.(\d+))\.(.+)", name)
        if name.startswith("head.fc."):
            found[name.replace("head.fc", "classifier")] = value
        elif match is None:
            own = EMBEDDINGS.get(name) or name.replace("patch_embed", "embeddings")
            found[dot + own] = value
        elif match[2] == "downsample":
            at = f"{dot}encoder.layers.{int(match[1]) - 1}.downsample."
            found[at + match[4]] = value
        else:
            at, rest = f"{dot}encoder.layers.{match[1]}.blocks.{match[3]}.", match[4]
            if rest.startswith("attn.qkv."):
                found |= {at + key: one for key, one in _thirds(rest, value, qkv).items()}
            elif rest in ("attn.q_bias", "attn.v_bias"):
                found[f"{at}{qkv[0 if 'q_' in rest else 2]}.bias"] = value
            elif rest == "attn.relative_position_bias_table":
                found[at + table] = value
            elif rest == "attn.logit_scale":
                found[at + "attention.self.logit_scale"] = value
            elif "cpb_mlp" in rest:
                own = rest.replace("attn.cpb_mlp", "attention.self.continuous_position_bias_mlp")
                found[at + own] = value
            else:
                found[at + _renamed(rest, names)] = value
    return found


def transformers_clip(state: State, *, base: str = "vision_model") -> State:
    """Write the image tower of CLIP or SigLIP as transformers does."""
    dot, found = base and base + ".", {}
    names = {
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding.weight",
        "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
        "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    }
    inner = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    inner |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    clip = "cls_token" in state
    for name, value in state.items():
        block = _block(name)
        if name == "head.weight":
            found["visual_projection.weight" if clip else "classifier.weight"] = value
        elif name == "head.bias":
            if not clip:
                found["classifier.bias"] = value
        elif block is not None:
            at, rest = f"{dot}encoder.layers.{block[0]}.", block[1]
            if rest.startswith("attn.qkv."):
                found |= {at + key: one for key, one in _thirds(rest, value, qkv).items()}
            else:
                found[at + _renamed(rest, inner)] = value
        elif name in names:
            flat = {"cls_token": (-1,), "pos_embed": value.shape[1:]}.get(name, value.shape)
            found[dot + names[name]] = value.reshape(flat)
        elif name.startswith("norm"):
            own = {"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}[name.partition(".")[0]]
            found[f"{dot}{own}.{name.rpartition('.')[2]}"] = value
        elif name == "attn_pool.latent":
            found[dot + "head.probe"] = value
        elif name.startswith("attn_pool.q."):
            kind = name.rpartition(".")[2]
            whole = torch.cat((value, state[f"attn_pool.kv.{kind}"]))
            found[f"{dot}head.attention.in_proj_{kind}"] = whole
        elif not name.startswith("attn_pool.kv."):
            own = name.replace("attn_pool.proj", "head.attention.out_proj")
            own = own.replace("attn_pool.norm", "head.layernorm").replace("attn_pool", "head")
            found[dot + own] = value
    return found


def open_clip(state: State, *, prefix: str = "visual.") -> State:
    """Write the image tower of CLIP as OpenAI and OpenCLIP do, with some of the text tower."""
    found: State = {"logit_scale": torch.ones(()), "token_embedding.weight": torch.ones(3, 8)}
    found["transformer.resblocks.0.attn.in_proj_weight"] = torch.ones(24, 8)
    found["positional_embedding"] = torch.ones(7, 8)
    if not prefix:
        found = {}
    inner = {"norm1": "ln_1", "norm2": "ln_2", "attn.proj": "attn.out_proj"}
    inner |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for name, value in state.items():
        block = _block(name)
        if block is not None:
            at, rest = f"{prefix}transformer.resblocks.{block[0]}.", block[1]
            if rest.startswith("attn.qkv."):
                found[at + rest.replace("qkv.", "in_proj_")] = value
            else:
                found[at + _renamed(rest, inner)] = value
        elif name == "head.weight":
            found[prefix + "proj"] = value.t().contiguous()
        elif name == "cls_token":
            found[prefix + "class_embedding"] = value.flatten()
        elif name == "pos_embed":
            found[prefix + "positional_embedding"] = value[0]
        elif name == "patch_embed.proj.weight":
            found[prefix + "conv1.weight"] = value
        elif name != "head.bias":
            own = {"norm_pre": "ln_pre", "norm": "ln_post"}[name.partition(".")[0]]
            found[f"{prefix}{own}.{name.rpartition('.')[2]}"] = value
    return found


def openmmlab_vit(state: State) -> State:
    """Write a ViT as mmpretrain does."""
    inner = {"norm1": "ln1", "norm2": "ln2", "attn.proj": "attn.proj", "attn.qkv": "attn.qkv"}
    inner |= {"mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    found = {}
    for name, value in state.items():
        block = _block(name)
        if block is not None:
            found[f"backbone.layers.{block[0]}.{_renamed(block[1], inner)}"] = value
        elif name.startswith("head."):
            found[f"head.layers.{name}"] = value
        else:
            own = re.sub(
                r"^norm\.", "ln1.", name.replace("patch_embed.proj", "patch_embed.projection")
            )
            found[f"backbone.{own}"] = value
    return found


def openmmlab_swin(state: State) -> State:
    """Write a Swin as mmpretrain does, patch merging in the order of torch's unfold.

    Its Swin V2 merges at the beginning of a stage, and norms what has been merged.
    """
    found, second = {}, any(name.endswith("logit_scale") for name in state)
    for name, value in state.items():
        merging = re.match(r"layers\.(\d)\.downsample\.(.+)", name)
        if merging:
            columns = value.reshape(*value.shape[:-1], 2, 2, -1)  # (..., columns, rows, C)
            unfolded = torch.moveaxis(columns.transpose(-3, -2), -1, -3)  # (..., C, rows, columns)
            own = f"backbone.stages.{int(merging[1]) - (not second)}.downsample.{merging[2]}"
            is_merged = second and merging[2].startswith("norm.")
            found[own] = value if is_merged else unfolded.reshape(value.shape)
        elif name.startswith("head."):
            found[name] = value
        else:
            name = re.sub(r"^norm\.", "norm3.", name).replace("layers.", "stages.", 1)
            name = name.replace("patch_embed.proj.", "patch_embed.projection.")
            name = name.replace(".attn.", ".attn.w_msa.")
            name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
            found[f"backbone.{name}"] = value
    return found


def microsoft(state: State) -> State:
    """Write a Swin state dict as Microsoft's code saves it."""
    found = {}
    for name, value in state.items():
        name = re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        found[name.replace("head.fc.", "head.")] = value
    found["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    found["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    return found


def big_vision(state: State, heads: int) -> dict[str, np.ndarray]:
    """Write a ViT as big_vision does: pooled by mean, class token or attention; blocks apart."""
    found: dict[str, np.ndarray] = {}

    def dense(at: str, part: str, kind: str, value: Tensor) -> None:
        theirs = {"weight": "kernel", "bias": "bias"}[kind]
        found[f"{at}{part}/{theirs}"] = value.numpy().T

    def attention(at: str, part: str, kind: str, value: Tensor) -> None:
        array = value.numpy()
        if part == "out":
            array = array.T.reshape(heads, -1, len(array)) if kind == "weight" else array
        else:
            array = array.reshape(heads, len(array) // heads, *array.shape[1:])
            array = np.moveaxis(array, -1, 0) if kind == "weight" else array
        theirs = {"weight": "kernel", "bias": "bias"}[kind]
        found[f"{at}MultiHeadDotProductAttention_0/{part}/{theirs}"] = array

    def norm(at: str, kind: str, value: Tensor) -> None:
        found[f"{at}/{'scale' if kind == 'weight' else 'bias'}"] = value.numpy()

    def join(at: str, kind: str, value: Tensor, names: tuple[str, ...]) -> None:
        for name, one in zip(names, value.chunk(len(names)), strict=True):
            attention(at, name, kind, one)

    for name, value in state.items():
        part, _, kind = name.rpartition(".")
        block = re.match(r"blocks\.(\d+)\.(.+)", part)
        at = f"params/Transformer/encoderblock_{block[1]}/" if block else "params/"
        part = block[2] if block else part
        if part.startswith("attn_pool"):
            at, part = "params/MAPHead_0/", part.partition(".")[2] or kind
        if name in ("cls_token", "pos_embed"):
            found[{"cls_token": "params/cls", "pos_embed": "params/pos_embedding"}[name]] = (
                value.numpy()
            )
        elif part == "latent":
            found[at + "probe"] = value.numpy()
        elif part in ("norm1", "norm2"):
            norm(f"{at}LayerNorm_{int(part[-1]) - 1}", kind, value)
        elif part == "norm":
            norm(at + ("LayerNorm_0" if "MAP" in at else "Transformer/encoder_norm"), kind, value)
        elif part in ("mlp.fc1", "mlp.fc2"):
            dense(at, f"MlpBlock_0/Dense_{int(part[-1]) - 1}", kind, value)
        elif part in ("attn.proj", "proj"):
            attention(at, "out", kind, value)
        elif part == "attn.qkv":
            join(at, kind, value, ("query", "key", "value"))
        elif part == "q":
            join(at, kind, value, ("query",))
        elif part == "kv":
            join(at, kind, value, ("key", "value"))
        elif part == "patch_embed.proj":
            array = value.numpy()
            own = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
            found[f"params/embedding/{'kernel' if kind == 'weight' else 'bias'}"] = own
        else:
            dense(at, "head", kind, value)
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def headless(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("head")}


def dinov2(new: bool, *, registers: bool = False) -> Callable[[State], State]:
    base = "dinov2_with_registers" if registers else "dinov2"

    def write(state: State) -> State:
        body = {name: value for name, value in state.items() if not name.startswith("head")}
        found = transformers_vit(body, new=new, base=base, dino=True, layers="encoder.layer")
        found[f"{base}.embeddings.mask_token"] = torch.zeros(1, 24)
        found |= {"classifier.weight": torch.ones(5, 48), "classifier.bias": torch.ones(5)}
        return with_class_position(found, f"{base}.embeddings.") if registers else found

    return write


def swiglu(new: bool) -> Callable[[State], State]:
    """DINOv2's largest: one product for gate and values in old names, two in new ones."""

    def write(state: State) -> State:
        found = transformers_vit(headless(state), new=new, base="", dino=True)
        for name in [name for name in found if ".mlp." in name]:
            value = found.pop(name)
            if not new:
                name = name.replace("fc1", "weights_in").replace("fc2", "weights_out")
                found[name] = value
            elif "fc2" in name:
                found[name.replace("fc2", "down_proj")] = value
            else:
                found[name.replace("fc1", "gate_proj")] = value.chunk(2)[0]
                found[name.replace("fc1", "up_proj")] = value.chunk(2)[1]
        return found

    return write
