"""The trained backbone that is included in the package, for machines that cannot reach the Hub.

EfficientNet-Lite0, trained by Google on ImageNet-1k: 4.7 M parameters, 75 % top-1 there. The
weights are stored in float16 under timm's names; `MODEL_CARD.md` documents their origin,
`convert.py` is the program that wrote them.
"""

from __future__ import annotations

from pathlib import Path

from swinclf.preprocess import Fit, Interpolation, Preprocess

EMBEDDED = "embedded"  # the name on the command line
ARCHITECTURE = "tf_efficientnet_lite0.in1k"  # timm's name for the network
PARAMETERS = 3_371_008  # without the head; listed by `swinclf models`
WEIGHTS = Path(__file__).with_name("efficientnet_lite0.safetensors")
HEAD = frozenset(("classifier.weight", "classifier.bias"))  # of ImageNet's 1,000 classes
COUNTER = "num_batches_tracked"  # of batch norm in training; a file may lack it, as torch allows

# Colours as in Google's code: (value - 127) / 128, of values from 0 to 255. That code crops the
# central 0.875 and resamples bicubically; whole images, resampled bilinearly, are as good on
# photographs and better on small images (docs/recipe.md).
PREPROCESS = Preprocess(
    height=224,
    width=224,
    interpolation=Interpolation.BILINEAR,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    crop_pct=1.0,
    fit=Fit.CROP,
)


def architecture_name(model: str) -> str:
    """Return the name under which a network is built: timm's for `embedded`, others unchanged.

    >>> architecture_name("embedded"), architecture_name("swin")
    ('tf_efficientnet_lite0.in1k', 'swin')
    """
    return ARCHITECTURE if model == EMBEDDED else model
