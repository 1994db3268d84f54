"""Every setting of a training, in one table: its type, default, meaning, unit and bounds.

The table drives the command line's options and help, configuration files, checking and
config.json, so nothing of this is written a second time. A setting of type `T | Open` that is not
given is chosen from the data (training/defaults.py and pipeline/), printed with its reason,
recorded: the `TrainConfig` that was asked for becomes a `ResolvedConfig`, in which nothing is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic, Never, TypeVar, get_type_hints

from swinclf.device import Precision
from swinclf.preprocess import Fit, Interpolation


class Impl(StrEnum):
    """Who builds the network."""

    TIMM = "timm"
    NATIVE = "native"


class Augment(StrEnum):
    """How training images are varied."""

    NONE = "none"  # as in prediction
    CROP = "crop"  # random resized crop
    TRIVIAL = "trivial"  # the same and one random operation (TrivialAugment)


class ClassWeights(StrEnum):
    """How much an image of each class counts in the loss."""

    NONE = "none"  # every image the same
    SQRT = "sqrt"  # by one over the square root of its class's size
    BALANCED = "balanced"  # by one over its class's size: every class the same


class TeacherViews(StrEnum):
    """Which picture a teacher answers for."""

    CACHED = "cached"  # the whole one and its mirror image, each once
    ONLINE = "online"  # the very view that the student sees, in every step


class ExportFormat(StrEnum):
    """What a run can be written as."""

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
    """A field of the table.

    Args:
        default: None where the value is chosen from the data.
        text: Meaning and unit, for --help.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: What every value has to be larger than; with None, `low` is the bound.
        auto: What is chosen where the default is None, for --help.
        colours: Of a number for red, green and blue each: the smallest and largest allowed.
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

# The type of a setting that is still open: None in a TrainConfig, no value at all, so that it drops
# out of `T | Open`, in a ResolvedConfig.
Open = TypeVar("Open", bound=None, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[Open]):
    """The table of settings: options of `swinclf train` and keys of its files.

    `T | Open` is always chosen in the end. `T | None` stays None where there is no such thing:
    neither weights nor a teacher, no part that is frozen, the folders that DATA implies.
    """

    data: str = field(default="", metadata={"text": "A folder of class folders."})

    model: str = _setting(
        "swin_tiny_patch4_window7_224",
        "A timm Swin or ViT name, ARCH or ARCH.TAG (`swinclf models` lists them), or embedded: "
        "the trained weights that come with the package. Not given, it is embedded where the "
        "default's published weights are not in the cache and the Hub does not answer.",
    )
    impl: Impl | Open = _setting(
        None,
        "Who builds the network: timm, or this package's own rebuild. Same weights, same answers.",
        auto="native where it knows the model, as it is quicker; else timm",
    )
    pretrained: bool = _setting(True, "Start from timm's published weights, or from random ones.")
    model_arg: tuple[str, ...] = _setting(
        (),
        "KEY=VALUE, repeatable: the shape of --model vit or swin, or a change to a native network.",
    )
    weights: str | None = _setting(
        None,
        "Start from this weights file or earlier run instead.",
        auto="none",
    )
    freeze_layers: bool | Open = _setting(
        None,
        "Train the head only, or everything.",
        auto="head only when starting from trained weights",
    )
    freeze_stages: int | None = _setting(
        None,
        "Freeze the stem and the first N stages (Swin) or blocks (ViT), train the rest.",
        low=0,
        auto="none",
    )
    img_size: int | Open = _setting(
        None,
        "Side of the picture the network sees, px.",
        low=8,
        auto="the model's own",
    )
    train_size: int | Open = _setting(
        None,
        "Side of the picture that a convolutional network sees while it is trained, px.",
        low=8,
        auto="about 5/7 of --img-size for a convolutional network; else --img-size",
    )

    val_split: float = _setting(
        0.2,
        "Part of each class that is held out, where no val folder says.",
        low=0,
        high=0.9,
    )
    val: str | None = _setting(
        None,
        "A folder of class folders to hold out.",
        auto="DATA/val, else --val-split",
    )
    fit: Fit | Open = _setting(
        None,
        "Pictures of other proportions: crop the middle, pad with the mean colour, or squash.",
        auto="the model's own, mostly crop",
    )
    mean: str | Open = _setting(
        None,
        "Red, green, blue to subtract, of values from 0 to 1, as 0.485,0.456,0.406.",
        auto=_AS_TRAINED,
        colours=(0, 1),
    )
    std: str | Open = _setting(
        None,
        "Red, green, blue to divide by after that, as 0.229,0.224,0.225.",
        auto=_AS_TRAINED,
        colours=(0.001, 10),
    )
    interpolation: Interpolation | Open = _setting(
        None,
        "How pictures are resampled.",
        auto=_AS_TRAINED,
    )
    crop_pct: float | Open = _setting(
        None,
        "With --fit crop, the part of the scaled picture's side that is used.",
        low=0.1,
        high=1,
        auto=_AS_TRAINED,
    )
    augment: Augment | Open = _setting(
        None,
        "Variation of training images: none, random crops, or crops and TrivialAugment.",
        auto="trivial; crop where mirroring is off or a trained convolutional network is tuned",
    )
    min_crop: float = _setting(
        0.35,
        "Smallest part of a picture's area that a random crop keeps.",
        low=0.01,
        high=1,
    )
    mirror: bool | Open = _setting(
        None,
        "Also train on mirror images.",
        auto="on, unless class names say left/right or are digits",
    )

    epochs: int | Open = _setting(
        None,
        "Passes over the training images.",
        low=1,
        auto="by regime and dataset size",
    )
    batch_size: int | Open = _setting(
        None,
        "Images a step; where memory runs out, fewer at once and as many a step.",
        low=1,
        auto="64 for the head; 32 for the network, up to 128 on a GPU with 100 steps an epoch",
    )
    lr: float | Open = _setting(
        None, "Peak learning rate, more than 0.", above=0, auto="by regime and batch size"
    )
    lrf: float = _setting(0.01, "Final rate as a fraction of the peak (cosine).", low=0, high=1)
    warmup: float = _setting(
        0.1,
        "Part of all steps in which the rate rises to its peak.",
        low=0,
        high=0.9,
    )
    patience: int | Open = _setting(
        None,
        "Stop after this many epochs without a better one; 0 never stops.",
        low=0,
        auto="a third of the epochs; 0 where --epochs is given or the head is trained",
    )

    weight_decay: float = _setting(0.05, "AdamW's weight decay.", low=0)
    layer_decay: float | Open = _setting(
        None,
        "Each layer's rate is this times the rate of the layer above it.",
        low=0.1,
        high=1,
        auto="0.9 Swin and convolutional, 0.75 ViT; 1 from random weights",
    )
    label_smoothing: float | Open = _setting(
        None,
        "Part of the target spread over all classes.",
        low=0,
        high=0.9,
        auto="0.1 for the network, 0 for the head",
    )
    drop_path: float | Open = _setting(
        None,
        "Chance to skip the deepest block, falling to 0 at the first.",
        low=0,
        high=0.9,
        auto="0.1 where the network trains",
    )
    clip_norm: float = _setting(1.0, "Longest gradient; 0 clips nothing.", low=0)
    class_weights: ClassWeights | Open = _setting(
        None,
        "How much an image of a small class counts in the loss.",
        auto="sqrt where the largest class is 10 times the smallest",
    )

    teacher: str | None = _setting(
        None,
        "Learn the answers of this trained network, too (distillation): a run with these classes, "
        "its model.safetensors, or a model as in --model, to which a head is fitted.",
        auto="none",
    )
    unlabelled: str | None = _setting(
        None,
        "A folder of further images, in any folders: the teacher's answers are learned on them.",
        auto="none",
    )
    teacher_temperature: float | None = _setting(
        None,
        "What the logits of teacher and student are divided by, more than 0.",
        above=0,
        auto="2 with a teacher",
    )
    teacher_weight: float | None = _setting(
        None,
        "Part of the loss that is the teacher's probabilities; the labels' is the rest.",
        low=0,
        high=1,
        auto="0.5 with a teacher",
    )
    teacher_features: float | None = _setting(
        None,
        "Weight of the loss by which the student's features follow the teacher's.",
        low=0,
        auto="1 with a teacher, 0 where the head alone trains",
    )
    teacher_views: TeacherViews | None = _setting(
        None,
        "What the teacher sees: each image and its mirror image once, or every augmented view.",
        auto="cached where no random crop is made, else online",
    )

    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Precision = _setting(
        Precision.AUTO,
        "Number format; auto takes bf16 where the hardware multiplies it natively.",
    )
    compile: bool = _setting(
        False,
        "Compile the network with torch.compile to train it: a minute or more at the start, on a "
        "GPU often faster from then on, on a CPU not.",
    )
    threads: int | Open = _setting(
        None,
        "Threads that compute on the CPU; another number gives other roundings.",
        low=1,
        high=1024,
        auto="as torch chooses",
    )
    workers: int | Open = _setting(
        None, "Threads that read images.", low=0, high=256, auto="one a core"
    )
    strict: bool = _setting(False, "Stop, with exit code 1, at any file that cannot be read.")
    cache: bool = _setting(
        True, "Keep what frozen layers compute in the user's cache folder, for the next training."
    )
    cache_gib: float = _setting(2.0, "Most that the cache takes on disk, GiB.", low=0)
    seed: int = _setting(0, "Seed of the split, the order and the augmentation.", low=0)
    out: str = _setting("runs", "The folder that runs go into.")
    name: str | None = _setting(None, "The run's folder in --out.", auto="DATA's name and a number")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config[None]):
    """The settings of a training as they were asked for; some may still be open."""


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config[Never]):
    """The settings of a training, all of them given or chosen.

    Raises:
        TypeError: If one is still open, which is a defect of the program.
    """

    def __post_init__(self) -> None:
        """Refuse what type checkers cannot see: the table's defaults are those of both types."""
        still_open = [name for name in ALWAYS_CHOSEN if getattr(self, name) is None]
        if still_open:
            raise TypeError(f"settings that nothing has chosen: {', '.join(still_open)}")


# What may differ when a run is resumed: where things are, and how many threads read.
MOVABLE = ("data", "val", "weights", "workers", "teacher", "unlabelled")
SETTINGS = {one.name: one for one in fields(Config)}
_HINTS: dict[str, Any] = get_type_hints(Config)
ALWAYS_CHOSEN = [
    name for name, hint in _HINTS.items() if Open in getattr(hint, "__parameters__", ())
]
# As they are asked for.
SETTING_TYPES = {
    name: hint[None] if name in ALWAYS_CHOSEN else hint for name, hint in _HINTS.items()
}
PATHS = ("data", "weights", "val", "out", "teacher", "unlabelled")
