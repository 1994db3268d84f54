"""The network of a training from random weights, by the number of images and their resolution.

The default network has 28 million parameters, which a few thousand images cannot determine.
"""

from __future__ import annotations

from swinclf.data.folder import TEST, VAL, FolderIndex
from swinclf.data_quality.image_stats import median_side_px
from swinclf.device import command_line
from swinclf.reporter import Reporter
from swinclf.settings import Settings

FEW_IMAGES = 20_000  # below, a small network
NETWORK_SETTINGS = ("model", "model_arg", "impl", "weights")
SIZES = (32, 64, 96)  # of the input, px
# Stages of 4 x 4 patches: half of the depth and width of Swin-T, 1.3 M parameters.
SHAPE = ("embed_dim=48", "depths=2-2-2", "num_heads=3-6-12", "window_size=4")


def choose_small_network(settings: Settings, index: FolderIndex, report: Reporter) -> Settings:
    """Choose a small network for few images to train from random weights, unless one is given.

    It is reported, with what would be more accurate.
    """
    images = [image for image in index.images if image.split not in (VAL, TEST)]
    if len(images) >= FEW_IMAGES or any(map(settings.is_given, NETWORK_SETTINGS)):
        return settings
    reason = f"random weights and {len(images):,} images"
    side = median_side_px([index.root / image.path for image in images]) or SIZES[-1]
    size = max((one for one in SIZES if one <= side), default=SIZES[0])
    settings, size = settings.choose_value("img_size", size, reason)
    settings = settings.choose("model", "swin", reason)
    settings = settings.choose("model_arg", (f"patch_size={_patch_px(size)}", *SHAPE), reason)
    trained = command_line(["swinclf", "train", str(settings.config.data), "--model", "embedded"])
    report.note(
        f"for {reason}: a small Swin at {size} px. Trained weights are usually far more accurate: "
        f"{trained}"
    )
    return settings


def _patch_px(size: int) -> int:
    """Return the side of a patch that leaves about 16 x 16 of them, at least 2 px."""
    return max(2, round(size / 16))
