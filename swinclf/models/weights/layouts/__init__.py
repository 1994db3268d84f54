"""Weight layouts of other tools, one file per tool; the first that fits is used."""

from swinclf.models.weights.layouts import (
    clip,
    eva,
    microsoft,
    openmmlab,
    self_supervised,
    torchvision,
    transformers,
)
from swinclf.models.weights.layouts.google import GOOGLE
from swinclf.models.weights.layouts.weight_layout import WeightLayout

LAYOUTS: tuple[WeightLayout, ...] = (
    *transformers.LAYOUTS,
    *torchvision.LAYOUTS,
    *clip.LAYOUTS,
    *openmmlab.LAYOUTS,
    GOOGLE,
    *microsoft.LAYOUTS,
    *eva.LAYOUTS,
    *self_supervised.LAYOUTS,
)
