"""The model card: everything that prediction needs besides the weights, stored in the same file.

Class names, preprocessing and weights have to match. The card is stored as strings, as the metadata
of safetensors and ONNX files requires.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swinclf.confidence.selective import Confidence
from swinclf.config import Impl
from swinclf.device import Precision
from swinclf.errors import RunError
from swinclf.preprocess import Preprocess

FORMAT = "swinclf-1"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The metadata of a model file."""

    model: str  # the network's name, ARCH or ARCH.TAG
    impl: Impl  # backend that built the network
    classes: tuple[str, ...]  # class names in the order of the logits
    preprocess: Preprocess
    precision: Precision  # number format of the run, the default for prediction
    # differences from the architecture of that name
    model_args: Mapping[str, str] = field(default_factory=dict)
    # calibration and rejection parameters
    confidence: Confidence = field(default_factory=Confidence)
    # how images were held out: `seed`, `val_split`, `test_split` and `rule` (the version of the
    # rule), `dataset`, a digest of the folder's path, and `content`, the first digits of the
    # content digests of some images
    split: Mapping[str, Any] = field(default_factory=dict)
    # versions of the packages that can change a prediction
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return a string for each field; structured ones as JSON in ASCII."""
        return {
            "format": FORMAT,
            "model": self.model,
            "impl": str(self.impl),
            "classes": json.dumps(self.classes),
            "preprocessing": json.dumps(self.preprocess.to_dict()),
            "model_args": json.dumps(dict(self.model_args)),
            "precision": str(self.precision),
            "calibration": json.dumps(self.confidence.to_dict()),
            "split": json.dumps(dict(self.split)),
            "versions": json.dumps(dict(self.versions)),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str) -> ModelCard:
        """Return the inverse of `to_metadata`; other keys are ignored.

        `where` is the file, for the error.

        Raises:
            RunError: If the file was not written by swinclf, or its card is invalid.
        """
        if metadata.get("format") != FORMAT:
            raise RunError(
                f"a model of swinclf (format {FORMAT}) in '{where}'",
                found=_describe(metadata),
                hint="a run folder, its model.safetensors or an export; "
                "to start from other weights: swinclf train DATA --weights FILE",
            )
        fields = {
            name: _read(key, parse, metadata, where) for name, (key, parse) in _FIELDS.items()
        }
        return cls(**fields)


def check_sizes(
    card: ModelCard, *, where: str, logits: int | None, features: int | None = None
) -> None:
    """Check that a card and a network have the same numbers of classes and features.

    `logits` and `features` are K and D of the network, None if unknown; `where` is the file, for
    the error.

    Raises:
        RunError: If they differ.
    """
    count, found = len(card.classes), ""
    if logits is not None and logits != count:
        found = f"names of {count} classes and a network with {logits} logits"
    space = card.confidence.space
    if features is not None and space is not None and len(space.mean) != features:
        found = f"a calibration for {len(space.mean)} features and a network with {features}"
    if found:
        raise RunError(
            f"a model card that agrees with the network in '{where}'",
            found=found,
            hint="export the run again, or take the file from its run again; "
            "do not edit the metadata of a model file",
        )


def _read(
    key: str,
    parse: Callable[[str], Any],
    metadata: Mapping[str, str],
    where: str,
) -> Any:
    try:
        return parse(metadata[key])
    except KeyError as error:
        found = f"no '{key}'" if key not in metadata else f"no {error} in '{key}'"
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        found = f"'{key}': {str(error) or type(error).__name__}"
    except (RecursionError, MemoryError) as error:
        found = f"'{key}': {type(error).__name__}"
    raise RunError(
        f"a complete model card in '{where}'",
        found=found[:300],
        hint="take the file from its run again, or train again",
    )


def _classes(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or not names:
        raise ValueError(f"a list of class names. Received: {text[:80]}")
    if doubles := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"unique class names. Received twice: {doubles[0]!r}")
    return tuple(names)


def _texts(text: str) -> dict[str, str]:
    values = json.loads(text)
    if not isinstance(values, dict) or not all(isinstance(one, str) for one in values.values()):
        raise ValueError(f"an object of strings. Received: {text[:80]}")
    return dict(values)


def _split(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"an object. Received: {text[:80]}")
    seed, rule = values.get("seed", 0), values.get("rule", 1)
    parts = [values.get(name, 0) for name in ("val_split", "test_split")]
    are_numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in parts)
    if type(seed) is not int or not are_numbers or not all(0 <= one < 1 for one in parts):
        raise ValueError(f"a seed and a val_split in [0, 1). Received: {text[:80]}")
    if rule not in (1, 2):
        raise ValueError(f"a split by rule 1 or 2. Received: {text[:80]}")
    if "dataset" in values and not values.keys() >= {"seed", "val_split"}:
        raise ValueError(f"a seed and a val_split. Received: {text[:80]}")
    content = values.get("content", [])
    if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
        raise ValueError(f"a list of digests as content. Received: {text[:80]}")
    return values


def _model(text: str) -> str:
    if not text:
        raise ValueError("the name of a network. Received: an empty text")
    return text


_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {  # field -> key and parser
    "model": ("model", _model),
    "impl": ("impl", Impl),
    "classes": ("classes", _classes),
    "preprocess": ("preprocessing", lambda text: Preprocess.from_dict(json.loads(text))),
    "model_args": ("model_args", _texts),
    "precision": ("precision", Precision),
    "confidence": ("calibration", lambda text: Confidence.from_dict(json.loads(text))),
    "split": ("split", _split),
    "versions": ("versions", _texts),
}


def _describe(metadata: Mapping[str, str]) -> str:
    if not metadata:
        return "no metadata"
    return f"metadata of another program ({', '.join(sorted(metadata)[:5])})"
