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


def _setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    auto: str = "",
    colours: tuple[float, float] | None = None,
) -> Any:
    """Return a field of the table.

    Args:
        default: None for a default that depends on the data.
        text: Meaning and unit, for --help.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: Exclusive lower bound; None for `low`.
        auto: Description of the default if it is None, for --help.
        colours: Smallest and largest value allowed for red, green and blue.
    """
    metadata = {
        "text": text,
        "low": low,
        "high": high,
        "above": above,
        "auto": auto,
        "colours": colours,
    }
    return field(default=default, metadata=metadata)


_AS_TRAINED = "as the weights were trained, else the model's own"

# The type of an open setting: None in a TrainConfig, Never in a ResolvedConfig.
Open = TypeVar("Open", bound=None, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[Open]):
    """The table of settings: options of `swinclf train` and keys of its files.

    A `T | Open` is always resolved. A `T | None` may stay None: no weights, no teacher, no frozen
    stages, the folders that DATA implies.
    """

    data: str = field(default="", metadata={"text": "A folder of class folders."})

    model: str = _setting(
        "swin_tiny_patch4_window7_224",
        "A timm Swin or ViT name, ARCH or ARCH.TAG (`swinclf models` lists them), or embedded: "
        "the trained network that comes with the package. If not given, embedded is used where "
        "the default's published weights are not cached and the Hub is unreachable.",
    )
    impl: Impl | Open = _setting(
        None,
        "Implementation of the network: timm's or this package's own, with the same outputs.",
        auto="native, which is faster, if it has the model; else timm",
    )
    pretrained: bool = _setting(True, "Start from timm's published weights, or from random ones.")
    model_arg: tuple[str, ...] = _setting(
        (),
        "KEY=VALUE, repeatable: architecture of --model vit or swin, or changes to a native one.",
    )
    weights: str | None = _setting(
        None,
        "Start from this weights file or earlier run instead.",
        auto="none",
    )
    freeze_layers: bool | Open = _setting(
        None,
        "Train the head only, or the whole network.",
        auto="head only if starting from trained weights",
    )
    freeze_stages: int | None = _setting(
        None,
        "Freeze the stem and the first N stages (Swin) or blocks (ViT), train the rest.",
        low=0,
        auto="none",
    )
    img_size: int | Open = _setting(
        None,
        "Side of the network's input, px.",
        low=8,
        auto="the model's own",
    )
    train_size: int | Open = _setting(
        None,
        "Side of the input of a convolutional network in training, px.",
        low=8,
        auto="about 5/7 of --img-size for a convolutional network; else --img-size",
    )

    val_split: float = _setting(
        0.2,
        "Fraction of each class that is held out for validation, if there is no val folder.",
        low=0,
        high=0.9,
    )
    test_split: float = _setting(
        0.0,
        "Fraction of each class that is held out for the final score alone and selects nothing.",
        low=0,
        high=0.9,
    )
    folds: int | Open = _setting(
        None,
        "Cross-validate a frozen network's head in this many folds, and fit the final head to all "
        "images; 0 holds images out instead.",
        low=0,
        high=100,
        auto="5 below 300 images if the backbone is frozen and trained, and neither a val folder "
        "nor --val-split is given; else 0",
    )
    val: str | None = _setting(
        None,
        "A folder of class folders for validation.",
        auto="DATA/val, else --val-split",
    )
    fit: Fit | Open = _setting(
        None,
        "For images of other aspect ratios: crop the centre, pad with the mean colour, or squash.",
        auto="the model's own, usually crop",
    )
    mean: str | Open = _setting(
        None,
        "Mean of red, green, blue, of values from 0 to 1, such as 0.485,0.456,0.406.",
        auto=_AS_TRAINED,
        colours=(0, 1),
    )
    std: str | Open = _setting(
        None,
        "Standard deviation of red, green, blue, such as 0.229,0.224,0.225.",
        auto=_AS_TRAINED,
        colours=(0.001, 10),
    )
    interpolation: Interpolation | Open = _setting(
        None,
        "Interpolation of resized images.",
        auto=_AS_TRAINED,
    )
    crop_pct: float | Open = _setting(
        None,
        "With --fit crop, the fraction of the resized image's side that is used.",
        low=0.1,
        high=1,
        auto=_AS_TRAINED,
    )
    augment: Augment | Open = _setting(
        None,
        "Augmentation of training images: none, random crops, or crops and TrivialAugment.",
        auto="trivial; crop without mirroring or if a trained convolutional network is tuned",
    )
    min_crop: float = _setting(
        0.35,
        "Smallest fraction of the area of an image that a random crop covers.",
        low=0.01,
        high=1,
    )
    mirror: bool | Open = _setting(
        None,
        "Also train on mirror images.",
        auto="on, unless a class name has left or right or is a digit or letter",
    )

    epochs: int | Open = _setting(
        None,
        "Passes over the training images.",
        low=1,
        auto="by regime and dataset size",
    )
    batch_size: int | Open = _setting(
        None,
        "Images a step; on out-of-memory, gradients are accumulated over smaller micro-batches.",
        low=1,
        auto="64 for the head; 32 for the network, up to 128 on a GPU with 100 steps an epoch",
    )
    lr: float | Open = _setting(
        None, "Peak learning rate, more than 0.", above=0, auto="by regime and batch size"
    )
    lrf: float = _setting(0.01, "Final rate as a fraction of the peak (cosine).", low=0, high=1)
    warmup: float = _setting(
        0.1,
        "Fraction of all steps in which the rate rises to its peak.",
        low=0,
        high=0.9,
    )
    patience: int | Open = _setting(
        None,
        "Epochs without improvement before early stopping; 0 turns it off.",
        low=0,
        auto="a third of the epochs; 0 if --epochs is given or only the head trains",
    )

    weight_decay: float = _setting(0.05, "AdamW's weight decay.", low=0)
    layer_decay: float | Open = _setting(
        None,
        "Each layer's rate is this times the rate of the layer above it.",
        low=0.1,
        high=1,
        auto="0.9 for Swin and convolutional, 0.75 for ViT; 1 with random weights",
    )
    label_smoothing: float | Open = _setting(
        None,
        "Fraction of the target spread over all classes.",
        low=0,
        high=0.9,
        auto="0.1 for the network, 0 for the head",
    )
    drop_path: float | Open = _setting(
        None,
        "Probability to skip the last block, falling to 0 at the first (stochastic depth).",
        low=0,
        high=0.9,
        auto="0.1 if the network trains, else 0",
    )
    clip_norm: float = _setting(1.0, "Largest gradient norm; 0 for no clipping.", low=0)
    class_weights: ClassWeights | Open = _setting(
        None,
        "Weights of the classes in the loss, by their size.",
        auto="balanced if the largest class is 10 times the smallest, else none",
    )

    teacher: str | None = _setting(
        None,
        "Distill this trained network: a run with these classes, its model.safetensors, or a "
        "model as in --model, to which a head is fitted.",
        auto="none",
    )
    unlabelled: str | None = _setting(
        None,
        "A folder of additional images without labels, for distillation.",
        auto="none",
    )
    teacher_temperature: float | None = _setting(
        None,
        "Divisor of the logits of teacher and student, more than 0.",
        above=0,
        auto="2 with a teacher",
    )
    teacher_weight: float | None = _setting(
        None,
        "Weight of the teacher's probabilities in the loss; the labels get the rest.",
        low=0,
        high=1,
        auto="0.5 with a teacher",
    )
    teacher_features: float | None = _setting(
        None,
        "Weight of the loss between the features of student and teacher.",
        low=0,
        auto="1 with a teacher, 0 if only the head trains",
    )
    teacher_views: TeacherViews | None = _setting(
        None,
        "What the teacher sees: each image and its mirror image once, or every augmented view.",
        auto="cached without random crops, else online",
    )

    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Precision = _setting(
        Precision.AUTO,
        "Number format; auto is bf16 where the hardware supports it natively.",
    )
    compile: bool = _setting(
        False,
        "Train with torch.compile: takes a minute or more at the start, then is often faster on a "
        "GPU, not on a CPU.",
    )
    threads: int | Open = _setting(
        None,
        "Compute threads on the CPU; the number affects rounding.",
        low=1,
        high=1024,
        auto="torch's default",
    )
    workers: int | Open = _setting(None, "Reader threads.", low=0, high=256, auto="one per core")
    strict: bool = _setting(False, "Stop, with exit code 1, if any file cannot be read.")
    cache: bool = _setting(
        True,
        "Cache the features of frozen layers in the user's cache folder, for the next training.",
    )
    cache_gib: float = _setting(2.0, "Largest size of the cache on disk, GiB.", low=0)
    seed: int = _setting(0, "Seed of the split, the order and the augmentation.", low=0)
    out: str = _setting("runs", "The folder for runs.")
    name: str | None = _setting(None, "The run's folder in --out.", auto="DATA's name and a number")


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
