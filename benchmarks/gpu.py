"""How busy a GPU is: swinclf, a plain loop and the network alone, in images a second.

The plain loop, in this file, is the usual one: ImageFolder with PIL, random crops, mirroring and
TrivialAugment, a DataLoader with a worker process a core and pinned memory, timm's network in
channels-last, bfloat16 autocast, fused AdamW. Each row has its part of the rate of the network
alone on random tensors. Reading alone is timed too, by one thread and by one process. Defaults: six
minutes on a machine with one GPU and 16 cores.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --model test_vit --count 60 --batch 8 --steps 3 --epochs 2
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import timing

GIB = 1024**3
STEPS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {}


def main(arguments: list[str]) -> None:
    """Measure and report."""
    parser = timing.parser(__doc__, photos=3000, rounds=1)
    parser.add_argument("--device", default="cuda", help="cuda or cpu [cuda]")
    parser.add_argument("--batch", type=int, default=128, help="images a step [128]")
    parser.add_argument("--steps", type=int, default=50, help="of the network alone [50]")
    parser.add_argument("--epochs", type=int, default=4, help="of both trainings [4]")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        for row in STEPS[options.step](options):
            print(json.dumps(row), flush=True)
        return
    report = timing.Report("gpu")
    with timing.workplace(options) as work, TemporaryDirectory(dir=work) as place:
        options.data = timing.photos_for(options, work, "--split")
        alone = {}
        for row in in_a_process("alone", options):
            alone[row["what"]] = row["images_per_second"]
            report.add(**row)
        for row in [
            *in_a_process("reading", options),
            *in_a_process("plain", options),
            *swinclf_rows(options, work, Path(place)),
        ]:
            limit = alone[
                "network alone, forward"
                if "predict" in row["what"]
                else "network alone, training step"
            ]
            report.add(**row, of_network=row["images_per_second"] / limit)


def in_a_process(step: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a step, in a process of its own."""
    words = [
        *("--step", step, "--data", options.data, "--device", options.device),
        *("--model", options.model, "--batch", str(options.batch)),
        *("--steps", str(options.steps), "--epochs", str(options.epochs)),
    ]
    return timing.run([sys.executable, __file__, *words]).records


def swinclf_rows(options: argparse.Namespace, work: Path, place: Path) -> Iterator[dict[str, Any]]:
    """Train, train a head, and predict by the program."""
    same = ["--model", options.model, "--weights", timing.weights_for(options, work)]
    same += ["--device", options.device, "--out", place]
    train = [*timing.SWINCLF, "train", options.data, *same]
    full = [
        "--no-freeze-layers",
        "--epochs",
        str(options.epochs),
        "--batch-size",
        str(options.batch),
    ]
    cache = {"SWINCLF_CACHE_DIR": place / "cache"}
    done = timing.run([*train, *full, "--patience", "0", "--name", "full"], **cache)
    with (place / "full" / "history.csv").open(encoding="utf-8", newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    yield {
        "what": "swinclf, training",
        "images_per_second": statistics.median(rates[1:] or rates),
        "epochs": [round(rate) for rate in rates],
        "whole_seconds": done.seconds,
    }
    head = ["--freeze-layers", "--epochs", "100", "--patience", "0", "--name", "head"]
    done = timing.run([*train, *head], SWINCLF_CACHE_DIR=place / "empty")
    yield {
        "what": "swinclf, 100 epochs of a head, whole process",
        "images_per_second": 100 * options.count / done.seconds,
        "whole_seconds": done.seconds,
    }
    words = ["--run", place / "full", "--device", options.device, "--output", place / "labels.csv"]
    done = timing.run([*timing.SWINCLF, "predict", options.data, *words])
    yield {
        "what": "swinclf, predict, whole process",
        "images_per_second": options.count / done.seconds,
        "whole_seconds": done.seconds,
    }


def alone(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The network on random tensors: a training step, eager and compiled, and a forward pass."""
    import torch

    network, side = plain_network(options)
    images = torch.randn(options.batch, 3, side, side, device=options.device)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(5, (options.batch,), device=options.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    for name in ("", ", compiled") if options.device == "cuda" else ("",):
        if name:
            network.compile(dynamic=False)

        def step() -> None:
            plain_step(network, optimizer, images, targets)

        rate = options.batch / seconds_a_step(step, options)
        yield {"what": f"network alone, training step{name}", "images_per_second": rate}
    network, _ = plain_network(options)
    network.eval()

    def forward() -> None:
        with torch.inference_mode(), autocast(options):
            network(images)

    rate = options.batch / seconds_a_step(forward, options)
    yield {"what": "network alone, forward", "images_per_second": rate}


def reading(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Two epochs of training batches without a network, by one thread or process.

    swinclf augments on the CPU and, as it does for a GPU, on the device. The last row leaves that
    augmentation out: it is what the CPU does for a GPU.
    """
    import torch

    from swinclf.config import Augment, Impl
    from swinclf.data.augmentation import Augmentation
    from swinclf.data.folder import scan_folder
    from swinclf.data.loader import ImageCache
    from swinclf.models.build import Architecture, default_preprocess
    from swinclf.training import device_images
    from swinclf.training.batches import ImageBatches

    files = [options.data / one.path for one in scan_folder(options.data).images]
    _, side = plain_network(options)
    preprocess = default_preprocess(Architecture(options.model, Impl.TIMM, 5), img_size=side)
    blank = torch.zeros(1, 3, side, side, device=options.device)

    def epochs(what: str, read: Callable[[int], int]) -> dict[str, Any]:
        rates = []
        for epoch in range(2):
            start = time.perf_counter()
            count = read(epoch)
            synchronize(options)
            rates.append(count / (time.perf_counter() - start))
        rounded = [round(rate) for rate in rates]
        return {"what": what, "images_per_second": rates[-1], "epochs": rounded}

    def swinclf_reader(device_bytes: int | None) -> Callable[[int], int]:
        batches = ImageBatches(
            train_files=files,
            train_targets=[0] * len(files),
            val_files=[],
            val_targets=[],
            preprocess=preprocess,
            augmentation=Augmentation(Augment.TRIVIAL, 0.35, True),
            batch_size=options.batch,
            seed=0,
            workers=1,
            device=options.device,
            on_bad_file=refuse,
            cache=ImageCache(GIB),
            device_bytes=device_bytes,
        )
        return lambda epoch: sum(len(batch.targets) for batch in batches.train(epoch, 0))

    loader = plain_loader(options, training=True, workers=0)
    yield epochs(
        "reading alone, plain loop, one process",
        lambda _: sum(len(targets) for _, targets in loader),
    )
    yield epochs("reading alone, swinclf, augmented on the CPU", swinclf_reader(None))
    yield epochs("reading alone, swinclf, augmented on the device", swinclf_reader(GIB))

    def not_augmented(packed: Any, *_: object) -> torch.Tensor:
        return blank.expand(len(packed.first), -1, -1, -1)

    with mock.patch.object(device_images, "augment_batch", not_augmented):
        yield epochs("reading alone, swinclf, not augmented", swinclf_reader(GIB))


def refuse(path: Path, reason: str) -> None:
    """End the benchmark at a file that cannot be read."""
    raise SystemExit(f"{path}: {reason}")


def plain(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The plain loop: epochs of training, and two passes of prediction."""
    import torch

    network, _ = plain_network(options)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    loader = plain_loader(options, training=True, workers=os.cpu_count() or 1)
    rates = []
    for _ in range(options.epochs):
        start, count = time.perf_counter(), 0
        for images, targets in loader:
            plain_step(network, optimizer, *on_device(options, images, targets))
            count += len(targets)
        synchronize(options)
        rates.append(count / (time.perf_counter() - start))
    yield {
        "what": "plain loop, training",
        "images_per_second": statistics.median(rates[1:] or rates),
        "epochs": [round(rate) for rate in rates],
    }
    network.eval()
    loader = plain_loader(options, training=False, workers=os.cpu_count() or 1)
    rates = []
    for _ in range(2):
        start, count = time.perf_counter(), 0
        with torch.inference_mode(), autocast(options):
            for images, targets in loader:
                network(on_device(options, images, targets)[0]).softmax(1).cpu()
                count += len(targets)
        rates.append(count / (time.perf_counter() - start))
    yield {
        "what": "plain loop, predict, without its start",
        "images_per_second": max(rates),
        "epochs": [round(rate) for rate in rates],
    }


STEPS.update(alone=alone, reading=reading, plain=plain)


def plain_network(options: argparse.Namespace) -> tuple[Any, int]:
    """A network of timm in channels-last on the device, and the side of its images, px."""
    import timm
    import torch

    network = timm.create_model(options.model, num_classes=5)
    side = timm.data.resolve_model_data_config(network)["input_size"][-1]
    return network.to(options.device, memory_format=torch.channels_last).train(), side


def plain_loader(options: argparse.Namespace, *, training: bool, workers: int) -> Any:
    """A DataLoader of the photographs for training or prediction."""
    import timm
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    config = timm.data.resolve_model_data_config(timm.create_model(options.model, num_classes=5))
    side, bicubic = config["input_size"][-1], transforms.InterpolationMode.BICUBIC
    first = (
        [
            transforms.RandomResizedCrop(side, (0.35, 1.0), interpolation=bicubic),
            transforms.RandomHorizontalFlip(),
            transforms.TrivialAugmentWide(),
        ]
        if training
        else [transforms.Resize(side, interpolation=bicubic), transforms.CenterCrop(side)]
    )
    last = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])]
    return DataLoader(
        ImageFolder(str(options.data / "train"), transforms.Compose([*first, *last])),
        batch_size=options.batch if training else 2 * options.batch,
        shuffle=training,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=options.device == "cuda",
    )


def plain_step(network: Any, optimizer: Any, images: Any, targets: Any) -> None:
    """A step of training in bfloat16 autocast."""
    import torch

    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(network(images), targets)
    loss.backward()
    optimizer.step()


def on_device(options: argparse.Namespace, images: Any, targets: Any) -> tuple[Any, Any]:
    """Images in channels-last, and targets, on the device."""
    import torch

    images = images.to(options.device, non_blocking=True, memory_format=torch.channels_last)
    return images, targets.to(options.device, non_blocking=True)


def seconds_a_step(step: Callable[[], None], options: argparse.Namespace) -> float:
    """The mean time of a step, after a fifth of them to warm up."""
    for _ in range(max(1, options.steps // 5)):
        step()
    synchronize(options)
    start = time.perf_counter()
    for _ in range(options.steps):
        step()
    synchronize(options)
    return float((time.perf_counter() - start) / options.steps)


def synchronize(options: argparse.Namespace) -> None:
    """Wait for the device."""
    import torch

    if options.device == "cuda":
        torch.cuda.synchronize()


def autocast(options: argparse.Namespace) -> Any:
    """Bfloat16 on a GPU; on a CPU as is."""
    import torch

    is_cuda = options.device == "cuda"
    return torch.autocast("cuda", torch.bfloat16) if is_cuda else nullcontext()


if __name__ == "__main__":
    main(sys.argv[1:])
