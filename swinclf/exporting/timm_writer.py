"""Export to a folder in timm's form, which timm, transformers and the Hub read unchanged."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from swinclf.config import Impl
from swinclf.errors import ExportError, RunError, SwinclfError
from swinclf.exporting.source import ExportSource, check_export_folder
from swinclf.files import read_json, write_json, write_text
from swinclf.models.embedded import architecture_name
from swinclf.models.freeze import auxiliary_heads, classifiers
from swinclf.models.store import load_model
from swinclf.models.tensorfile import write_tensors
from swinclf.models.timm_folder import CONFIG, REST, RULE, WEIGHTS, timm_config
from swinclf.reporter import format_percent
from swinclf.run_folder import RunFolder, make_folder

_LISTED = 100  # classes in the model card
_LICENSES = {
    "none": "The training started from random weights.",
    "unknown": "The license of the weights that the training started from is not recorded.",
}


def export_timm(source: ExportSource, folder: Path) -> None:
    """Write the files of a folder, with `swinclf.json` last.

    The head's weights are divided by the temperature, so that the softmax of the logits gives the
    run's probabilities.

    The source's network may be of this package, as timm's have the same names. The folder is
    created if missing, and overwritten if it is such a folder.

    Raises:
        ExportError: If timm has no such network, or the folder has other files.
        RunError: If a file cannot be written.
    """
    card = source.card
    try:
        network, _ = load_model(source.model, impl=Impl.TIMM)
    except SwinclfError as error:
        raise ExportError(
            f"a network that timm builds too: '{card.model}'",
            found=error.found,
            hint="--format onnx",
        ) from error
    check_export_folder(folder, REST)
    make_folder(folder)
    metadata = source.metadata()
    preprocess = json.loads(metadata["preprocessing"])
    rest = {
        key: _parsed(text)
        for key, text in metadata.items()
        if key not in ("classes", "preprocessing")
    }
    if card.preprocess.ranges:
        rest["ranges"] = preprocess["ranges"]
    config = timm_config(
        architecture_name(card.model), network, card.classes, card.preprocess, card.model_args
    )
    if source.license not in ("none", "unknown"):
        config["pretrained_cfg"]["license"] = source.license
    divide_logits(network, card.confidence.temperature)
    write_tensors(folder / WEIGHTS, network.state_dict(), {"format": "pt"})
    write_tensors(folder / RULE, _rule(source), {"format": "pt"})
    write_json(folder / CONFIG, config)
    write_text(folder / "README.md", _readme(source))
    write_json(folder / REST, rest)


def _parsed(text: str) -> object:
    """Return the value of JSON text, and any other text unchanged."""
    with suppress(json.JSONDecodeError):
        return json.loads(text)
    return text


def _rule(source: ExportSource) -> dict[str, torch.Tensor]:
    """Return the tensors of `FeatureSpace.quadratic_rule`; without a space they accept all."""
    confidence = source.card.confidence
    if confidence.space is not None:
        rule = confidence.space.quadratic_rule(confidence.ood_threshold)
        return {name: torch.from_numpy(array) for name, array in rule.items()}
    shapes = {"mean": (1,), "basis": (1, 1), "whiten": (1, 1), "centres": (1, 1)}
    shapes |= {"background": (1, 1), "other": (), "limit": ()}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@torch.no_grad()
def divide_logits(network: nn.Module, divisor: float) -> None:
    """Divide the logits of a network of timm, by dividing the weights of its heads' last layers."""
    for head in (*classifiers(network), *auxiliary_heads(network)):
        *_, last = (one for one in head.modules() if isinstance(one, nn.Linear | nn.Conv2d))
        for parameter in last.parameters():
            parameter.div_(divisor)


_README = """\
---
{matter}
---

# {title}

An image classifier with {count} classes: `{network}`, trained with swinclf.

## Scores

{scores}

## Use

```python
import timm
import torch
from PIL import Image

network = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:OWNER/NAME"
data = timm.data.resolve_model_data_config(network)
transform = timm.data.create_transform(**data, is_training=False)
with torch.inference_mode():
    logits = network(transform(Image.open("photo.jpg").convert("RGB"))[None])
print(network.pretrained_cfg["label_names"][logits.argmax()])
```

The softmax of the logits is calibrated. `swinclf.json` has the thresholds below which a prediction
should be rejected, and the settings of the training.

## Classes

{classes}

## License

{license}
"""


def _readme(source: ExportSource) -> str:
    """Return the model card: a front matter that the Hub reads, scores, use and license."""
    card = source.card
    stated = source.license not in ("none", "unknown")
    matter = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "transformers"],
        **({"license": source.license} if stated else {}),
    }
    return _README.format(
        matter="\n".join(f"{key}: {json.dumps(value)}" for key, value in matter.items()),
        title=source.model.resolve().parent.name,
        count=len(card.classes),
        network=card.model,
        scores=_scores(source.model),
        classes=", ".join(f"`{name}`" for name in card.classes[:_LISTED])
        + (" and others: `label_names` in config.json" if len(card.classes) > _LISTED else ""),
        license=_LICENSES.get(
            source.license, f"The training started from weights under `{source.license}`."
        )
        + " The license of the training images may restrict the use of the weights, too.",
    )


def _scores(model: Path) -> str:
    """Return the scores of a run as a table; a sentence without a run."""
    with suppress(RunError, KeyError, TypeError, ValueError):
        values = read_json(RunFolder(model.parent).metrics)
        rows = {
            "images": f"{int(values['images'])} ({values['split']})",
            **{
                name.replace("_", " "): format_percent(float(values[name]))
                for name in ("accuracy", "balanced_accuracy", "macro_f1")
            },
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| | |", "|---|---|", *lines])
    return "Not recorded."
