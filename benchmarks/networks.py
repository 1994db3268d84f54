"""How fast this package's networks are beside timm's: JSON lines on stdout, a table on stderr.

Both run in one process, in turns, on the same random weights and images, and what counts is the
ratio of the medians: on a shared machine absolute times wander, and both wander alike. A training
step is forward, loss and backward; the optimizer's update is the same for both and left out.
bf16 has bfloat16 weights; amp has float32 weights under autocast, as `swinclf train` has them.

    python benchmarks/networks.py --seconds 360
    python benchmarks/networks.py --models swin_tiny_patch4_window7_224 --dtypes bf16 --batches 16
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.models.names import build_native

MODELS = (
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
)
DTYPES = {"bf16": torch.bfloat16, "amp": torch.float32, "fp32": torch.float32}
MODES = ("forward", "train")
WARMUPS, ROUNDS_MIN = 2, 3


def processor() -> str:
    """Return the processor's name and what it multiplies natively."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = next(
        (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), ""
    )
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in text]
    return " ".join([name or platform.processor() or platform.machine(), *units])


def forward(network: nn.Module, x: Tensor, *, amp: bool) -> None:
    """Classify without gradients."""
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
        network(x)


def train(network: nn.Module, x: Tensor, *, amp: bool) -> None:
    """Compute the gradient of every parameter."""
    for value in network.parameters():
        value.grad = None
    targets = torch.arange(len(x), device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
        logits = network(x)
    F.cross_entropy(logits.float(), targets).backward()


def alternate(
    networks: dict[str, nn.Module], run: Callable[[nn.Module], None], seconds: float
) -> dict[str, list[float]]:
    """Time every network in turns until the time is up; return milliseconds of each."""
    for network in networks.values():
        for _ in range(WARMUPS):
            run(network)
    times: dict[str, list[float]] = {name: [] for name in networks}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < ROUNDS_MIN or time.perf_counter() < end:
        # Who goes first changes: what the other leaves in the caches is no one's advantage.
        for name in sorted(networks, reverse=bool(rounds % 2)):
            start = time.perf_counter()
            run(networks[name])
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) * 1e3)
        rounds += 1
    return times


def measure(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Measure case by case."""
    cases = list(itertools.product(options.models, options.dtypes, options.modes, options.batches))
    for model, dtype, mode, batch in cases:
        torch.manual_seed(0)
        extra = {"drop_path_rate": 0.0} if model.startswith("swin") else {}
        theirs = timm.create_model(model, num_classes=1000, **extra)
        ours = build_native(model, num_classes=1000)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        networks: dict[str, nn.Module] = {"native": ours, "timm": theirs}
        for network in networks.values():
            network.to(options.device, DTYPES[dtype]).train(mode == "train")
        x = torch.randn(batch, 3, 224, 224, device=options.device, dtype=DTYPES[dtype])
        step = partial(forward if mode == "forward" else train, x=x, amp=dtype == "amp")
        seconds = options.seconds / len(cases)
        times = alternate(networks, step, seconds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        quickest = {name: min(values) for name, values in times.items()}
        yield {
            "model": model,
            "dtype": dtype,
            "mode": mode,
            "batch": batch,
            "rounds": len(times["timm"]),
            "timm_ms": round(medians["timm"], 2),
            "native_ms": round(medians["native"], 2),
            "ratio": round(medians["timm"] / medians["native"], 3),
            "ratio_of_quickest": round(quickest["timm"] / quickest["native"], 3),
        }
        del theirs, ours, networks
        gc.collect()


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names both know")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="images at once")
    parser.add_argument("--seconds", type=float, default=360.0, help="to time, over all cases")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure, and print as it goes."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = torch.cuda.get_device_name() if options.device != "cpu" else processor()
    about = {
        "hardware": machine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    print(json.dumps(about), flush=True)
    print(f"{about}\n{'case':48} {'timm ms':>9} {'native ms':>10} {'ratio':>6}", file=sys.stderr)
    for row in measure(options):
        print(json.dumps(row), flush=True)
        case = f"{row['model']} {row['dtype']} {row['mode']} {row['batch']}"
        line = f"{case:48} {row['timm_ms']:9} {row['native_ms']:10} {row['ratio']:6}"
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
