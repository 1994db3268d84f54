"""The options of `swinclf.train` as keyword types, for editors and type checkers.

A test compares them with the table of settings in `config`, field by field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

from swinclf.config import (
    Augment,
    ClassWeights,
    Compile,
    EpochScore,
    Impl,
    OptimizerName,
    TeacherViews,
)
from swinclf.device import Precision
from swinclf.preprocess import Fit, Interpolation


class TrainOptions(TypedDict, total=False):
    """Keyword options of `swinclf.train`: those of `swinclf train --help`, with `_` for `-`.

    An omitted option gets its default, or one that depends on the data, recorded with its reason.
    A path may be a `Path`, a choice its name.
    """

    model: str
    impl: Impl | Literal["timm", "native"] | None
    pretrained: bool
    model_arg: tuple[str, ...] | list[str]
    weights: str | Path | None
    freeze_layers: bool | None
    freeze_stages: int | None
    img_size: int | None
    train_size: int | None
    val_split: float
    test_split: float
    folds: int | None
    val: str | Path | None
    fit: Fit | Literal["crop", "pad", "squash"] | None
    mean: str | tuple[float, ...] | list[float] | None
    std: str | tuple[float, ...] | list[float] | None
    interpolation: Interpolation | Literal["nearest", "bilinear", "bicubic", "lanczos"] | None
    crop_pct: float | None
    augment: Augment | Literal["none", "crop", "trivial"] | None
    min_crop: float
    mirror: bool | None
    mixup: float
    cutmix: float
    random_erasing: float
    rotate: float
    zoom: float
    epochs: int | None
    batch_size: int | None
    lr: float | None
    lrf: float
    warmup: float
    patience: int | None
    optimizer: OptimizerName | Literal["adamw", "muon"] | None
    weight_decay: float
    layer_decay: float | None
    label_smoothing: float | None
    drop_path: float | None
    ema: float
    select: EpochScore | Literal["loss", "accuracy"]
    clip_norm: float
    class_weights: ClassWeights | Literal["none", "sqrt", "balanced"] | None
    teacher: str | Path | None
    unlabelled: str | Path | None
    teacher_temperature: float | None
    teacher_weight: float | None
    teacher_features: float | None
    teacher_views: TeacherViews | Literal["cached", "online"] | None
    device: str
    precision: Precision | Literal["auto", "fp32", "bf16", "fp16"]
    compile: Compile | Literal["auto", "on", "off"]
    threads: int | None
    workers: int | None
    strict: bool
    cache: bool
    cache_gib: float
    seed: int
    out: str | Path
    name: str | None
