"""How busy a GPU is: swinclf, a plain loop and the network alone, in images a second.

The plain loop, in this file, is the usual one: ImageFolder with PIL, random crops, mirroring and
TrivialAugment, a DataLoader with a worker process a core and pinned memory, timm's network in
channels-last, bfloat16 autocast, fused AdamW. `of_network` is the ratio to the network alone on
random tensors, `of_plain` that to the plain loop. Reading alone is timed too, by one and by two
threads or processes. Defaults: an estimated six minutes on a machine with one GPU and 16 cores.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --model test_vit --count 75 --batch 8 --steps 3 --epochs 2
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
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import timing

GIB = 1024**3
READ_BATCHES = 5  # of each epoch of the reading step
STEP, FORWARD = "network alone, training step", "network alone, forward"
STEPS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {}


def main(arguments: list[str]) -> None:
    """Measure and report."""
    # of 3200 images, 2560 are for training: 20 batches of one size, so that one graph is compiled
    parser = timing.parser(__doc__, photos=3200, rounds=1)
    parser.add_argument("--device", default="cuda", help="cuda or cpu [cuda]")
    parser.add_argument("--batch", type=int, default=128, help="images a step [128]")
    parser.add_argument("--steps", type=int, default=50, help="of the network alone [50]")
    parser.add_argument("--epochs", type=int, default=4, help="of each training [4]")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="threads that read alone [1 2]"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="also compiled [on a GPU]"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.compile is None:
        options.compile = options.device == "cuda"
    if options.step:
        for row in STEPS[options.step](options):
            print(json.dumps(row), flush=True)
        return
    report = timing.Report("gpu")
    rates: dict[str, float] = {}
    with timing.workplace(options) as work, TemporaryDirectory(dir=work) as runs:
        options.data = timing.photos_for(options, work, "--split")
        for row in all_rows(options, work, Path(runs)):
            for ratio in {"of_network", "of_plain"} & row.keys():
                row[ratio] = row["images_per_second"] / rates[row[ratio]]
            rates[row["what"]] = row.get("images_per_second", 0)
            report.add(**row)


def all_rows(options: argparse.Namespace, work: Path, runs: Path) -> Iterator[dict[str, Any]]:
    """The rows of all steps; a ratio is still the name of the row to divide by."""
    for step in ("alone", "reading", "plain"):
        yield from in_a_process(step, options)
    same = ["--model", options.model, "--weights", timing.weights_for(options, work)]
    same += ["--device", options.device, "--out", runs, "--patience", "0"]
    train = [*timing.SWINCLF, "train", options.data, *same]
    full = [*train, "--no-freeze-layers", "--batch-size", options.batch, "--epochs", options.epochs]
    of_plain = {"of_plain": "plain loop, training"}
    yield {**training_row(full, runs / "eager"), "of_network": STEP, **of_plain}
    if options.compile:
        row = training_row([*full, "--compile", "on"], runs / "compiled")
        yield {**row, "of_network": f"{STEP}, compiled"}
    head = [*train, "--freeze-layers", "--epochs", "100", "--name", "head"]
    done = timing.run(head, SWINCLF_CACHE_DIR=runs / "empty")
    yield {
        "what": "swinclf, 100 epochs of a head, whole process",
        "whole_seconds": done.seconds,
        "after_last_epoch_seconds": seconds_after_training(runs / "head"),
    }
    yield from in_a_process("predict", options, "--run", runs / "eager")


def in_a_process(step: str, options: argparse.Namespace, *more: str | Path) -> list[dict[str, Any]]:
    """The rows of a step, in a process of its own."""
    words = [
        *("--step", step, "--data", options.data, "--device", options.device),
        *("--model", options.model, "--batch", str(options.batch)),
        *("--steps", str(options.steps), "--epochs", str(options.epochs)),
        *("--workers", *map(str, options.workers)),
        "--compile" if options.compile else "--no-compile",
    ]
    return timing.run([sys.executable, __file__, *words, *more]).records


def training_row(command: list[Any], run: Path) -> dict[str, Any]:
    """Fine-tune by the program."""
    done = timing.run([*command, "--name", run.name], SWINCLF_CACHE_DIR=run.parent / "cache")
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return {
        "what": f"swinclf, training, {run.name}",
        "images_per_second": statistics.median(rates[1:] or rates),
        "epochs": [round(rate) for rate in rates],
        "whole_seconds": done.seconds,
        "after_last_epoch_seconds": seconds_after_training(run),
    }


def seconds_after_training(run: Path) -> float:
    """The time from a run's last epoch to its result."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    times = {one["event"]: datetime.fromisoformat(one["time"]) for one in map(json.loads, lines)}
    return (times["result"] - times["epoch"]).total_seconds()


def alone(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The network on random tensors: a training step, eager and compiled, and a forward pass."""
    import torch

    network, side = plain_network(options)
    images = torch.randn(options.batch, 3, side, side, device=options.device)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(5, (options.batch,), device=options.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    for name in ("", ", compiled") if options.compile else ("",):
        if name:
            network.compile(dynamic=False)

        def step() -> None:
            plain_step(network, optimizer, images, targets)

        rate = options.batch / seconds_a_step(step, options)
        yield {"what": f"{STEP}{name}", "images_per_second": rate}
    network, _ = plain_network(options)
    network.eval()

    def forward() -> None:
        with torch.inference_mode(), autocast(options):
            network(images)

    rate = options.batch / seconds_a_step(forward, options)
    yield {"what": FORWARD, "images_per_second": rate}


def reading(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Two epochs of a few training batches without a network, by threads or processes.

    swinclf augments on the CPU and, as it does for a GPU, on the device. The last row leaves all
    work of the device out: it is what the CPU does for a GPU.
    """
    import torch

    from swinclf.config import Augment, Impl
    from swinclf.data.augmentation import Augmentation
    from swinclf.data.folder import scan_folder
    from swinclf.data.loader import ImageCache
    from swinclf.models.build import default_preprocess
    from swinclf.models.names import Architecture
    from swinclf.training import device_images
    from swinclf.training.batches import ImageBatches
    from swinclf.training.device_augmentation import pack

    folder, count = options.data / "train", READ_BATCHES * options.batch
    files = [folder / one.path for one in scan_folder(folder).images][:count]
    _, side = plain_network(options)
    preprocess = default_preprocess(Architecture(options.model, Impl.TIMM, 5), img_size=side)
    blank = torch.zeros(1, 3, side, side, device=options.device)

    def epochs(what: str, workers: int, read: Callable[[int], int]) -> dict[str, Any]:
        rates = []
        for epoch in range(2):
            start = time.perf_counter()
            count = read(epoch)
            synchronize(options)
            rates.append(count / (time.perf_counter() - start))
        rounded = [round(rate) for rate in rates]
        what = f"reading alone, {what}, {workers} at once"
        return {"what": what, "images_per_second": rates[-1], "epochs": rounded, "of_network": STEP}

    def plain_reader(workers: int) -> Callable[[int], int]:
        loader = plain_loader(options, training=True, workers=workers, most=count)
        return lambda _: sum(len(targets) for _, targets in loader)

    def swinclf_reader(workers: int, device_bytes: int | None) -> Callable[[int], int]:
        batches = ImageBatches(
            train_files=files,
            train_targets=[0] * len(files),
            val_files=[],
            val_targets=[],
            preprocess=preprocess,
            augmentation=Augmentation(Augment.TRIVIAL, 0.35, True),
            batch_size=options.batch,
            seed=0,
            workers=workers,
            device=options.device,
            on_bad_file=refuse,
            cache=ImageCache(GIB),
            device_bytes=device_bytes,
        )
        return lambda epoch: sum(len(batch.targets) for batch in batches.train(epoch, 0))

    def not_reduced(images: Any, sizes: Any, *_: object) -> Any:
        return pack(images.pixels[: int(sizes.prod(axis=1).sum())], sizes)

    def not_augmented(packed: Any, *_: object) -> torch.Tensor:
        return blank.expand(len(packed.first), -1, -1, -1)

    left_out: dict[str, Any] = {"reduce_images": not_reduced, "augment_batch": not_augmented}
    for workers in options.workers:
        yield epochs("plain loop", workers, plain_reader(workers))
        yield epochs("swinclf, augmented on the CPU", workers, swinclf_reader(workers, None))
        yield epochs("swinclf, augmented on the device", workers, swinclf_reader(workers, GIB))
        with mock.patch.multiple(device_images, **left_out):
            yield epochs("swinclf, not augmented", workers, swinclf_reader(workers, GIB))


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
        "of_network": STEP,
    }
    network.eval()
    loader = plain_loader(options, training=False, workers=os.cpu_count() or 1)

    def pass_() -> int:
        count = 0
        with torch.inference_mode(), autocast(options):
            for images, targets in loader:
                network(on_device(options, images, targets)[0]).softmax(1).cpu()
                count += len(targets)
        return count

    yield {**prediction_row("plain loop", pass_), "of_network": FORWARD}


def predict(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Two passes of prediction by swinclf, over the files that the plain loop reads."""
    import swinclf

    classifier = swinclf.load(options.run, device=options.device)
    files = sorted(options.data.rglob("*.*"))
    row = prediction_row("swinclf", lambda: sum(not one.error for one in classifier.predict(files)))
    yield {**row, "of_network": FORWARD, "of_plain": "plain loop, predict"}


def prediction_row(side: str, pass_: Callable[[], int]) -> dict[str, Any]:
    """Two passes, of which the faster counts: without the start."""
    rates = []
    for _ in range(2):
        start = time.perf_counter()
        count = pass_()
        rates.append(count / (time.perf_counter() - start))
    return {
        "what": f"{side}, predict",
        "images_per_second": max(rates),
        "passes": [round(rate) for rate in rates],
        "images": count,
    }


STEPS.update(alone=alone, reading=reading, plain=plain, predict=predict)


def plain_network(options: argparse.Namespace) -> tuple[Any, int]:
    """A network of timm in channels-last on the device, and the side of its images, px."""
    import timm
    import torch

    network = timm.create_model(options.model, num_classes=5)
    side = timm.data.resolve_model_data_config(network)["input_size"][-1]
    return network.to(options.device, memory_format=torch.channels_last).train(), side


def plain_loader(
    options: argparse.Namespace, *, training: bool, workers: int, most: int | None = None
) -> Any:
    """A DataLoader of at most so many photographs: for training, or all of them to predict."""
    import timm
    from torch.utils.data import DataLoader, Subset
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
    folder = options.data / "train" if training else options.data
    images = ImageFolder(str(folder), transforms.Compose([*first, *last]))
    return DataLoader(
        Subset(images, range(len(images))[:most]),
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
