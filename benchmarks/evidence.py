"""Does the evidence map show what the prediction depends on? JSON lines on stdout.

Of each held-out photograph, the cells with the most evidence for the predicted class are painted
in the mean colour (or all others are), and the same number of cells drawn at random, and those
with the least. A row states the mean probability of the predicted class afterwards: the more the
map is right, the lower it is without the most important cells, and the higher with these alone.

    python benchmarks/evidence.py PHOTOS
"""

from __future__ import annotations

import random

import numpy as np
import timing
import torch
from held_out import frozen_settings, own_cache
from PIL import Image
from torch.nn.functional import interpolate

import swinclf
from swinclf.data.split import read_split
from swinclf.data.transforms import eval_pixels, to_torch_input
from swinclf.device import Precision
from swinclf.explain.attention import token_evidence
from swinclf.inference.predictor import InferenceOptions, TorchPredictor

ORDERS = ("most evidence", "random", "least evidence")


def probabilities(network: torch.nn.Module, images: torch.Tensor, targets: list[int]) -> np.ndarray:
    """Return the probability of one class of each image, (N,)."""
    with torch.inference_mode():
        logits = network(images).float()
    chosen: np.ndarray = logits.softmax(1)[range(len(targets)), targets].numpy()
    return chosen


def cells_by(order: str, cells: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a rank of each cell, (N, h, w): 0 for the first to be painted."""
    flat = cells.flatten(1)
    if order == "random":
        flat = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed))
    ranks = flat.argsort(1, descending=order != "least evidence").argsort(1)
    return ranks.view(cells.shape)


def paint(images: torch.Tensor, is_painted: torch.Tensor) -> torch.Tensor:
    """Return images, (N, 3, H, W), with some cells, (N, h, w), in the mean colour: 0."""
    mask = interpolate(is_painted[:, None].float(), images.shape[-2:], mode="nearest")
    return images * (1 - mask)


def main() -> None:
    """Measure what was asked for."""
    parser = timing.plain_parser(__doc__, "a folder of class folders")
    parser.add_argument("--count", type=int, default=200, help="held-out photographs [200]")
    parser.add_argument("--part", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--model", default="embedded")
    args = parser.parse_args()
    with own_cache() as folder:
        run = swinclf.train(args.photos, out=str(folder), folds=0, **frozen_settings(args.model))
        options = InferenceOptions(device="cpu", precision=Precision.FP32)
        predictor = TorchPredictor.open(run.folder.model, options)
        network, preprocess = predictor.network, predictor.card.preprocess
        held_out = [image for image in read_split(run.folder.split) if image.split == "val"]
        drawn = random.Random(0).sample(held_out, min(args.count, len(held_out)))
        pictures = [Image.open(args.photos / image.path).convert("RGB") for image in drawn]
        pixels = np.stack([eval_pixels(picture, preprocess) for picture in pictures])
        images = to_torch_input(pixels, preprocess, "cpu")
        targets, logits, cells = token_evidence(network, images)
        before = logits.float().softmax(1)[range(len(targets)), targets].mean()
        timing.print_row(images=len(images), probability=float(before))
        for part in args.part:
            count = round(part * cells[0].numel())
            for order in ORDERS:
                ranks = cells_by(order, cells, seed=0)
                without = probabilities(network, paint(images, ranks < count), targets)
                alone = probabilities(network, paint(images, ranks >= count), targets)
                means = {"without": float(without.mean()), "alone": float(alone.mean())}
                timing.print_row(part=part, cells=order, **means)


if __name__ == "__main__":
    main()
