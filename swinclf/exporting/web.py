"""A web page that classifies images offline: one HTML file with the network and its runtime.

The runtime is ONNX Runtime Web in the folder onnxruntime_web, as published, its WebAssembly
compressed. Everything is inlined and the page's policy forbids connections, so that it works from a
disk and cannot send an image anywhere.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from swinclf.confidence.selective import Threshold
from swinclf.config import Embed
from swinclf.data.folder import CROSS_VALIDATION, TEST, VAL
from swinclf.export_formats import ACCEPTED, PROBABILITIES
from swinclf.exporting.preprocess_graph import embedded_threshold
from swinclf.exporting.quantize import Reduction
from swinclf.exporting.source import ExportSource
from swinclf.exporting.writers import build_onnx
from swinclf.files import read_json, write_text
from swinclf.reporter import format_percent
from swinclf.reporting.html import page_template
from swinclf.run_folder import find_data_folder, find_enclosing_run

RUNTIME = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm.gz"
SHOWN_CLASSES = 12
_MODULE_EXPORTS = re.compile(r"export\{([^}]*)\};\s*(//# sourceMappingURL=\S*)?\s*$")


def export_web(source: ExportSource, path: Path) -> Reduction | None:
    """Write a page that classifies images in a browser, from a disk and without a network.

    A file at `path` is overwritten. Returns the effect of a precision below float32; None for
    float32.

    Raises:
        ExportError: As `export_onnx`, or if the preprocessing cannot be embedded.
        RunError: If the file cannot be written.
    """
    model, reduction = build_onnx(replace(source, embed=Embed.PREPROCESS))
    runtime = resources.files("swinclf.exporting") / "onnxruntime_web"
    threshold = embedded_threshold(source.card.confidence)
    data = find_data_folder(source.model)
    values = {
        "classes": source.card.classes,
        "outputs": [PROBABILITIES, *([ACCEPTED] if threshold else [])],
    }
    page = page_template("exporting", "web_page.html.jinja").render(
        title=f"Image classifier: {data.name}" if data else "Image classifier",
        about=_about(source, data),
        rejection=_rejection(threshold),
        card=_script_json(values),
        runtime=Markup(_as_object((runtime / RUNTIME).read_text(encoding="utf-8"))),
        wasm=_base64((runtime / WASM).read_bytes()),
        model=_base64(gzip.compress(model.SerializeToString(), mtime=0)),
    )
    write_text(path, page)
    return reduction


def _about(source: ExportSource, data: Path | None) -> str:
    """Return in a sentence or two what the model is, and which images it is made for."""
    classes = source.card.classes
    names = ", ".join(classes[:SHOWN_CLASSES])
    more = f" and {len(classes) - SHOWN_CLASSES:,} more" if len(classes) > SHOWN_CLASSES else ""
    images = f"images like those of \u201c{data.name}\u201d" if data else "images like those"
    text = (
        f"{source.card.model} distinguishes {len(classes):,} classes ({names}{more}). "
        f"It is made for {images} that it was trained on"
    )
    run = find_enclosing_run(source.model)
    if run is None or not run.is_finished:
        return f"{text}."
    metrics = read_json(run.metrics)
    if metrics["split"] not in (VAL, TEST, CROSS_VALIDATION):
        return f"{text}."
    share = format_percent(float(metrics["accuracy"]))
    return f"{text}; on {metrics['images']:,} of them that it had not seen, {share} were correct."


def _rejection(threshold: Threshold | None) -> str:
    """Return what "not sure" means."""
    if threshold is None:
        return (
            "This model was not tested on enough images to know when it is not sure: it always "
            "gives a class, also for images of something else."
        )
    return (
        "\u201cNot sure\u201d: the image is unlike the training images, or too uncertain for "
        f"{format_percent(threshold.precision, 0)} of such answers to be correct."
    )


def _as_object(module: str) -> str:
    """Return a JavaScript module that defines `ort` instead of exporting."""
    found = _MODULE_EXPORTS.search(module)
    assert found, "another kind of module"
    pairs = [one.strip().split(" as ") for one in found[1].split(",")]
    fields = ", ".join(f'"{names[-1]}": {names[0]}' for names in pairs)
    return f"{module[: found.start()]}const ort = {{{fields}}};"


def _base64(content: bytes) -> Markup:
    return Markup(base64.b64encode(content).decode("ascii"))


def _script_json(values: object) -> Markup:
    """Return JSON that cannot end the element it is in."""
    return Markup(json.dumps(values).replace("<", "\\u003c"))
