"""Examples of every command: they open its --help, and are listed in docs/SKILL.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Example = tuple[str, str]
"""A command, and what it does."""

EXAMPLES: Mapping[str, Sequence[Example]] = {
    "swinclf": (
        ("swinclf demo", "a first try, offline, in a minute"),
        ("swinclf train flowers", "a folder of class folders in, a run out"),
        ("swinclf predict rose.jpg", "with the newest run"),
    ),
    "train": (
        ("swinclf train flowers", "the head of a pretrained network"),
        ("swinclf train flowers --budget 10m", "what fits into ten minutes"),
        ("swinclf train flowers --no-freeze-layers", "all layers: slower, better"),
        ("swinclf train --resume runs/flowers-1", "after an interruption"),
    ),
    "eval": (
        ("swinclf eval", "the newest run"),
        ("swinclf eval other", "on other images"),
        ("swinclf eval other --run runs/flowers-1 --json", "as JSON"),
    ),
    "predict": (
        ("swinclf predict rose.jpg", "with the newest run"),
        ("swinclf predict photos --output labels.csv", "as a table"),
        ("swinclf predict photos --page labels.html", "as thumbnails"),
        ("swinclf predict photos --reject 0.95 --format json", "or unknown"),
    ),
    "export": (
        ("swinclf export", "the newest run as ONNX"),
        ("swinclf export --format timm", "a folder for timm and the Hub"),
        ("swinclf export --format web", "a page that classifies offline"),
        ("swinclf export --all", "every format, compared in a table"),
    ),
    "serve": (
        ("swinclf serve", "at http://127.0.0.1:8000"),
        ("swinclf serve --run runs/flowers-1 --reject 0.95", "or unknown"),
        ("swinclf serve --host 0.0.0.0", "for others, by a token"),
    ),
    "check": (
        ("swinclf check flowers", "duplicates, damaged files"),
        ("swinclf check flowers --page check.html", "with thumbnails"),
    ),
    "compare": (
        ("swinclf compare runs/flowers-1 runs/flowers-2", "with intervals"),
        ("swinclf compare runs/* --page compare.html", "a ranking, as a page"),
        ("swinclf compare runs/a runs/b --seeds 3", "their settings"),
    ),
    "runs": (
        ("swinclf runs", "all runs, the newest first"),
        ("swinclf runs --sort accuracy", "the best first"),
        ("swinclf runs --remove flowers-1", "asks first"),
    ),
    "relabel": (
        ("swinclf relabel runs/flowers-1/suspects.csv", "asks first"),
        ("swinclf relabel --undo suspects-undo.json", "moves the images back"),
    ),
    "inspect": (
        ("swinclf inspect vit_tiny_patch16_224", "shapes and costs"),
        ("swinclf inspect --image rose.jpg", "attention of the newest run"),
    ),
    "models": (
        ("swinclf models", "recommended ones, then all Swin and ViT"),
        ("swinclf models 'vit_small*'", "by a pattern"),
    ),
    "doctor": (
        ("swinclf doctor", "what works on this machine"),
        ("swinclf doctor --json", "the same for programs"),
    ),
    "demo": (
        ("swinclf demo", "everything into swinclf-demo"),
        ("swinclf demo --output try", "into another folder"),
    ),
}
