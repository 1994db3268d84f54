"""Forecast of a training: its time from a few real steps, its memory and its size on disk."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec

import torch

from swinclf.data.folder import TEST, TRAIN, VAL, FolderIndex
from swinclf.data.loader import evenly_spaced
from swinclf.data.split import SplitRule
from swinclf.device import fixed_batch_size
from swinclf.inference.fit_confidence import count_fitted_images
from swinclf.pipeline.cross_validation import GROUPS
from swinclf.pipeline.extract_features import build_extractor
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.prepare import build_schedule, prepare_training
from swinclf.pipeline.starting_model import StartingModel
from swinclf.reporter import SILENT
from swinclf.training.defaults import Regime, default_micro_batch
from swinclf.training.feature_extraction import PLAIN
from swinclf.training.loop import Saver, TrainingLoop
from swinclf.training.state import TrainState
from swinclf.training.time_estimate import TimeEstimate

MEASURE_S = 3.0  # of measured steps, but at least MIN_STEPS
MIN_STEPS, MAX_STEPS = 2, 8
# Of parts that are not measured before a training: rounded, on two cores.
HEAD_IMAGE_S = 2e-5  # of an epoch on cached features
PROBE_IMAGE_S = 2e-3  # of the linear probe
REPORT_S, REPORT_IMAGE_S = 5.0, 3e-3  # of calibration and report, without the network


@dataclass(frozen=True)
class Forecast:
    """The expected cost of a training."""

    features_s: float  # seconds to compute the features of all images, if they are not cached
    epochs_s: float  # seconds of the linear probe and all epochs; at most, with early stopping
    evaluation_s: float  # seconds of cross-validation, calibration, scores and report
    # peak of this process or the GPU, with the cache of decoded images; None if unknown
    memory_bytes: int | None = None
    disk_bytes: int = 0  # of the run's folder while it trains

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole training."""
        return self.features_s + self.epochs_s + self.evaluation_s

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {"seconds": self.seconds, **asdict(self)}


def rough_dataset(index: FolderIndex, rule: SplitRule) -> FolderIndex:
    """Return the images with about the final size of each split, without reading any."""
    share = rule.val + rule.test

    def reaches(share: float, number: int) -> bool:
        return int((number + 1) * share) > int(number * share)

    def split_of(row: int) -> str:
        if not reaches(share, row):
            return TRAIN
        return TEST if reaches(rule.test / share, int(row * share)) else VAL

    images = tuple(
        one if one.split else replace(one, split=split_of(row))
        for row, one in enumerate(index.images)
    )
    return replace(index, images=images)


def measure_forward(start: StartingModel, dataset: FolderIndex, context: Context) -> float:
    """Return the seconds to read one image and compute its features."""
    batch = fixed_batch_size(context.hardware.device)
    paths = [one.path for one in dataset.images if one.split != TEST]
    uncached = replace(start.extraction, is_cached=False)
    extractor = build_extractor(
        dataset.root,
        replace(start, extracts_features=True, extraction=uncached),
        replace(context, report=SILENT),
    )
    sample = evenly_spaced(paths, 4 * batch)
    extractor.extract(sample[:batch], lambda *_: (PLAIN,))  # warm-up
    rest = sample[batch:] or sample
    started = time.perf_counter()
    extractor.extract(rest, lambda *_: (b"timed",))
    return (time.perf_counter() - started) / len(rest)


def measure_training(plan: Plan, context: Context) -> float:
    """Return the seconds of an image in training (not of the head only); changes the network."""
    config, device = plan.config, context.hardware.device
    size = default_micro_batch(device, config.batch_size, config.train_size) or config.batch_size
    sample = evenly_spaced(plan.dataset.of(TRAIN), size * (1 + MAX_STEPS))
    copies = -(-size * (1 + MIN_STEPS) // len(sample))
    measured = replace(
        plan,
        config=replace(config, batch_size=size),
        dataset=replace(plan.dataset, images=tuple(sample * copies)),
    )
    silent = Context(context.hardware, SILENT, context.stop)
    state, batches = prepare_training(measured, silent, None, None, None)
    timer = _StepTimer(state)
    with suppress(_Measured):
        TrainingLoop(
            state,
            batches,
            replace(build_schedule(plan, device), epochs=1),
            context.hardware,
            report=SILENT,
            stop=context.stop,
            saver=Saver(),
            estimate=timer,
        ).run()
    return timer.step_s / size


def forecast(plan: Plan, forward_s: float, train_s: float) -> Forecast:
    """Return the expected cost of a training, from `measure_forward` and `measure_training`.

    `train_s` is 0 if only the head trains.
    """
    config, start, dataset = plan.config, plan.start, plan.dataset
    train, val = len(dataset.rows(TRAIN)), len(dataset.rows(VAL))
    test = len(dataset.rows(TEST)) if config.test_split else 0  # else for `eval`
    views = 2 if config.mirror else 1
    evaluation_s = REPORT_S + REPORT_IMAGE_S * (train + val + test)
    if config.folds:  # each head is fitted without a fold, most of them fast
        evaluation_s += PROBE_IMAGE_S * train * min(config.folds, 2 * GROUPS)
    probe_s = PROBE_IMAGE_S * train if start.extracts_features else 0.0
    if start.regime is Regime.HEAD:
        epochs_s = config.epochs * train * HEAD_IMAGE_S
    else:
        epochs_s = config.epochs * (train * train_s + val * forward_s)
        fitted = count_fitted_images(val, train, len(dataset.classes))
        evaluation_s += forward_s * (fitted + len(plan.scored_images()))
    features_s = forward_s * (views * train + val + test) if start.extracts_features else 0.0
    return Forecast(
        features_s, probe_s + epochs_s, evaluation_s, _peak_bytes(), start.bytes_on_disk
    )


def _peak_bytes() -> int | None:
    """Return the largest memory of this process, or of the GPU in use, so far."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    if find_spec("resource") is None:  # on Windows
        return None
    resource = import_module("resource")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class _Measured(Exception):
    """Raised to end a measurement."""


class _StepTimer(TimeEstimate):
    """A timer of steps that ends the training once it has enough."""

    def __init__(self, state: TrainState) -> None:
        super().__init__(1, 1, 0.0, lambda _seconds: None)
        self._state, self.step_s = state, 0.0
        self._count, self._started = 0, 0.0

    def after_step(self, epoch: int, step: int) -> float | None:  # noqa: ARG002
        """Measure a step; the first one is a warm-up."""
        self._state.sums.fetch()  # waits for the device
        now = time.perf_counter()
        if not self._started:
            self._started = now
            return None
        self._count += 1
        self.step_s = (now - self._started) / self._count
        if self._count >= MIN_STEPS and now - self._started >= MEASURE_S:
            raise _Measured
        return None
