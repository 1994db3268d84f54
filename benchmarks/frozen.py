"""A head on a frozen network: 100 epochs by `swinclf train` compared with the usual script.

Each round runs the script for a few epochs, which are extrapolated (`--reference-epochs 100`: none
is), then the whole of `swinclf train` with an empty cache of features, then once more with another
learning rate and what the first left in the cache. Same weights, same photographs, same split.
Defaults: four minutes on two cores.

    python benchmarks/frozen.py
    python benchmarks/frozen.py --photos flowers --weights swin_t.safetensors
    python benchmarks/frozen.py --count 40 --rounds 1 --reference-epochs 1
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import timing
from timing import Measured

COLD, WARM, THEIRS = "swinclf, empty cache", "swinclf, another --lr", "reference"


def main(arguments: list[str]) -> None:
    """Measure and report."""
    parser = timing.parser(__doc__, photos=400, rounds=2)
    parser.add_argument("--epochs", type=int, default=100, help="of the head [100]")
    parser.add_argument("--reference-epochs", type=int, default=2, help="of the script [2]")
    options = parser.parse_args(arguments)
    report = timing.Report("frozen")
    with timing.workplace(options) as work, TemporaryDirectory(dir=work) as place:
        data = timing.photos_for(options, work, "--split")
        start = ["--model", options.model, "--weights", timing.weights_for(options, work)]
        runs = Path(place)

        def reference(_: int) -> Measured:
            few = ["--freeze", "--epochs", options.reference_epochs, "--lr", "1e-3"]
            return timing.run([*timing.REFERENCE, "train", data, *start, *few])

        def ours(number: int, name: str, *words: str) -> Measured:
            whole = ["--freeze-layers", "--epochs", options.epochs, "--out", runs, "--name", name]
            cache = runs / f"cache-{number}"
            command = [*timing.SWINCLF, "train", data, *start, *whole, *words]
            return timing.run(command, SWINCLF_CACHE_DIR=cache)

        seconds: dict[str, list[float]] = {COLD: [], WARM: [], THEIRS: []}
        peaks: dict[str, list[Measured]] = {COLD: [], WARM: [], THEIRS: []}
        scores: dict[str, float] = {}
        for number in range(options.rounds):
            name = f"round-{number}"
            done = {
                THEIRS: reference(number),
                COLD: ours(number, name),
                WARM: ours(number, f"{name}-lr", "--lr", "0.0005"),
            }
            rows = done[THEIRS].records
            epoch = statistics.median(row["seconds"] for row in rows)
            before = done[THEIRS].seconds - sum(row["seconds"] for row in rows)
            scores[THEIRS] = max(row["val_accuracy"] for row in rows)
            for side, run in ((COLD, name), (WARM, f"{name}-lr")):
                metrics = json.loads((runs / run / "metrics.json").read_text(encoding="utf-8"))
                scores[side] = metrics["accuracy"]
            for side, measured in done.items():
                whole = before + epoch * options.epochs if side == THEIRS else measured.seconds
                seconds[side].append(whole)
                peaks[side].append(measured)
    for side in (THEIRS, COLD, WARM):
        extrapolated = {"from_epochs": options.reference_epochs} if side == THEIRS else {}
        report.add(
            f"{options.epochs} epochs: {side}",
            seconds=statistics.median(seconds[side]),
            times_as_fast=timing.median_ratio(seconds[THEIRS], seconds[side]),
            val_accuracy=scores[side],
            peak_mib=timing.peak(peaks[side]),
            **extrapolated,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
