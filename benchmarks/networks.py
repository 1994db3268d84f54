"""Speed of this package's networks, reference and accelerated, and of timm's.

All three run in one process, in turns, on the same random weights and images. What counts is the
ratio of the medians: on a shared machine absolute times vary, and those of all three vary alike. A
training step is forward, loss and backward; the optimizer's update is the same for all and left
out. bf16 has bfloat16 weights; amp has float32 weights under autocast, as `swinclf train` has them.
`--cpu-time` takes the processor's time on one thread instead of the clock's, which other programs
on the machine disturb less.

`--constants` measures the machine-specific constants of `swinclf/models/accelerated` instead: each
at several values in turns, with the case in which it matters. Those that are not the fastest on
your machine are candidates for a change.

    python benchmarks/networks.py --seconds 360
    python benchmarks/networks.py --models swin_tiny_patch4_window7_224 --dtypes bf16 --batches 16
    python benchmarks/networks.py --constants --seconds 120
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import timing
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.config import Impl
from swinclf.models.accelerated import (
    accelerate,
    linear,
    mlp,
    stage,
    vit_attention,
    window_attention,
)
from swinclf.models.names import Architecture, build_native

MODELS = (
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
)
DTYPES = {"bf16": torch.bfloat16, "amp": torch.float32, "fp32": torch.float32}
MODES = ("forward", "train")
WARMUPS, ROUNDS_MIN = 1, 3
SWIN = "swin_tiny_patch4_window7_224"
VIT = "vit_small_patch16_224"
NEVER = 1 << 60


@dataclass(frozen=True)
class Constant:
    """A machine-specific constant and how to measure it.

    Attributes:
        module: Where it is.
        name: Its name there.
        values: What to try; the one in use is added.
        dtype: A key of DTYPES.
        mode: forward or train.
        batch: Images at once.
        model: The network in which it matters.
    """

    module: ModuleType
    name: str
    values: tuple[int, ...]
    dtype: str
    mode: str
    batch: int
    model: str = SWIN


CONSTANTS = (
    Constant(stage, "PORTION_TOKENS", (6272, 25088, NEVER), "bf16", "forward", 16),
    Constant(stage, "PORTION_TOKENS", (6272, 25088, NEVER), "fp32", "forward", 16),
    Constant(mlp, "PORTIONED_VALUES", (0, 24 << 20, NEVER), "amp", "train", 16),
    Constant(mlp, "PORTION_BYTES", (2 << 20, 12 << 20, 24 << 20), "amp", "train", 16),
    Constant(mlp, "PORTIONED_WIDTH", (384, 1024, 4096), "amp", "train", 32),
    Constant(linear, "TRAINED_TOKENS", (0, 4096, NEVER), "amp", "train", 8),
    Constant(window_attention, "VECTOR_VALUES", (1, 16), "amp", "train", 16),
    Constant(vit_attention, "BF16_TOKENS", (0,), "amp", "train", 16, VIT),
)


def forward(network: nn.Module, x: Tensor, *, amp: bool) -> None:
    """Classify without gradients."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        network(x)


def train(network: nn.Module, x: Tensor, *, amp: bool) -> None:
    """Compute the gradient of every parameter."""
    for value in network.parameters():
        value.grad = None
    targets = torch.arange(len(x))
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        logits = network(x)
    F.cross_entropy(logits.float(), targets).backward()


def alternate(
    runs: Mapping[str, Callable[[], None]], seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Time every run in turns until the time is up; return milliseconds of each."""
    for run in runs.values():
        for _ in range(WARMUPS):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < ROUNDS_MIN or time.perf_counter() < end:
        # Who goes first changes: what the others leave in the caches is no one's advantage.
        for name in sorted(runs, reverse=bool(rounds % 2)):
            start = clock()
            runs[name]()
            times[name].append((clock() - start) * 1e3)
        rounds += 1
    return times


def step_of(mode: str, dtype: str, batch: int) -> Callable[[nn.Module], None]:
    """Return what is timed of a network."""
    x = torch.randn(batch, 3, 224, 224, dtype=DTYPES[dtype])
    return partial(forward if mode == "forward" else train, x=x, amp=dtype == "amp")


def networks_of(model: str) -> dict[str, nn.Module]:
    """Return a network as timm, the reference and the accelerated reference compute it."""
    torch.manual_seed(0)
    extra = {"drop_path_rate": 0.0} if model.startswith("swin") else {}
    theirs = timm.create_model(model, num_classes=1000, **extra)
    reference = build_native(Architecture(model, Impl.NATIVE, 1000))
    reference.load_state_dict(theirs.state_dict(), strict=True)
    fast = copy.deepcopy(reference)
    accelerate(fast)
    return {"accelerated": fast, "reference": reference, "timm": theirs}


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure case by case."""
    cases = list(itertools.product(options.models, options.dtypes, options.modes, options.batches))
    for model, dtype, mode, batch in cases:
        networks = networks_of(model)
        for network in networks.values():
            network.to(DTYPES[dtype]).train(mode == "train")
        step = step_of(mode, dtype, batch)
        runs = {name: partial(step, network) for name, network in networks.items()}
        times = alternate(runs, options.seconds / len(cases), options.clock)
        medians = {name: statistics.median(values) for name, values in times.items()}
        fast, plain, theirs = (medians[name] for name in ("accelerated", "reference", "timm"))
        yield {
            "what": f"{model} {dtype} {mode} {batch}",
            "rounds": len(times["timm"]),
            "accelerated_ms": fast,
            "reference_ms": plain,
            "timm_ms": theirs,
            "reference_ratio": plain / fast,
            "timm_ratio": theirs / fast,
        }
        del networks, runs
        gc.collect()


def run_with(constant: Constant, value: int, run: Callable[[], None]) -> None:
    """Run with another value of a constant."""
    setattr(constant.module, constant.name, value)
    run()


def measure_constants(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure each constant at several values, the one in use first."""
    constants = [one for one in CONSTANTS if one.name in options.constants or not options.constants]
    for constant in constants:
        network = networks_of(constant.model)["accelerated"]
        network.to(DTYPES[constant.dtype]).train(constant.mode == "train")
        step = step_of(constant.mode, constant.dtype, constant.batch)
        used = getattr(constant.module, constant.name)

        values = (used, *constant.values)
        run = partial(step, network)
        runs = {str(value): partial(run_with, constant, value, run) for value in values}
        times = alternate(runs, options.seconds / len(constants), options.clock)
        setattr(constant.module, constant.name, used)
        base = statistics.median(times[str(used)])
        for value in values:
            median = statistics.median(times[str(value)])
            yield {
                "what": f"{constant.name} {constant.dtype} {constant.mode} {constant.batch}",
                "value": "never" if value == NEVER else value,
                "ms": median,
                "ratio": median / base,
            }


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names both know")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="images at once")
    parser.add_argument("--seconds", type=float, default=360.0, help="to time, over all cases")
    parser.add_argument("--cpu-time", action="store_true", help="processor time on one thread")
    parser.add_argument(
        "--constants",
        nargs="*",
        choices=sorted({one.name for one in CONSTANTS}),
        help="measure these constants instead; no name: all",
    )
    options = parser.parse_args(arguments)
    options.clock = time.process_time if options.cpu_time else time.perf_counter
    return options


def main(arguments: list[str]) -> None:
    """Measure, and print as it goes."""
    options = parse(arguments)
    if options.cpu_time:
        torch.set_num_threads(1)
    report = timing.Report("networks")
    rows = measure(options) if options.constants is None else measure_constants(options)
    for row in rows:
        report.add(**row)


if __name__ == "__main__":
    main(sys.argv[1:])
