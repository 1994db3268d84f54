"""The Python API: train, load, and a classifier whose methods are the commands."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from swinclf.commands.evaluate import evaluate as evaluate_model
from swinclf.commands.evaluate import score
from swinclf.commands.export import export as export_model
from swinclf.commands.predict import predict as predict_with
from swinclf.commands.train import Run
from swinclf.commands.train import train as train_settings
from swinclf.confidence.selective import threshold_for
from swinclf.config import Embed, Engine, ExportFormat, Impl, TrainOptions
from swinclf.device import Precision, default_workers
from swinclf.errors import ConfigError, DataError, RunError
from swinclf.exporting.engine import open_engine
from swinclf.exporting.verified_export import Export
from swinclf.inference.prediction import Prediction
from swinclf.inference.predictor import InferenceOptions, TorchPredictor
from swinclf.inference.sources import Source, list_sources
from swinclf.inference.stream import stream_outputs
from swinclf.metrics import Metrics
from swinclf.path_patterns import expand_home
from swinclf.reporter import LoggingReporter, Reporter
from swinclf.run_folder import find_model
from swinclf.settings import gather_settings, read_budget

if TYPE_CHECKING:
    from torch import nn


def train(
    data: str | PathLike[str],
    *,
    report: Reporter | None = None,
    verbose: bool = False,
    budget: str | None = None,
    **options: Unpack[TrainOptions],
) -> Run:
    """Train a classifier on a folder of class folders.

    Args:
        data: The folder.
        report: Receives progress; a subclass of `swinclf.Reporter`. Notes and warnings always go
            to the logger `swinclf` too.
        verbose: Print progress to standard error, as the command line does. Not with `report`.
        budget: Time for the whole training, such as `10m`: decides what trains, for how many
            epochs and at which image size, unless these are given.
        options: The options of `swinclf train` by name (`epochs=20`, `freeze_layers=False`, ...).

    Returns:
        The finished run.

    Raises:
        SwinclfError: If it fails; the text has the reason and a hint.
    """
    settings = gather_settings({"data": os.fspath(data), **options})
    budget_s = None if budget is None else read_budget(budget)
    return train_settings(settings, report=_reporter(report, verbose), budget_s=budget_s)


def load(
    run: str | PathLike[str] | None = None,
    *,
    impl: Impl | Literal["timm", "native"] | None = None,
    device: str = "auto",
    precision: Precision | Literal["auto", "fp32", "bf16", "fp16"] | None = None,
    engine: Engine | Literal["torch", "auto", "openvino", "onnx"] = Engine.TORCH,
) -> Classifier:
    """Open a run, its weights file or an exported file.

    Args:
        run: Its path; None for the newest finished run under `runs/`.
        impl: Backend that builds the network, `timm` or `native`; None for the run's.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: fp32, bf16, fp16 or auto; None for the run's.
        engine: What predicts and computes features on a CPU: torch, an export in the run (written
            if it is missing) for openvino or onnx, or auto for the fastest that agrees.

    Raises:
        SwinclfError: If there is none, or it cannot be opened.
    """
    try:
        builder, number = Impl(impl) if impl else None, Precision(precision) if precision else None
        chosen = Engine(engine)
    except ValueError as error:
        raise ConfigError(
            f"impl {' or '.join(Impl)}, precision {' or '.join(Precision)}, "
            f"engine {' or '.join(Engine)}",
            found=str(error),
            hint="omit them to use torch, and what the run says",
        ) from error
    options = InferenceOptions(builder, device, number)
    return Classifier(find_model(Path(run) if run is not None else None), options, chosen)


class Classifier:
    """A trained classifier, opened by `swinclf.load`.

    Args:
        model: A model.safetensors or an exported file.
        options: Device, precision and backend.
        engine: As of `swinclf.load`.

    Attributes:
        path: That file.
    """

    def __init__(
        self, model: Path, options: InferenceOptions, engine: Engine = Engine.TORCH
    ) -> None:
        self.path = model
        self._options, self._engine = options, engine
        self._predictor = open_engine(model, engine, options, LoggingReporter())
        if self._predictor.note:
            warnings.warn(self._predictor.note, stacklevel=3)

    def __reduce__(self) -> tuple[type[Classifier], tuple[Path, InferenceOptions, Engine]]:
        """Pickle the path, not the weights: another process opens the same file."""
        return type(self), (self.path.resolve(), self._options, self._engine)

    def __call__(self, inputs: Source | Iterable[Source]) -> list[Prediction]:
        """Return `predict(inputs)`."""
        return self.predict(inputs)

    def __repr__(self) -> str:
        """Return one line: the file, the network, the number of classes, the device."""
        card, device = self._predictor.card, self._predictor.device
        network = f"model={card.model!r}, classes={len(card.classes)}, device={device!r}"
        return f"Classifier(path={self.path.as_posix()!r}, {network})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._predictor.card.classes

    @property
    def model(self) -> nn.Module:
        """The network, an `nn.Module` in evaluation mode and float32, on the classifier's device.

        It takes preprocessed images (N, 3, H, W) and returns logits (N, K). In bf16 or fp16 the
        classifier predicts with a copy of its weights.

        Raises:
            RunError: If the classifier is an exported file.
        """
        if isinstance(self._predictor, TorchPredictor):
            return self._predictor.network
        raise RunError(
            f"a run, whose network is a torch module, at '{self.path}'",
            found="an exported file",
            hint='swinclf.load("runs/...").model, with the run that it was exported from',
        )

    def predict(
        self,
        inputs: Source | Iterable[Source],
        *,
        top_k: int = 5,
        reject: float | None = None,
    ) -> list[Prediction]:
        """Predict the classes of images.

        Args:
            inputs: Paths, bytes of image files, PIL images or (H, W, 3) uint8 arrays, any number
                of them, or one of them; or an (N, H, W, 3) array.
            top_k: Classes of each prediction.
            reject: Target fraction of correct predictions, in (0, 1): predictions that are too
                uncertain for it get the label `unknown`. None rejects nothing.

        Returns:
            One prediction for each input, in order; one that cannot be read has an `error`.

        Raises:
            ConfigError: If `inputs` is of another type; an invalid input of many has an `error`.
            RunError: If the model has no threshold for that precision, or was not calibrated.
        """
        return list(self.stream(inputs, top_k=top_k, reject=reject))

    def stream(
        self,
        inputs: Source | Iterable[Source],
        *,
        top_k: int = 5,
        reject: float | None = None,
        low_latency: bool = False,
    ) -> Iterator[Prediction]:
        """Predict the classes of any number of images, one after another, in bounded memory.

        Args:
            inputs: As for `predict`; may be an endless iterator. A few batches are read ahead.
            top_k: As for `predict`.
            reject: As for `predict`.
            low_latency: Do not wait for a full batch: for a source that is slower than the
                network, such as a camera. The last digits then depend on time.

        Returns:
            An iterator over one prediction for each input, in order.

        Raises:
            ConfigError, RunError: As `predict`, in this call and not at the first image.
        """
        if type(top_k) is not int or top_k < 1:
            raise ConfigError("top_k of at least 1", found=repr(top_k), hint="top_k=5")
        if reject is not None and not 0 < reject < 1:
            raise ConfigError("reject between 0 and 1", found=repr(reject), hint="reject=0.95")
        if reject is not None:
            threshold_for(self._predictor.card.confidence, reject)
        sources = list_sources(inputs)
        return predict_with(
            self._predictor, sources, top_k=top_k, low_latency=low_latency, reject=reject
        )

    def embed(self, images: Source | Iterable[Source]) -> np.ndarray:
        """Compute the features of images: the input of the network's head.

        Args:
            images: As `inputs` of `predict`.

        Returns:
            (N, D) float32, a row for each image, in order.

        Raises:
            ConfigError: If `images` is of another type.
            DataError: If one of them cannot be read.
            RunError: If the classifier is an exported file without features.
        """
        sources, rows = list_sources(images), []
        outputs = stream_outputs(self._predictor, sources, workers=default_workers())
        for number, (source, output) in enumerate(outputs):
            if output.error:
                name = (
                    os.fspath(source) if isinstance(source, str | PathLike) else f"images[{number}]"
                )
                raise DataError(
                    f"an image that can be read: {name}",
                    found=output.error,
                    hint="leave it out; classifier.predict(...) lists all such images",
                )
            rows.append(self._features(output.features))
        if rows:
            return np.stack(rows)
        preprocess = self._predictor.card.preprocess
        blank = np.zeros((1, preprocess.height, preprocess.width, 3), np.uint8)
        return self._features(self._predictor.outputs(blank).features)[:0]

    def evaluate(
        self,
        data: str | PathLike[str] | None = None,
        *,
        split: Literal["val", "test", "train", "all"] | None = None,
        output: str | PathLike[str] | None = None,
        report: Reporter | None = None,
        verbose: bool = False,
    ) -> Metrics:
        """Score the classifier; see `swinclf eval`.

        Args:
            data: A folder of class folders; None for the one the run was trained on.
            split: The split; None for the held-out images of the training's folder, and for all
                images of any other folder.
            output: A folder for the report, plots and tables; None writes nothing.
            report: As for `swinclf.train`.
            verbose: As for `swinclf.train`.

        Raises:
            SwinclfError: If it fails.
        """
        reporter = _reporter(report, verbose)
        folder = _path(data)
        if output is None:
            done = score(self._predictor, self.path, folder, split=split, report=reporter)
            return done.result.metrics
        return evaluate_model(
            self.path,
            folder,
            split=split,
            output=_path(output),
            options=self._options,
            report=reporter,
        ).metrics

    def export(
        self,
        output: str | PathLike[str],
        *,
        export_format: ExportFormat | str = ExportFormat.ONNX,
        embed: Embed | str = Embed.NONE,
        tolerance: float | None = None,
        data: str | PathLike[str] | None = None,
        report: Reporter | None = None,
        verbose: bool = False,
    ) -> Export:
        """Write the classifier and compare the two on real images; see `swinclf export`.

        Args:
            output: The file or folder.
            export_format: The format, such as `onnx` or `timm`.
            embed: `preprocess` puts the preprocessing into an ONNX file.
            tolerance: Largest allowed difference of a probability, in float32; None for 0.001, or
                0.01 if the file preprocesses images.
            data: A folder of images to compare on; None for those stored in the run.
            report: As for `swinclf.train`.
            verbose: As for `swinclf.train`.

        Raises:
            MismatchError: If a probability differs by more than the tolerance.
            SwinclfError: If it fails.
        """
        try:
            chosen, embedded = ExportFormat(export_format), Embed(embed)
        except ValueError as error:
            raise ConfigError(
                f"export_format {', '.join(ExportFormat)}, embed {' or '.join(Embed)}",
                found=str(error),
                hint="export_format='onnx'",
            ) from error
        return export_model(
            self.path,
            chosen,
            _path(output),
            embed=embedded,
            tolerance=tolerance,
            data=_path(data),
            options=self._options,
            report=_reporter(report, verbose),
        )

    def _features(self, features: np.ndarray | None) -> np.ndarray:
        if features is None:
            raise RunError(
                f"a model with features at '{self.path}'",
                found="an exported file with logits only",
                hint="the run that it was exported from, or export it again: swinclf export",
            )
        return features


def _path(path: str | PathLike[str] | None) -> Path | None:
    return None if path is None else Path(expand_home(os.fspath(path)))


def _reporter(report: Reporter | None, verbose: bool) -> Reporter:
    """Return a reporter that logs and passes everything on to `report` or the console."""
    if report is not None and verbose:
        raise ConfigError("report or verbose, not both", found="both", hint="verbose=True only")
    if verbose:
        from swinclf.terminal import ConsoleReporter

        return LoggingReporter(ConsoleReporter())
    return LoggingReporter() if report is None else LoggingReporter(report)
