"""One look at every image: is it readable, what is in it, what does a frozen network see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from swinclf.data.loader import LoadedImage, load_batches, load_for_prediction
from swinclf.data.transforms import to_torch_input
from swinclf.models.compute import Computer
from swinclf.preprocess import Preprocess
from swinclf.progress import Reporter
from swinclf.runtime import Hardware, StopFlag

LOOK_BATCH = 32  # larger batches are no faster on a CPU


@dataclass(frozen=True)
class Look:
    """What became of the files.

    Attributes:
        digests: The digest of each readable file's content, by path.
        errors: Why a file could not be read, by path, for those that could not.
        features: (V, N, D) float32 on the CPU for the readable ones, in order; None without a
            network.
    """

    digests: Mapping[str, bytes]
    errors: Mapping[str, str]
    features: torch.Tensor | None


def look_at(
    root: Path,
    files: Sequence[str],
    preprocess: Preprocess,
    computer: Computer | None,
    hardware: Hardware,
    *,
    mirror: bool,
    workers: int,
    report: Reporter,
    stop: StopFlag,
) -> Look:
    """Reads every file once.

    Args:
        root: What the files' paths are relative to.
        files: The images.
        preprocess: How a picture becomes the network's input.
        computer: The frozen network; None only reads.
        hardware: Where it runs.
        mirror: Whether features of the mirror image are kept too.
        workers: Threads that read.
        report: Told of progress.
        stop: Looked at after every batch; what was computed so far is then returned.
    """
    digests: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    kept: list[torch.Tensor] = []

    def load(file: str) -> LoadedImage:
        return load_for_prediction(root / file, preprocess)

    task = "reading images" if computer is None else "computing features"
    with report.track(task, len(files)) as advance:
        for batch in load_batches(files, load, batch_size=LOOK_BATCH, workers=workers):
            pixels = []
            for file, loaded in batch:
                if loaded.pixels is None:
                    errors[file] = loaded.error
                else:
                    digests[file] = loaded.digest
                    pixels.append(loaded.pixels)
            if computer is not None and pixels:
                inputs = to_torch_input(np.stack(pixels), preprocess, hardware.device)
                views = [inputs, inputs.flip(-1)] if mirror else [inputs]
                kept.append(torch.stack([computer.features(view).cpu() for view in views]))
            advance(len(batch))
            if stop:
                break
    return Look(digests, errors, torch.cat(kept, dim=1) if kept else None)
