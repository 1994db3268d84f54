"""Every setting of a training, in one table: its type, default, meaning, unit and bounds.

The table drives the command line's options and help, configuration files, validation and
config.json. A setting of type `T | Open` that is not given gets a default that depends on the data
(training/defaults.py and pipeline/), which is printed and recorded with its reason: the given
`TrainConfig` becomes a `ResolvedConfig`, in which nothing is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic, Never, TypeVar, get_type_hints

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
    default: Any,
    group: OptionGroup,
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


_AS_TRAINED = "as trained"

# The type of an open setting: None in a TrainConfig, Never in a ResolvedConfig.
Open = TypeVar("Open", bound=None, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[Open]):
    """The table of settings: options of `swinclf train` and keys of its files.

    A `T | Open` is always resolved. A `T | None` may stay None: no weights, no teacher, no frozen
    stages, the folders that DATA implies.
    """

    data: str = _setting("", OptionGroup.DATA, "A folder of class folders.")

    model: str = _setting(
        "swin_tiny_patch4_window7_224",
        OptionGroup.MODEL,
        "See swinclf models; embedded if offline.",
        metavar="NAME",
    )
    impl: Impl | Open = _setting(
        None, OptionGroup.MODEL, "Implementation.", auto="native where it exists"
    )
    pretrained: bool = _setting(True, OptionGroup.MODEL, "Start from published weights.")
    model_arg: tuple[str, ...] = _setting(
        (), OptionGroup.MODEL, "Architecture; repeatable.", metavar="KEY=VALUE"
    )
    weights: str | None = _setting(
        None, OptionGroup.MODEL, "Start from these weights.", auto="none", metavar="FILE|RUN"
    )
    freeze_layers: bool | Open = _setting(
        None,
        OptionGroup.MODEL,
        "Train the head only, or the whole network.",
        auto="on if starting from trained weights",
    )
    freeze_stages: int | None = _setting(
        None, OptionGroup.MODEL, "Freeze stem and first N stages.", low=0, auto="none"
    )
    img_size: int | Open = _setting(
        None, OptionGroup.MODEL, "Side of the input, px.", low=8, auto="the model's own"
    )
    train_size: int | Open = _setting(
        None,
        OptionGroup.MODEL,
        "Of training images, px.",
        low=8,
        auto="5/7 for CNNs",
    )

    val_split: float = _setting(
        0.2, OptionGroup.DATA, "Validation part of each class.", low=0, high=0.9
    )
    test_split: float = _setting(
        0.0, OptionGroup.DATA, "Part for the final score only.", low=0, high=0.9
    )
    folds: int | Open = _setting(
        None,
        OptionGroup.DATA,
        "Cross-validation; 0: none.",
        low=0,
        high=100,
        auto="10 below 300",
    )
    val: str | None = _setting(
        None, OptionGroup.DATA, "Validation images.", auto="DATA/val", metavar="DIR"
    )
    fit: Fit | Open = _setting(
        None, OptionGroup.DATA, "How images become square.", auto="the model's own"
    )
    mean: str | Open = _setting(
        None,
        OptionGroup.DATA,
        "Mean colour, or data.",
        auto=_AS_TRAINED,
        colours=(0, 1),
        metavar="R,G,B",
    )
    std: str | Open = _setting(
        None,
        OptionGroup.DATA,
        "Its standard deviation.",
        auto=_AS_TRAINED,
        colours=(0.001, 10),
        metavar="R,G,B",
    )
    interpolation: Interpolation | Open = _setting(
        None, OptionGroup.DATA, "Filter of resizing.", auto=_AS_TRAINED
    )
    crop_pct: float | Open = _setting(
        None, OptionGroup.DATA, "Side left by --fit crop.", low=0.1, high=1, auto=_AS_TRAINED
    )
    augment: Augment | Open = _setting(
        None,
        OptionGroup.AUGMENTATION,
        "Random crops; trivial adds TrivialAugment.",
        auto="trivial; crop for CNNs and --no-mirror",
    )
    min_crop: float = _setting(
        0.35, OptionGroup.AUGMENTATION, "Smallest area of a crop.", low=0.01, high=1
    )
    mirror: bool | Open = _setting(
        None,
        OptionGroup.AUGMENTATION,
        "Train on mirror images, too.",
        auto="on unless a class name has left, right or is one letter",
    )

    mixup: float = _setting(0.0, OptionGroup.AUGMENTATION, "Alpha of mixup; 0: off.", low=0)
    cutmix: float = _setting(0.0, OptionGroup.AUGMENTATION, "Alpha of CutMix; 0: off.", low=0)
    random_erasing: float = _setting(
        0.0, OptionGroup.AUGMENTATION, "Chance of an erased box; 0: off.", low=0, high=1
    )
    rotate: float = _setting(
        0.0, OptionGroup.AUGMENTATION, "Largest rotation, in turns; 0: off.", low=0, high=0.5
    )
    zoom: float = _setting(
        0.0, OptionGroup.AUGMENTATION, "Largest zoom, in or out; 0: off.", low=0, high=0.9
    )

    epochs: int | Open = _setting(
        None, OptionGroup.TRAINING, "Passes over the images.", low=1, auto="by dataset size"
    )
    batch_size: int | Open = _setting(
        None,
        OptionGroup.TRAINING,
        "Images a step.",
        low=1,
        auto="32; head and GPU: more",
    )
    lr: float | Open = _setting(
        None, OptionGroup.TRAINING, "Peak rate, more than 0.", above=0, auto="by batch size"
    )
    lrf: float = _setting(
        0.01, OptionGroup.TRAINING, "Final rate as a part of --lr.", low=0, high=1
    )
    warmup: float = _setting(
        0.1, OptionGroup.TRAINING, "Part of all steps to warm up.", low=0, high=0.9
    )
    patience: int | Open = _setting(
        None,
        OptionGroup.TRAINING,
        "Epochs without progress; 0: any.",
        low=0,
        auto="a third",
    )
    optimizer: OptimizerName | Open = _setting(
        None, OptionGroup.TRAINING, "Optimizer.", auto="muon from random weights"
    )
    weight_decay: float = _setting(0.05, OptionGroup.TRAINING, "Decoupled weight decay.", low=0)
    layer_decay: float | Open = _setting(
        None,
        OptionGroup.TRAINING,
        "Rate of each layer relative to the next.",
        low=0.1,
        high=1,
        auto="0.75 for ViT, else 0.9; 1 from random weights",
    )
    label_smoothing: float | Open = _setting(
        None, OptionGroup.TRAINING, "Label smoothing.", low=0, high=0.9, auto="0.1; 0 for the head"
    )
    drop_path: float | Open = _setting(
        None, OptionGroup.TRAINING, "Stochastic depth.", low=0, high=0.9, auto="0.1; 0 if frozen"
    )
    ema: float = _setting(
        0.0, OptionGroup.TRAINING, "Decay of averaged weights; 0: off.", low=0, high=0.99999
    )
    select: EpochScore = _setting(
        EpochScore.LOSS, OptionGroup.TRAINING, "What decides the best epoch."
    )
    clip_norm: float = _setting(1.0, OptionGroup.TRAINING, "Largest gradient norm; 0: any.", low=0)
    class_weights: ClassWeights | Open = _setting(
        None,
        OptionGroup.TRAINING,
        "In the loss.",
        auto="balanced from 1:10",
    )

    teacher: str | None = _setting(
        None,
        OptionGroup.DISTILLATION,
        "The network to distill.",
        auto="none",
        metavar="RUN|FILE|MODEL",
    )
    unlabelled: str | None = _setting(
        None,
        OptionGroup.DISTILLATION,
        "More images, without labels.",
        auto="none",
        metavar="DIR",
    )
    teacher_temperature: float | None = _setting(
        None, OptionGroup.DISTILLATION, "Divisor of logits.", above=0, auto="2 with a teacher"
    )
    teacher_weight: float | None = _setting(
        None,
        OptionGroup.DISTILLATION,
        "Weight of its outputs.",
        low=0,
        high=1,
        auto="0.5 with a teacher",
    )
    teacher_features: float | None = _setting(
        None, OptionGroup.DISTILLATION, "Weight of its features.", low=0, auto="1; 0 for the head"
    )
    teacher_views: TeacherViews | None = _setting(
        None,
        OptionGroup.DISTILLATION,
        "Its inputs: images, or augmented views.",
        auto="online with random crops",
    )

    device: str = _setting(
        "auto", OptionGroup.MACHINE, "auto, cpu, cuda, cuda:N or mps.", metavar="NAME"
    )
    precision: Precision = _setting(Precision.AUTO, OptionGroup.MACHINE, "Number format.")
    compile: Compile = _setting(Compile.AUTO, OptionGroup.MACHINE, "Use torch.compile.")
    threads: int | Open = _setting(
        None, OptionGroup.MACHINE, "CPU threads.", low=1, high=1024, auto="torch's own"
    )
    workers: int | Open = _setting(
        None, OptionGroup.MACHINE, "Reader threads.", low=0, high=256, auto="one per core"
    )
    strict: bool = _setting(False, OptionGroup.DATA, "Stop if a file is unreadable.")
    cache: bool = _setting(True, OptionGroup.MACHINE, "Cache features on disk.")
    cache_gib: float = _setting(2.0, OptionGroup.MACHINE, "Largest cache, GiB.", low=0)
    seed: int = _setting(0, OptionGroup.TRAINING, "Of split, order, augmentation.", low=0)
    out: str = _setting("runs", OptionGroup.OUTPUT, "The folder for runs.", metavar="DIR")
    name: str | None = _setting(
        None, OptionGroup.OUTPUT, "The run's name.", auto="DATA's and a number", metavar="NAME"
    )


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
