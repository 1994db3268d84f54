"""A page of `export --format web` as a predictor: the ONNX model inside it, by ONNX Runtime."""

from __future__ import annotations

import base64
import gzip
import re

from swinclf.config import ExportFormat
from swinclf.inference.exported_predictor import OnnxPredictor

_MODEL = re.compile(rb'<script type="text/plain" id="model">([A-Za-z0-9+/=]+)</script>')


class WebPagePredictor(OnnxPredictor):
    """The model in a page."""

    kind = ExportFormat.WEB

    def _model(self) -> bytes:
        found = _MODEL.search(self._path.read_bytes())
        if found is None:
            raise ValueError("a page without a model")
        return gzip.decompress(base64.b64decode(found[1], validate=True))
