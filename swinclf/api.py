"""The Python API: train, load, and a classifier with the verbs as methods."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from swinclf.config import ExportFormat, Impl, gather_settings
from swinclf.errors import ConfigError
from swinclf.evaluation.metrics import Metrics
from swinclf.inference.predictor import Asked, open_predictor
from swinclf.inference.sources import Source, list_sources
from swinclf.progress import SILENT, Reporter
from swinclf.runs import find_model
from swinclf.runtime import Precision
from swinclf.verbs.evaluate import evaluate as evaluate_model
from swinclf.verbs.export import Export
from swinclf.verbs.export import export as export_model
from swinclf.verbs.predict import Prediction
from swinclf.verbs.predict import predict as predict_with
from swinclf.verbs.train import Run
from swinclf.verbs.train import train as train_settings


def train(data: str | PathLike[str], *, report: Reporter = SILENT, **settings: Any) -> Run:
    """Trains a classifier on a folder of class folders.

    Args:
        data: The folder.
        report: Told of progress; says nothing by default.
        settings: The options of `swinclf train` by name (`epochs=20`, `freeze_layers=False`, ...).

    Returns:
        The run: its folder and its metrics.

    Raises:
        SwinclfError: If it cannot be done; the text says why, and what to do.
    """
    return train_settings(gather_settings({"data": str(data), **settings}), report=report)


def load(
    run: str | PathLike[str] | None = None,
    *,
    impl: str | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> Classifier:
    """Opens a run, a weights file of one, or an exported file.

    Args:
        run: Where it is; None for the newest finished run under `runs/`.
        impl: Who builds the network, `timm` or `native`; None for whoever the run had.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: fp32, bf16, fp16 or auto; None for the run's.

    Raises:
        SwinclfError: If there is none, or it cannot be opened.
    """
    try:
        builder, number = Impl(impl) if impl else None, Precision(precision) if precision else None
    except ValueError as error:
        raise ConfigError(
            f"impl {' or '.join(Impl)}, precision {' or '.join(Precision)}",
            found=str(error),
            hint="both left out, for those of the run",
        ) from error
    asked = Asked(builder, device, number)
    return Classifier(find_model(Path(run) if run is not None else None), asked)


class Classifier:
    """A trained classifier.

    Args:
        model: A model.safetensors or an exported file.
        asked: How it is run.
    """

    def __init__(self, model: Path, asked: Asked) -> None:
        self.path = model
        self._asked = asked
        self._predictor = open_predictor(model, asked)
        if self._predictor.note:
            warnings.warn(self._predictor.note, stacklevel=3)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._predictor.card.classes

    def predict(
        self,
        inputs: Source | Iterable[Source],
        *,
        top_k: int = 5,
        reject: float | None = None,
    ) -> list[Prediction]:
        """Answers for pictures.

        Args:
            inputs: Paths, bytes of image files, PIL pictures or (H, W, 3) uint8 arrays, any number
                of them, or one of them; or an (N, H, W, 3) array.
            top_k: Classes to give for each.
            reject: Share of the answers that shall be right, in (0, 1): the label is `unknown`
                where that asks for it. None answers always.

        Returns:
            One prediction for each input, in order; one that cannot be read has an `error`.

        Raises:
            ConfigError: If `inputs` is no such thing; what is wrong with one of many is its error.
            RunError: If the model cannot keep that precision, or does not know.
        """
        if type(top_k) is not int or top_k < 1:
            raise ConfigError("top_k of at least 1", found=repr(top_k), hint="top_k=5")
        if reject is not None and not 0 < reject < 1:
            raise ConfigError("reject between 0 and 1", found=repr(reject), hint="reject=0.95")
        sources = list_sources(inputs)
        return list(predict_with(self._predictor, sources, top_k=top_k, reject=reject))

    def evaluate(
        self,
        data: str | PathLike[str] | None = None,
        *,
        split: str | None = None,
        output: Path | None = None,
    ) -> Metrics:
        """Scores the classifier; see `swinclf eval`."""
        folder = Path(data) if data is not None else None
        return evaluate_model(
            self.path, folder, split=split, output=output, asked=self._asked
        ).metrics

    def export(self, output: str | PathLike[str], **options: Any) -> Export:
        """Writes the classifier as ONNX and proves it equal; see `swinclf export`."""
        return export_model(
            self.path, ExportFormat.ONNX, Path(output), asked=self._asked, **options
        )
