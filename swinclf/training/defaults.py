"""Defaults of a training that depend on its data and network, each with its reason.

Sources: field experience and the papers named at each choice. A given setting is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from swinclf.config import Augment, ClassWeights, Compile, OptimizerName, TeacherViews
from swinclf.data.folder import TEST, FolderIndex
from swinclf.durations import duration_text
from swinclf.errors import ConfigError
from swinclf.processes import current
from swinclf.settings import Settings
from swinclf.training.compilation import why_no_compiler
from swinclf.training.objective import DistillationTerms

SEVERE_IMBALANCE = 10  # largest class over smallest
HEAD_LR_AT_64 = 1e-3
NETWORK_LR_AT_64 = 1e-4
CONVOLUTIONAL_LR_AT_64 = 1.4e-3  # 1e-3 at batch 32
SCRATCH_LR_AT_64 = 5e-4
MUON_LR_AT_64 = 1.4e-3  # from random weights; 1e-3 at batch 32
SOFT_TEMPERATURE, SOFT_WEIGHT, FEATURE_WEIGHT = 2.0, 0.5, 1.0
TRAIN_SIZE = 5 / 7  # of a convolutional network's --img-size; to the nearest multiple of 32
FEW_IMAGES, DEFAULT_FOLDS = 300, 40  # cross-validation is the default below
OF_BATCHES = ("mixup", "cutmix", "random_erasing")  # settings that need images in training
# An H200 trains 2,208 images a second of Swin-T, each 4.5e9 multiply-adds in the forward pass, and
# twice as many compiled (benchmarks/gpu.py): compiling saves half of the time.
MACS_PER_S = 2_208 * 4.5e9
COMPILE_S = 120  # for whole batches and for the last one: not measured
CPU_PIXELS = 16 * 224 * 224  # of a micro-batch: more are no faster on a CPU, and take more memory


class Regime(StrEnum):
    """Which parameters train."""

    HEAD = "head"  # the head, on cached features
    PART = "part"  # some stages and the head
    FULL = "full"  # everything


@dataclass(frozen=True)
class TrainingFacts:
    """Properties of data and network that the defaults depend on."""

    regime: Regime  # which parameters train
    trained_weights: bool  # whether the network starts from trained weights
    train_count: int  # training images, with and without a label
    class_counts: Mapping[str, int]  # training images of each class
    img_size: int  # side of the network's input, px
    is_vit: bool  # whether the network is a plain ViT
    is_convolutional: bool
    # whether L-BFGS can fit a head on the features of all training images
    is_probe_exact: bool = False
    macs: int = 0  # multiply-adds for an image of `img_size`; 0 if they are not counted


def choose_regime(settings: Settings, *, trained_weights: bool) -> tuple[Settings, Regime]:
    """Choose which parameters train.

    Raises:
        ConfigError: If images are to be mixed or erased where no network trains on them.
    """
    if settings.config.freeze_stages is not None:
        return settings.choose("freeze_layers", False, "--freeze-stages"), Regime.PART
    why = "starting from trained weights" if trained_weights else "starting from random weights"
    settings, is_head = settings.choose_value("freeze_layers", trained_weights, why)
    of_batches = [name for name in OF_BATCHES if getattr(settings.config, name)]
    if is_head and of_batches:
        raise ConfigError(
            f"--no-freeze-layers with --{of_batches[0].replace('_', '-')}",
            found="the head alone trains, on features that are computed once",
            hint="--no-freeze-layers trains the whole network",
        )
    return settings, Regime.HEAD if is_head else Regime.FULL


def choose_folds(
    settings: Settings, regime: Regime, index: FolderIndex, *, trained_weights: bool
) -> Settings:
    """Choose the number of folds of a new training.

    Raises:
        ConfigError: If folds are given where no head is fitted to the features of all images.
    """
    config = settings.config
    if regime is not Regime.HEAD:
        why_not = "the whole network trains"
    elif config.epochs or config.lr:
        why_not = "--epochs or --lr, by which the head is trained by AdamW"
    elif config.teacher is not None:
        why_not = "--teacher"
    else:
        why_not = "a folder for validation" if index.has_val else ""
    if config.folds and why_not:
        raise ConfigError(
            "--folds where the head alone trains, by L-BFGS, on images that are not split yet",
            found=why_not,
            hint="no --folds",
        )
    count = sum(image.split != TEST for image in index.images)
    if not why_not and not trained_weights:
        why_not = "random weights"
    elif not why_not and settings.is_given("val_split"):
        why_not = "--val-split is given"
    elif not why_not and config.test_split:
        why_not = "--test-split is given"
    elif not why_not and count >= FEW_IMAGES:
        why_not = f"{count:,} images are enough to hold some out"
    folds = 0 if why_not else DEFAULT_FOLDS
    return settings.choose("folds", folds, why_not or f"fewer than {FEW_IMAGES} images")


def choose_mirror(
    settings: Settings, classes: Sequence[str], *, tunes_convolutions: bool
) -> tuple[Settings, bool]:
    """Choose mirroring, off where a mirror image could belong to another class, and augmentation.

    Returns the settings, and whether to train on mirror images. `tunes_convolutions` is whether a
    trained convolutional network is fine-tuned: with its few epochs, stronger augmentation worsens
    calibration and does not improve accuracy (docs/recipe.md).
    """
    sided = [name for name in classes if is_sided(name)]
    reason = f"class name {sided[0]!r} is sided" if sided else "no class name is sided"
    settings, mirror = settings.choose_value("mirror", not sided, reason)
    if not mirror:
        augment, why = Augment.CROP, "rotation could change a sided class"
    elif tunes_convolutions:
        augment, why = Augment.CROP, "a trained convolutional network"
    else:
        augment, why = Augment.TRIVIAL, "mirroring is on"
    return settings.choose("augment", augment, why), mirror


def choose_distillation(
    settings: Settings, regime: Regime
) -> tuple[Settings, DistillationTerms, TeacherViews]:
    """Choose the distillation loss, with the weights of its terms, and what the teacher sees.

    Raises:
        ConfigError: If the settings do not work with a frozen backbone or a compiled network.

    Source: temperature and weight, Hinton, Vinyals & Dean 2015, sec. 4 (best of 1, 2, 5, 10, with
    half of the loss); features, Romero et al. 2015.
    """
    config = settings.config
    is_head = regime is Regime.HEAD
    is_compiled = config.compile is Compile.ON
    why_not = "the backbone is frozen" if is_head else "--compile on" if is_compiled else ""
    if why_not and config.teacher_features:
        raise ConfigError(
            "--teacher-features 0, as the backbone cannot match the teacher's features",
            found=f"{config.teacher_features:g}, and {why_not}",
            hint="--no-freeze-layers" if is_head else "--compile off",
        )
    if is_head and config.teacher_views is TeacherViews.ONLINE:
        raise ConfigError(
            "--teacher-views cached, as the head trains on cached features",
            found="online",
            hint="--teacher-views cached, or --no-freeze-layers",
        )
    source = "as in Hinton et al. 2015"
    settings, temperature = settings.choose_value("teacher_temperature", SOFT_TEMPERATURE, source)
    reason = f"as much as the labels, {source}"
    settings, weight = settings.choose_value("teacher_weight", SOFT_WEIGHT, reason)
    is_mixed = bool(config.mixup or config.cutmix)
    if is_mixed and config.teacher_views is TeacherViews.CACHED:
        raise ConfigError(
            "--teacher-views online, as mixed images have no cached features",
            found="cached, with --mixup or --cutmix",
            hint="--teacher-views online",
        )
    feature_weight = 0.0 if why_not else FEATURE_WEIGHT
    reason = why_not or "the backbone trains"
    settings, features = settings.choose_value("teacher_features", feature_weight, reason)
    views, reason = TeacherViews.ONLINE, "random crops, each seen by the teacher"
    if is_mixed:
        reason = "mixed images, each seen by the teacher"
    elif is_head or config.augment is Augment.NONE:
        views, reason = TeacherViews.CACHED, "no random crops"
    settings, views = settings.choose_value("teacher_views", views, reason)
    return settings, DistillationTerms(temperature, weight, features), views


def is_sided(name: str) -> bool:
    """Return whether a class must not be mirrored: its name has left or right, or is one character.

    >>> [is_sided(name) for name in ("left hand", "RightTurn", "7", "b", "copyright", "rose")]
    [True, True, True, True, False, False]
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Za-z][a-z]*|\d+", name)
    return (
        len(name) == 1 or name.isdigit() or any(word.lower() in ("left", "right") for word in words)
    )


def choose_schedule(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose epochs, batch size, learning rate and regularisation by regime and dataset size."""
    given_epochs = settings.is_given("epochs")
    settings = _choose_train_size(settings, facts)
    if facts.regime is Regime.HEAD:
        settings = _choose_head_epochs(settings, facts)
        settings, batch_size = settings.choose_value("batch_size", 64, "for the head")
        settings = settings.choose("patience", 0, "for the head")
        settings = settings.choose("label_smoothing", 0.0, "for the head")
        settings = settings.choose("layer_decay", 1.0, "the network does not train")
    else:
        epochs = _epochs_for(facts) * (1 if facts.trained_weights else 3)
        reason = f"{facts.train_count:,} training images"
        settings, epochs = settings.choose_value("epochs", epochs, reason)
        batch_size, reason = default_batch_size(settings.config.device, facts.train_count)
        settings, batch_size = settings.choose_value("batch_size", batch_size, reason)
        patience = 0 if given_epochs else max(3, epochs // 3)
        reason = "--epochs is given" if given_epochs else "a third of the epochs"
        settings = settings.choose("patience", patience, reason)
        settings = settings.choose("label_smoothing", 0.1, "for the network")
        settings = _choose_layer_decay(settings, facts)
    settings = _choose_optimizer(settings, facts)
    settings = _choose_lr(settings, facts, batch_size)
    settings = _choose_compile(settings, facts)
    return _choose_class_weights(settings, facts)


def _choose_head_epochs(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose 0 epochs where L-BFGS finds the optimum, unless --epochs or --lr ask for AdamW."""
    if settings.is_given("epochs") or settings.is_given("lr") or not facts.is_probe_exact:
        return settings.choose("epochs", 100, "an epoch on cached features is cheap")
    reason = "the head is a linear probe, fitted by L-BFGS"
    return settings.choose("epochs", 0, reason).choose("lr", 0.0, "no epochs")


def class_weights(kind: ClassWeights, counts: Sequence[int]) -> list[float] | None:
    """Return the loss weight of each class, of mean 1 over the images; None for equal weights.

    `counts` are the training images of each class, each > 0.
    """
    if kind is ClassWeights.NONE:
        return None
    power = 0.5 if kind is ClassWeights.SQRT else 1.0
    raw = [count**-power for count in counts]
    mean = sum(weight * count for weight, count in zip(raw, counts, strict=True)) / sum(counts)
    return [weight / mean for weight in raw]


def default_batch_size(device: str, train_count: int) -> tuple[int, str]:
    """Return the batch size of a network, and why: a CPU is no faster with more, a GPU is."""
    for size in (128, 64):
        if device.startswith("cuda") and train_count >= 100 * size:
            return size, "a GPU, at least 100 steps an epoch"
    return 32, "for the network"


def default_micro_batch(device: str, batch_size: int, img_size: int) -> int | None:
    """Return the micro-batch size for images of `img_size` px; None for the whole batch."""
    images = max(1, CPU_PIXELS // img_size**2)
    return images if device == "cpu" and images < batch_size else None


def _epochs_for(facts: TrainingFacts) -> int:
    """Return the epochs to fine-tune trained weights for; 12 were measured for convolutions."""
    medium = 12 if facts.is_convolutional else 15
    for below, epochs in ((1_000, 30), (10_000, medium), (50_000, 8)):
        if facts.train_count < below:
            return epochs
    return 4


def _choose_train_size(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose the size of training images.

    Random crops make objects larger than in prediction; smaller training images compensate for
    that, and take about half the time.

    Source: Fixing the train-test resolution discrepancy (Touvron et al. 2019).

    Raises:
        ConfigError: If a transformer is given another size than in prediction.
    """
    size = facts.img_size
    if facts.is_convolutional:
        if facts.regime is Regime.HEAD:
            return settings.choose("train_size", size, "the network does not train")
        smaller = min(size, max(32, round(TRAIN_SIZE * size / 32) * 32))
        return settings.choose("train_size", smaller, "random crops enlarge objects")
    settings = settings.choose("train_size", size, "not a convolutional network")
    if settings.config.train_size != size:
        raise ConfigError(
            f"--train-size {size}, equal to --img-size, as the network is not convolutional",
            found=str(settings.config.train_size),
            hint="--img-size N changes the size in training and in prediction",
        )
    return settings


def _choose_layer_decay(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose the layer decay.

    Source: BEiT (Bao et al. 2022), appendix; 0.9 for Swin's stages of unequal depth.
    """
    if not facts.trained_weights:
        return settings.choose("layer_decay", 1.0, "starting from random weights")
    kind = "ViT" if facts.is_vit else "convolutional" if facts.is_convolutional else "Swin"
    return settings.choose("layer_decay", 0.75 if facts.is_vit else 0.9, kind)


def _choose_optimizer(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose Muon from random weights, as measured (docs/decisions/muon-from-random-weights.md)."""
    if facts.regime is Regime.HEAD:
        return settings.choose("optimizer", OptimizerName.ADAMW, "the network does not train")
    if facts.trained_weights:
        return settings.choose("optimizer", OptimizerName.ADAMW, "starting from trained weights")
    return settings.choose("optimizer", OptimizerName.MUON, "starting from random weights")


def _choose_lr(settings: Settings, facts: TrainingFacts, batch_size: int) -> Settings:
    """Choose the peak rate, scaled by the root of the batch size (Malladi et al. 2022)."""
    at_64 = HEAD_LR_AT_64
    if facts.regime is not Regime.HEAD:
        tuned = CONVOLUTIONAL_LR_AT_64 if facts.is_convolutional else NETWORK_LR_AT_64
        is_muon = settings.config.optimizer is OptimizerName.MUON
        at_64 = MUON_LR_AT_64 if is_muon else SCRATCH_LR_AT_64
        at_64 = tuned if facts.trained_weights else at_64
    rate = at_64 * (batch_size / 64) ** 0.5
    reason = f"{at_64:g} at batch size 64, scaled by its root"
    return settings.choose("lr", float(f"{rate:.2g}"), reason)  # recorded as printed


def _choose_compile(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose whether to compile the network: where it saves more time than it takes.

    The time is estimated, not measured, so that the same training is compiled every time.
    """
    config = settings.config
    images = (config.epochs or 0) * facts.train_count
    scale = ((config.train_size or facts.img_size) / facts.img_size) ** 2
    seconds = images * facts.macs * scale / MACS_PER_S
    duration = f"about {duration_text(seconds)} of training"
    if facts.regime is Regime.HEAD:
        why_not = "the network does not train"
    elif not config.device.startswith("cuda"):
        why_not = "only an NVIDIA GPU gains from it"
    elif config.teacher is not None and config.teacher_features != 0:
        why_not = "--teacher-features"
    elif current().count > 1:
        why_not = "several processes"
    elif seconds / 2 < COMPILE_S:
        why_not = f"{duration}, and compiling pays from {duration_text(2 * COMPILE_S)} on"
    else:
        why_not = why_no_compiler(config.device)
    if why_not:
        return settings.choose("compile", Compile.OFF, why_not)
    return settings.choose("compile", Compile.ON, f"{duration} on an NVIDIA GPU")


def _choose_class_weights(settings: Settings, facts: TrainingFacts) -> Settings:
    """Choose the weights of the classes, as measured by `benchmarks/imbalance.py`."""
    largest, smallest = max(facts.class_counts.values()), min(facts.class_counts.values())
    severe = largest >= SEVERE_IMBALANCE * smallest
    reason = f"the largest class has {largest:,} images, the smallest {smallest:,}"
    return settings.choose(
        "class_weights", ClassWeights.BALANCED if severe else ClassWeights.NONE, reason
    )
