"""swinclf: transfer learning on folders of images with Swin and ViT.

    import swinclf
    run = swinclf.train("data/", epochs=20)
    classifier = swinclf.load("runs/latest")
    classifier.predict(["a.jpg"])

Importing this package loads neither torch nor timm; the first use of a name below does.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Classifier", "Metrics", "Prediction", "Run", "SwinclfError", "load", "train"]

if TYPE_CHECKING:
    from swinclf.api import Classifier, load, train
    from swinclf.errors import SwinclfError
    from swinclf.evaluation.metrics import Metrics
    from swinclf.verbs.predict import Prediction
    from swinclf.verbs.train import Run


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'swinclf' has no attribute {name!r}")
    from importlib import import_module

    module = import_module("swinclf.errors" if name == "SwinclfError" else "swinclf.api")
    return getattr(module, name)
