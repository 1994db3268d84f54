"""Speed of one training step of the textbook's ViT on CIFAR-10: a plain port, and this package's.

The plain port is the textbook's network in PyTorch's own layers (`nn.MultiheadAttention` has no
key dimension of its own, so attention is written out with `scaled_dot_product_attention`). Both
have the same shape, dropout and batch of images of 72 px, and train in turns in one process by
AdamW under the same autocast. A table of the ratios comes at the end.

    python benchmarks/textbook.py
    python benchmarks/textbook.py --batch 64 --rounds 3 --cpu-time

`--cpu-time` takes the processor's time on one thread instead of the clock's, which other programs
disturb less.
"""

from __future__ import annotations

import statistics
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.config import Impl
from swinclf.device import choose_hardware
from swinclf.models.build import create_network
from swinclf.models.names import Architecture
from swinclf.settings import key_values, shipped_configs
from swinclf.training.gradient import autocast

SIZE, PATCH, WIDTH, DEPTH, HEADS, KEY = 72, 6, 64, 8, 4, 64


class PlainBlock(nn.Module):
    """An encoder block: attention and MLP, each after a norm and with a residual."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * KEY) for _ in range(3))
        self.out = nn.Linear(HEADS * KEY, WIDTH)
        self.dropout = dropout
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(2 * WIDTH, WIDTH),
            nn.GELU(),
            nn.Dropout(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, C)."""
        normed = self.norm1(x)
        q, k, v = (
            layer(normed).unflatten(-1, (HEADS, KEY)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        mapped: Tensor = self.mlp(self.norm2(x))
        return x + mapped


class PlainViT(nn.Module):
    """The textbook's network."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        count = (SIZE // PATCH) ** 2
        self.patches = nn.Linear(3 * PATCH**2, WIDTH)
        self.positions = nn.Embedding(count, WIDTH)
        self.blocks = nn.Sequential(*(PlainBlock(dropout) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(count * WIDTH, 2048),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(2048, 1024),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(1024, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        patches = F.unfold(images, PATCH, stride=PATCH).mT
        x = self.patches(patches) + self.positions.weight
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def textbook_network() -> nn.Module:
    """This package's network of the shipped settings."""
    path: Path = shipped_configs()["textbook-cifar10"]
    settings = tomllib.loads(path.read_text(encoding="utf-8"))
    return create_network(
        Architecture(
            name=settings["model"],
            impl=Impl.NATIVE,
            num_classes=10,
            img_size=settings["img_size"],
            model_args=key_values(settings["model_arg"]),
        )
    )


def step_of(network: nn.Module, precision: str, batch: int) -> Callable[[], None]:
    """One training step of a network on random images: forward, loss, backward, update."""
    hardware = choose_hardware("cpu", precision)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4, fused=True)
    images, targets = torch.randn(batch, 3, SIZE, SIZE), torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(hardware):
            logits = network(images)
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--cpu-time", action="store_true")
    words = parser.parse_args()
    if words.cpu_time:
        torch.set_num_threads(1)
    clock = time.process_time if words.cpu_time else time.perf_counter
    networks = {
        "plain": PlainViT(dropout=0.1),
        "plain, no attention dropout": PlainViT(dropout=0.0),
        "swinclf": textbook_network(),
    }
    steps = {name: step_of(one, words.precision, words.batch) for name, one in networks.items()}
    report = timing.Report("a training step of the textbook's ViT")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(words.rounds + 1):
        for name, step in steps.items():
            started = clock()
            step()
            if number:  # the first one is a warm-up
                seconds[name].append(clock() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        report.add(
            name,
            seconds=value,
            images_per_second=words.batch / value,
            speedup=medians["plain"] / value,
            clock="CPU, one thread" if words.cpu_time else "wall",
            precision=words.precision,
            batch=words.batch,
        )


if __name__ == "__main__":
    main()
