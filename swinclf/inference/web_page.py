"""A page of `export --format web` as a predictor: the ONNX model inside it, by ONNX Runtime."""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import zlib
from pathlib import Path

from swinclf.errors import RunError
from swinclf.inference.predictor import RUN_OPTIONS, InferenceOptions, OnnxPredictor

_MODEL = re.compile(rb'<script type="text/plain" id="model">([A-Za-z0-9+/=]+)</script>')


def open_web_page(path: Path, options: InferenceOptions = RUN_OPTIONS) -> OnnxPredictor:
    """Open the model in a page.

    Raises:
        RunError: If there is none in it, or it cannot be opened.
        DeviceError, ExportError: As `OnnxPredictor`.
    """
    return OnnxPredictor(path, options, _read_model(path))


def _read_model(path: Path) -> bytes:
    found = None
    try:
        if found := _MODEL.search(path.read_bytes()):
            return gzip.decompress(base64.b64decode(found[1], validate=True))
        reason = "a page without a model"
    except (OSError, EOFError, binascii.Error, zlib.error) as error:
        reason = str(error)
    raise RunError(
        f"a page of `swinclf export --format web` at '{path}'",
        found=reason,
        hint="swinclf export --format web",
    )
