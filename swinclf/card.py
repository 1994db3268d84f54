"""The model card: all that prediction needs besides the weights, stored in the same file.

What must agree travels together: class names in the order of the logits, preprocessing and
weights. The card is kept as strings, which is what the metadata of safetensors and of ONNX files
holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swinclf.confidence import Confidence
from swinclf.config import Impl
from swinclf.errors import RunError
from swinclf.preprocess import Preprocess
from swinclf.runtime import Precision

FORMAT = "swinclf-1"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What stands beside the weights.

    Attributes:
        model: The network's name, ARCH or ARCH.TAG.
        impl: Who built it.
        classes: Class names in the order of the logits.
        preprocess: How a picture becomes the network's input.
        model_args: What differs from the shape that the name stands for.
        precision: What the run was computed in: the default for prediction.
        confidence: What its probabilities are worth, and when not to answer.
        split: How images were held out: `seed`, `val_split`, and `dataset`, a digest of the
            folder's path.
        versions: Of everything that can change an answer.
    """

    model: str
    impl: Impl
    classes: tuple[str, ...]
    preprocess: Preprocess
    precision: Precision
    model_args: Mapping[str, str] = field(default_factory=dict)
    confidence: Confidence = field(default_factory=Confidence)
    split: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """One string a field; structured ones as JSON in plain ASCII, which carries any name."""
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
        """The inverse of `to_metadata`.

        Args:
            metadata: What the file holds, other keys allowed.
            where: The file, for the error.

        Raises:
            RunError: If the file was not written by swinclf, or its card is damaged.
        """
        if metadata.get("format") != FORMAT:
            raise RunError(
                f"a model of swinclf (format {FORMAT}) in '{where}'",
                found=f"metadata of {_kind(metadata)}",
                hint="a run folder, its model.safetensors or an export; "
                "to start from foreign weights: swinclf train DATA --weights FILE",
            )
        try:
            card = cls(
                model=metadata["model"],
                impl=Impl(metadata["impl"]),
                classes=tuple(map(str, json.loads(metadata["classes"]))),
                preprocess=Preprocess.from_dict(json.loads(metadata["preprocessing"])),
                model_args=dict(json.loads(metadata["model_args"])),
                precision=Precision(metadata["precision"]),
                confidence=Confidence.from_dict(json.loads(metadata["calibration"])),
                split=dict(json.loads(metadata["split"])),
                versions=dict(json.loads(metadata["versions"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"a whole model card in '{where}'",
                found=f"{type(error).__name__}: {error}",
                hint="take the file from its run again, or train again",
            ) from error
        return card


def _kind(metadata: Mapping[str, str]) -> str:
    return (
        f"another program ({', '.join(sorted(metadata)[:5])})"
        if metadata
        else "no program: there is none"
    )
