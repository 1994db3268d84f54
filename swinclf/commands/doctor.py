"""doctor: report versions, device, precision, caches and decoding speed of this machine."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from swinclf.config import TrainConfig
from swinclf.data.images import FORMATS, decode_image
from swinclf.device import available_cores, choose_hardware, versions
from swinclf.models.embedded import EMBEDDED
from swinclf.models.hub import is_available
from swinclf.models.names import native_data_config

DECODE_SIZE = (4000, 3000)  # a photograph of 12 megapixels
DECODE_COUNT = 5


def examine() -> Mapping[str, str]:
    """Return the properties of the machine by name, as text."""
    hardware = choose_hardware()
    extra, hub = _onnx_extra(), _hub()
    return {
        **versions(),
        "onnx extra": extra,
        "cores": str(available_cores()),
        "device": hardware.device,
        "precision": f"{hardware.precision}: {hardware.reason}",
        "weight cache": _weight_cache(),
        "Hub": hub,
        "picture formats": ", ".join(sorted(FORMATS)),
        "decode speed": _decode_speed(),
        "verdict": _verdict(hardware.device, extra, hub),
    }


def _verdict(device: str, extra: str, hub: str) -> str:
    """Return whether training works here, and what is limited."""
    limits = []
    if device == "cpu":
        limits.append("no GPU: training a head is fast, --no-freeze-layers slow")
    if hub.startswith("not reachable"):
        limits.append(f"no published weights: {EMBEDDED} ones, or --weights FILE")
    if extra.startswith("not installed"):
        limits.append("no export to ONNX: pip install 'swinclf[onnx]'")
    return "; ".join(["ready to train", *limits])


def _onnx_extra() -> str:
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        return f"not installed ({error.name}): pip install 'swinclf[onnx]'"
    packages = (onnx, onnxscript, onnxruntime)
    return ", ".join(f"{package.__name__} {package.__version__}" for package in packages)


def _weight_cache() -> str:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    offline = ", offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    if not folder.is_dir():
        return f"{folder} (not created yet){offline}"
    models = sum(name.startswith("models--") for name in os.listdir(folder))  # noqa: PTH208
    return f"{folder} ({models} models){offline}"


def _hub() -> str:
    """Return whether the default's published weights are available, and the fallback otherwise."""
    default = TrainConfig().model
    if is_available(native_data_config(default).hub_id or ""):
        return f"the weights of {default} are available"
    return f"not reachable: `swinclf train DATA` uses {EMBEDDED} weights instead of {default}"


def _decode_speed() -> str:
    """Measure how long decoding a noisy image of 12 megapixels takes."""
    noise = np.random.default_rng(0).normal(128, 40, (DECODE_SIZE[1] // 8, DECODE_SIZE[0] // 8, 3))
    picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize(DECODE_SIZE)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    times = []
    for _ in range(DECODE_COUNT):
        started = time.perf_counter()
        decode_image(buffer.getvalue(), decode_px=512)
        times.append(time.perf_counter() - started)
    return f"{1000 * float(np.median(times)):.0f} ms for a JPEG of 12 megapixels, one thread"
