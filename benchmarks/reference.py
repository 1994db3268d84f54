"""The other side: the training script and the prediction loop that are copied around, plainly.

What they have in common, wherever they are found: torchvision's ImageFolder with PIL behind it, a
DataLoader with worker processes, batches of 32, float32, a network of timm, and, where its layers
are frozen, a backbone that is computed again for every image in every epoch all the same.

    python benchmarks/reference.py weights --output swin.safetensors
    python benchmarks/reference.py train DATA --weights swin.safetensors --epochs 2 --freeze
    python benchmarks/reference.py predict DIR --weights swin.safetensors --output labels.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

BATCH = 32
WORKERS = min(os.cpu_count() or 1, 8)


def pipeline(network: nn.Module, *, training: bool) -> transforms.Compose:
    """The transforms: random crops and mirroring, or the middle."""
    config = timm.data.resolve_model_data_config(network)
    side = config["input_size"][-1]
    bicubic = transforms.InterpolationMode.BICUBIC
    if training:
        first = [
            transforms.RandomResizedCrop(side, interpolation=bicubic),
            transforms.RandomHorizontalFlip(),
        ]
    else:
        first = [
            transforms.Resize(int(side / config["crop_pct"]), interpolation=bicubic),
            transforms.CenterCrop(side),
        ]
    last = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])]
    return transforms.Compose([*first, *last])


def load(options: argparse.Namespace, classes: int, *, with_head: bool) -> nn.Module:
    """A network of timm with the file's weights."""
    network: nn.Module = timm.create_model(options.model, num_classes=classes)
    state = load_file(options.weights)
    if not with_head:
        state = {name: value for name, value in state.items() if not name.startswith("head")}
    network.load_state_dict(state, strict=with_head)
    return network


def train(options: argparse.Namespace) -> None:
    """Train, one JSON line an epoch."""
    torch.manual_seed(options.seed)
    classes = sum(entry.is_dir() for entry in os.scandir(options.data / "train"))
    network = load(options, classes, with_head=False)
    loaders = {
        split: DataLoader(
            ImageFolder(str(options.data / split), pipeline(network, training=split == "train")),
            batch_size=BATCH,
            shuffle=split == "train",
            num_workers=WORKERS,
        )
        for split in ("train", "val")
    }
    if options.freeze:
        for name, parameter in network.named_parameters():
            parameter.requires_grad = name.startswith("head")
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=0.05)
    for epoch in range(options.epochs):
        start = time.perf_counter()
        loss_sum, count = train_epoch(network, loaders["train"], optimizer)
        seconds = time.perf_counter() - start
        val_loss, accuracy = validate(network, loaders["val"])
        row = {
            "epoch": epoch,
            "seconds": time.perf_counter() - start,
            "train_seconds": seconds,
            "images_per_second": count / seconds,
            "train_loss": loss_sum / count,
            "val_loss": val_loss,
            "val_accuracy": accuracy,
        }
        print(json.dumps(row), flush=True)


def train_epoch(
    network: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer
) -> tuple[float, int]:
    """One epoch; the sum of the losses and the number of images."""
    network.train()
    loss_sum, count = 0.0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        loss_sum, count = loss_sum + loss.item() * len(labels), count + len(labels)
    return loss_sum, count


@torch.no_grad()
def validate(network: nn.Module, loader: DataLoader[Any]) -> tuple[float, float]:
    """Loss and accuracy on the validation images."""
    network.eval()
    loss_sum, right, count = 0.0, 0, 0
    for images, labels in loader:
        logits = network(images)
        loss_sum += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right, count = right + int((logits.argmax(1) == labels).sum()), count + len(labels)
    return loss_sum / count, right / count


class Files(Dataset[torch.Tensor]):
    """Pictures in files, in order."""

    def __init__(self, files: list[str], transform: transforms.Compose) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        """How many."""
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One, decoded and scaled."""
        picture: torch.Tensor = self.transform(Image.open(self.files[index]).convert("RGB"))
        return picture


@torch.no_grad()
def predict(options: argparse.Namespace) -> None:
    """Label every JPEG below a folder."""
    files = sorted(str(path) for path in options.data.rglob("*.jpg"))
    heads = [
        tensor
        for name, tensor in load_file(options.weights).items()
        if name.startswith("head") and tensor.ndim == 2
    ]
    classes = heads[0].shape[0]
    network = load(options, classes, with_head=True).eval()
    dataset = Files(files, pipeline(network, training=False))
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file)
        done = 0
        for images in DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS):
            for row in network(images).softmax(1).tolist():
                writer.writerow([files[done], *row])
                done += 1


def weights(options: argparse.Namespace) -> None:
    """Write random weights, for both sides to start from."""
    torch.manual_seed(0)
    save_file(timm.create_model(options.model).state_dict(), options.output)


def main(arguments: list[str]) -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["train", "predict", "weights"])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--model", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freeze", action="store_true")
    options = parser.parse_args(arguments)
    {"train": train, "predict": predict, "weights": weights}[options.verb](options)


if __name__ == "__main__":
    main(sys.argv[1:])
