"""Every setting of a training, in one table: its type, default, meaning, unit and bounds.

The table drives the command line's options and help, configuration files, validation and
config.json. A setting of type `T | Open` that is not given gets a default that depends on the data
(training/defaults.py and pipeline/), which is printed and recorded with its reason: the given
`TrainConfig` becomes a `ResolvedConfig`, in which nothing is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, Never, TypedDict, TypeVar, get_type_hints

from swinclf.device import Precision
from swinclf.preprocess import Fit, Interpolation


class Impl(StrEnum):
    """Implementation of the network."""

    TIMM = "timm"
    NATIVE = "native"


class Augment(StrEnum):
    """Augmentation of training images."""

    NONE = "none"  # as in prediction
    CROP = "crop"  # random resized crop
    TRIVIAL = "trivial"  # the same and one random operation (TrivialAugment)


class EpochScore(StrEnum):
    """What the best epoch is best in."""

    LOSS = "loss"
    ACCURACY = "accuracy"


class Compile(StrEnum):
    """Whether torch.compile compiles the network for training."""

    AUTO = "auto"  # where it pays
    ON = "on"
    OFF = "off"


class OptimizerName(StrEnum):
    """What turns gradients into steps."""

    ADAMW = "adamw"
    MUON = "muon"  # for the matrices between the embedding and the head; AdamW for the rest


class ClassWeights(StrEnum):
    """Weights of the classes in the loss."""

    NONE = "none"  # equal weight of all images
    SQRT = "sqrt"  # inverse square root of the class size
    BALANCED = "balanced"  # inverse class size: equal weight of all classes


class TeacherViews(StrEnum):
    """Views of an image that the teacher sees."""

    CACHED = "cached"  # the image and its mirror image, each once
    ONLINE = "online"  # the augmented view of the student, in every step


class ExportFormat(StrEnum):
    """File format of an export."""

    ONNX = "onnx"
    TIMM = "timm"
    TORCH_EXPORT = "torch-export"
    OPENVINO = "openvino"
    WEB = "web"
    COREML = "coreml"
    LITERT = "litert"


class Embed(StrEnum):
    """What an exported graph contains besides the network."""

    NONE = "none"  # its input is resized and normalised already
    PREPROCESS = "preprocess"  # its input are decoded images; it gives probabilities and decisions


class ExportPrecision(StrEnum):
    """Number format of an export."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Engine(StrEnum):
    """What computes the network of a run on a CPU."""

    TORCH = "torch"  # in the run's own precision
    AUTO = "auto"  # an export where it is much faster and agrees, else torch
    OPENVINO = "openvino"
    ONNX = "onnx"


class OptionGroup(StrEnum):
    """Group of options in --help, in their order."""

    DATA = "Data"
    MODEL = "Model"
    TRAINING = "Training"
    AUGMENTATION = "Augmentation"
    DISTILLATION = "Distillation"
    MACHINE = "Machine"
    OUTPUT = "Output"


def _setting(
    group: OptionGroup,
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    auto: str = "",
    colours: tuple[float, float] | None = None,
    metavar: str | None = None,
) -> Any:
    """Return a field of the table; the default is None if it depends on the data.

    `text` is meaning and unit for --help, in one or two lines of 48 columns with the default;
    `auto` describes the default if it is None. `low` and `high` are the smallest and largest value
    allowed, `colours` the same for red, green and blue; `above` is an exclusive lower bound.
    `metavar` is the placeholder of the value in --help; None for one by its type.
    """
    metadata = {
        "group": group,
        "metavar": metavar,
        "text": text,
        "low": low,
        "high": high,
        "above": above,
        "auto": auto,
        "colours": colours,
    }
    return field(default=default, metadata=metadata)


_data = partial(_setting, OptionGroup.DATA)
_model = partial(_setting, OptionGroup.MODEL)
_training = partial(_setting, OptionGroup.TRAINING)
_augmentation = partial(_setting, OptionGroup.AUGMENTATION)
_distillation = partial(_setting, OptionGroup.DISTILLATION)
_machine = partial(_setting, OptionGroup.MACHINE)
_output = partial(_setting, OptionGroup.OUTPUT)
_AS_TRAINED = "as trained"

# The type of an open setting: None in a TrainConfig, Never in a ResolvedConfig.
Open = TypeVar("Open", bound=None, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[Open]):
    """The table of settings: options of `swinclf train` and keys of its files.

    A `T | Open` is always resolved. A `T | None` may stay None: no weights, no teacher, no frozen
    stages, the folders that DATA implies.
    """

    data: str = _data("", "A folder of class folders.")

    model: str = _model(
        "swin_tiny_patch4_window7_224", "See swinclf models; embedded if offline.", metavar="NAME"
    )
    impl: Impl | Open = _model(None, "Implementation.", auto="native where it exists")
    pretrained: bool = _model(True, "Start from published weights.")
    model_arg: tuple[str, ...] = _model((), "Architecture; repeatable.", metavar="KEY=VALUE")
    weights: str | None = _model(None, "Start from these weights.", auto="none", metavar="FILE|RUN")
    freeze_layers: bool | Open = _model(
        None,
        "Train the head only, or the whole network.",
        auto="on if starting from trained weights",
    )
    freeze_stages: int | None = _model(None, "Freeze stem and first N stages.", low=0, auto="none")
    img_size: int | Open = _model(None, "Side of the input, px.", low=8, auto="the model's own")
    train_size: int | Open = _model(None, "Of training images, px.", low=8, auto="5/7 for CNNs")

    val_split: float = _data(0.2, "Validation part of each class.", low=0, high=0.9)
    test_split: float = _data(0.0, "Part for the final score only.", low=0, high=0.9)
    folds: int | Open = _data(
        None, "Cross-validation; 0: none.", low=0, high=100, auto="40 below 300"
    )
    val: str | None = _data(None, "Validation images.", auto="DATA/val", metavar="DIR")
    fit: Fit | Open = _data(None, "How images become square.", auto="the model's own")
    mean: str | Open = _data(
        None, "Mean colour, or data.", auto=_AS_TRAINED, colours=(0, 1), metavar="R,G,B"
    )
    std: str | Open = _data(
        None, "Its standard deviation.", auto=_AS_TRAINED, colours=(0.001, 10), metavar="R,G,B"
    )
    interpolation: Interpolation | Open = _data(None, "Filter of resizing.", auto=_AS_TRAINED)
    crop_pct: float | Open = _data(
        None, "Side left by --fit crop.", low=0.1, high=1, auto=_AS_TRAINED
    )
    augment: Augment | Open = _augmentation(
        None,
        "Random crops; trivial adds TrivialAugment.",
        auto="trivial; crop for CNNs and --no-mirror",
    )
    min_crop: float = _augmentation(0.35, "Smallest area of a crop.", low=0.01, high=1)
    mirror: bool | Open = _augmentation(
        None,
        "Train on mirror images, too.",
        auto="on unless a class name has left, right or is one letter",
    )

    mixup: float = _augmentation(0.0, "Alpha of mixup; 0: off.", low=0)
    cutmix: float = _augmentation(0.0, "Alpha of CutMix; 0: off.", low=0)
    random_erasing: float = _augmentation(0.0, "Chance of an erased box; 0: off.", low=0, high=1)
    rotate: float = _augmentation(0.0, "Largest rotation, in turns; 0: off.", low=0, high=0.5)
    zoom: float = _augmentation(0.0, "Largest zoom, in or out; 0: off.", low=0, high=0.9)

    epochs: int | Open = _training(None, "Passes over the images.", low=1, auto="by dataset size")
    batch_size: int | Open = _training(None, "Images a step.", low=1, auto="32; head and GPU: more")
    lr: float | Open = _training(None, "Peak rate, more than 0.", above=0, auto="by batch size")
    lrf: float = _training(0.01, "Final rate as a part of --lr.", low=0, high=1)
    warmup: float = _training(0.1, "Part of all steps to warm up.", low=0, high=0.9)
    patience: int | Open = _training(
        None, "Epochs without progress; 0: any.", low=0, auto="a third"
    )
    optimizer: OptimizerName | Open = _training(None, "Optimizer.", auto="muon from random weights")
    weight_decay: float = _training(0.05, "Decoupled weight decay.", low=0)
    layer_decay: float | Open = _training(
        None,
        "Rate of each layer relative to the next.",
        low=0.1,
        high=1,
        auto="0.75 for ViT, else 0.9; 1 from random weights",
    )
    label_smoothing: float | Open = _training(
        None, "Label smoothing.", low=0, high=0.9, auto="0.1; 0 for the head"
    )
    drop_path: float | Open = _training(
        None, "Stochastic depth.", low=0, high=0.9, auto="0.1; 0 if frozen or n/a"
    )
    ema: float = _training(0.0, "Decay of averaged weights; 0: off.", low=0, high=0.99999)
    select: EpochScore = _training(EpochScore.LOSS, "What decides the best epoch.")
    clip_norm: float = _training(1.0, "Largest gradient norm; 0: any.", low=0)
    class_weights: ClassWeights | Open = _training(None, "In the loss.", auto="balanced from 1:10")

    teacher: str | None = _distillation(
        None, "The network to distill.", auto="none", metavar="RUN|FILE|MODEL"
    )
    unlabelled: str | None = _distillation(
        None, "More images, without labels.", auto="none", metavar="DIR"
    )
    teacher_temperature: float | None = _distillation(
        None, "Divisor of logits.", above=0, auto="2 with a teacher"
    )
    teacher_weight: float | None = _distillation(
        None, "Weight of its outputs.", low=0, high=1, auto="0.5 with a teacher"
    )
    teacher_features: float | None = _distillation(
        None, "Weight of its features.", low=0, auto="1; 0 for the head"
    )
    teacher_views: TeacherViews | None = _distillation(
        None, "Its inputs: images, or augmented views.", auto="online with random crops"
    )

    device: str = _machine("auto", "auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
    precision: Precision = _machine(Precision.AUTO, "Number format.")
    compile: Compile = _machine(Compile.AUTO, "Use torch.compile.")
    threads: int | Open = _machine(None, "CPU threads.", low=1, high=1024, auto="torch's own")
    workers: int | Open = _machine(None, "Reader threads.", low=0, high=256, auto="one per core")
    strict: bool = _data(False, "Stop if a file is unreadable.")
    cache: bool = _machine(True, "Cache features on disk.")
    cache_gib: float = _machine(2.0, "Largest cache, GiB.", low=0)
    seed: int = _training(0, "Of split, order, augmentation.", low=0)
    out: str = _output("runs", "The folder for runs.", metavar="DIR")
    name: str | None = _output(None, "The run's name.", auto="DATA's and a number", metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config[None]):
    """The settings of a training as given; some may be open."""


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config[Never]):
    """The resolved settings of a training, given or default.

    Raises:
        TypeError: If one is still open, which is a bug.
    """

    def __post_init__(self) -> None:
        """Check for open settings, as type checkers do not see the inherited defaults."""
        still_open = [name for name in ALWAYS_CHOSEN if getattr(self, name) is None]
        if still_open:
            raise TypeError(f"unresolved settings: {', '.join(still_open)}")


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


# What may change when a run is resumed: paths, and the number of reader threads.
MOVABLE = ("data", "val", "weights", "workers", "teacher", "unlabelled")
SETTINGS = {one.name: one for one in fields(Config)}
_HINTS: dict[str, Any] = get_type_hints(Config)
ALWAYS_CHOSEN = [
    name for name, hint in _HINTS.items() if Open in getattr(hint, "__parameters__", ())
]
# In a TrainConfig.
SETTING_TYPES = {
    name: hint[None] if name in ALWAYS_CHOSEN else hint for name, hint in _HINTS.items()
}
PATHS = ("data", "weights", "val", "out", "teacher", "unlabelled")
