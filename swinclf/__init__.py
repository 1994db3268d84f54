"""swinclf: transfer learning on folders of images with Swin and ViT.

    import swinclf
    run = swinclf.train("data/", epochs=20)
    classifier = swinclf.load("runs/latest")
    classifier.predict(["a.jpg"])
    network = swinclf.create_model("swin_tiny_patch4_window7_224", num_classes=5)

Importing this package loads neither torch nor timm; the first use of a name below does.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Metrics",
    "Prediction",
    "Reporter",
    "Run",
    "SwinclfError",
    "TrainOptions",
    "create_model",
    "load",
    "train",
]

if TYPE_CHECKING:
    from swinclf.api import Classifier, load, train
    from swinclf.commands.train import Run
    from swinclf.config import TrainOptions
    from swinclf.errors import SwinclfError
    from swinclf.inference.prediction import Prediction
    from swinclf.metrics import Metrics
    from swinclf.models.build import create_model
    from swinclf.reporter import Reporter

_MODULES = {  # where the public names are
    "Classifier": "swinclf.api",
    "Metrics": "swinclf.metrics",
    "Prediction": "swinclf.inference.prediction",
    "Reporter": "swinclf.reporter",
    "Run": "swinclf.commands.train",
    "SwinclfError": "swinclf.errors",
    "TrainOptions": "swinclf.config",
    "create_model": "swinclf.models.build",
    "load": "swinclf.api",
    "train": "swinclf.api",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'swinclf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not, for completion in notebooks."""
    return sorted({*globals(), *__all__})
