"""How fast the embedded network answers and trains, with and without what is done for speed.

Images a second of CPU time, on one thread, so that other work on the machine matters little: the
variants take turns, and the median of the rounds is printed. Forward: batch norm as it is, or
folded into the convolutions (with the largest difference of the features, relative to the largest
feature). Training step, without the optimizer: memory format, statistics of batch norm, number
format, and slow depthwise convolutions differentiated in float32 or not. Defaults: three minutes.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --rounds 1 --px 64 --batch 2
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import timing
import torch
from torch import nn
from torch.nn import functional as F

from swinclf.config import Impl
from swinclf.device import Hardware, Precision, retain_freed_memory
from swinclf.models.build import build_pretrained
from swinclf.models.compute import DTYPES, Computer
from swinclf.models.depthwise import differentiate_depthwise_in_float32
from swinclf.models.freeze import train_mode
from swinclf.models.names import Architecture

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def forwards(network: nn.Module, images: torch.Tensor) -> Mapping[str, Callable[[], torch.Tensor]]:
    """Return what computes features in each way, by name."""
    sides: dict[str, Callable[[], torch.Tensor]] = {}
    for precision in (Precision.FP32, Precision.BF16):
        dtype = DTYPES[precision]
        plain = copy.deepcopy(network).to(dtype=dtype).to(memory_format=torch.channels_last)
        inputs = images.to(dtype=dtype, memory_format=torch.channels_last)
        computer = Computer(network, Hardware("cpu", precision, ""))

        sides[f"{precision}, batch norm as it is"] = partial(_unfolded, network, plain, inputs)
        sides[f"{precision}, folded"] = partial(computer.features, images)
    return sides


@torch.inference_mode()
def _unfolded(network: Any, plain: Any, inputs: torch.Tensor) -> torch.Tensor:
    tokens = plain.forward_features(inputs).float()
    features: torch.Tensor = network.forward_head(tokens, pre_logits=True)
    return features


def steps(network: nn.Module, images: torch.Tensor) -> Mapping[str, Callable[[], torch.Tensor]]:
    """Return what computes gradients in each way, by name; each returns the losses."""
    targets = torch.zeros(len(images), dtype=torch.int64)

    def step(model: nn.Module, *, frozen: bool, is_low: bool, in_float32: bool) -> torch.Tensor:
        train_mode(model, frozen_statistics=frozen)
        model.zero_grad(set_to_none=True)
        context = differentiate_depthwise_in_float32(model) if in_float32 else None
        with context or contextlib.nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                logits = model(images)
            losses = F.cross_entropy(logits.float(), targets, reduction="none")
            losses.mean().backward()
        return losses.detach()

    sides: dict[str, Callable[[], torch.Tensor]] = {}
    for name, memory_format in FORMATS.items():
        model = copy.deepcopy(network).to(memory_format=memory_format)
        for frozen in (False, True):
            for precision, is_low, in_float32 in (
                ("fp32", False, False),
                ("bf16", True, False),
                ("bf16, slow derivatives in fp32", True, True),
            ):
                statistics_of = "frozen statistics" if frozen else "the batch's statistics"
                sides[f"{name}, {statistics_of}, {precision}"] = partial(
                    step, model, frozen=frozen, is_low=is_low, in_float32=in_float32
                )
    return sides


def rates(sides: Mapping[str, Callable[[], torch.Tensor]], rounds: int) -> dict[str, float]:
    """Return images a second of CPU time of each side; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    count = {name: len(run()) for name, run in sides.items()}  # once, to warm up
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            start = time.thread_time()
            sides[name]()
            seconds[name].append(time.thread_time() - start)
    return {name: count[name] / statistics.median(taken) for name, taken in seconds.items()}


def main(words: Sequence[str]) -> None:
    """Measure and report."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--px", type=int, nargs="+", default=[224, 160])
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    retain_freed_memory()
    report = timing.Report("convolutions")
    network = build_pretrained(Architecture("embedded", Impl.TIMM, 5)).eval()
    for px in options.px:
        images = torch.randn(options.batch, 3, px, px, generator=torch.Generator().manual_seed(0))
        sides = forwards(network, images)
        exact = sides[f"{Precision.FP32}, batch norm as it is"]()
        for name, rate in rates(sides, options.rounds).items():
            error = float((sides[name]() - exact).abs().max() / exact.abs().max())
            report.add(f"forward, {px} px: {name}", images_per_cpu_second=rate, error=error)
        for name, rate in rates(steps(network, images), options.rounds).items():
            report.add(f"training step, {px} px: {name}", images_per_cpu_second=rate)


if __name__ == "__main__":
    main(sys.argv[1:])
