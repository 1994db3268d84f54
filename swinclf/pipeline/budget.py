"""A training within a time budget: what trains, for how many epochs, at which image size."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from swinclf.config import Compile
from swinclf.data.folder import TRAIN, FolderIndex
from swinclf.durations import duration_text
from swinclf.models.compute import is_convolutional
from swinclf.pipeline.forecast import (
    Forecast,
    forecast,
    measure_forward,
    measure_training,
    rough_dataset,
)
from swinclf.pipeline.plan import Context, Plan, resolve_plan
from swinclf.pipeline.starting_model import build_starting_model, resolve_machine
from swinclf.reporter import SILENT
from swinclf.settings import BUDGET_REASON, Settings
from swinclf.training.defaults import Regime
from swinclf.training.feature_extraction import ExtractedFeatures

SMALLER = (5 / 7, 4 / 7)  # of the image size, for convolutional networks
LEAST_EPOCHS = 0.5  # of the default ones: with fewer, fine-tuning is no better than a frozen head
LEAST_COST = 2.0  # of an image in training, at least, relative to one in prediction


def fit_budget(
    settings: Settings, budget_s: float, index: FolderIndex, context: Context
) -> Settings:
    """Choose what trains, epochs and image size so that a training takes at most `budget_s`.

    The seconds are those of the whole training, of which the measurements here are a part.

    Fine-tuning is preferred to a frozen network, a frozen one to a smaller image size. Given
    settings are not changed. If nothing fits, the quickest training is chosen, with a warning.
    """
    ends_at = time.monotonic() + budget_s
    settings = settings.choose("compile", Compile.OFF, "--budget does not include compiling")
    if settings.config.teacher is not None:
        context.report.warn("--budget does not include the time of the teacher")
    quickest: _Candidate | None = None
    for one in _candidates(settings, index, context, ends_at):
        if one.cost.seconds <= ends_at - time.monotonic():
            return _record(settings, one, budget_s, context)
        if quickest is None or one.cost.seconds < quickest.cost.seconds:
            quickest = one
    assert quickest is not None
    context.report.warn(
        f"nothing fits into --budget {_short(budget_s)}: the quickest training takes about "
        f"{duration_text(quickest.cost.seconds)}"
    )
    return _record(settings, quickest, budget_s, context)


@dataclass(frozen=True)
class _Candidate:
    """The changes of settings to fit the budget, and what the training will cost."""

    changes: dict[str, object]
    cost: Forecast


def _candidates(
    settings: Settings, index: FolderIndex, context: Context, ends_at: float
) -> Iterator[_Candidate]:
    """Yield trainings, best first; the last one is the quickest."""
    first = _resolve(settings, {}, index, context)
    is_free = (
        first.start.trained_weights
        and settings.config.freeze_stages is None
        and not settings.is_given("freeze_layers")
        and not settings.is_given("folds")  # which are of the head alone
    )
    sizes = _sizes(settings, first)
    if is_free:
        tuned = _resolve(settings, {"freeze_layers": False}, index, context)
        candidate = _fine_tuning(settings, tuned, {"freeze_layers": False}, context, ends_at)
        if candidate is not None:
            yield candidate
    for size in sizes:
        changes: dict[str, object] = {} if size == sizes[0] else {"img_size": size}
        if is_free:
            changes = {"freeze_layers": True, **changes}
        plan = _resolve(settings, changes, index, context)
        if plan.start.regime is Regime.HEAD:
            forward_s = measure_forward(plan.start, plan.dataset, context)
            yield _Candidate(changes, forecast(plan, forward_s, 0.0))
        else:
            candidate = _fine_tuning(
                settings, plan, changes, context, ends_at, least=1, is_last=size == sizes[-1]
            )
            if candidate is not None:
                yield candidate


def _fine_tuning(
    settings: Settings,
    plan: Plan,
    changes: dict[str, object],
    context: Context,
    ends_at: float,
    *,
    least: int | None = None,
    is_last: bool = False,
) -> _Candidate | None:
    """Return a fine-tuning with as many epochs as fit; None if that is fewer than `least`."""
    epochs = plan.config.epochs
    least = math.ceil(LEAST_EPOCHS * epochs) if least is None else least
    forward_s = measure_forward(plan.start, plan.dataset, context)
    scale = (plan.config.train_size / plan.config.img_size) ** 2
    at_least_s = LEAST_COST * forward_s * scale * least * len(plan.dataset.rows(TRAIN))
    if not is_last and at_least_s > ends_at - time.monotonic():
        return None  # not even worth a measurement
    train_s = measure_training(plan, context)
    cost = forecast(plan, forward_s, train_s)
    if not settings.is_given("epochs"):
        one = replace(plan, config=replace(plan.config, epochs=1))
        fixed = replace(plan, config=replace(plan.config, epochs=0))
        fixed_s = forecast(fixed, forward_s, train_s).seconds
        epoch_s = forecast(one, forward_s, train_s).seconds - fixed_s
        fitting = int((ends_at - time.monotonic() - fixed_s) / epoch_s)
        if fitting < least and not is_last:
            return None
        epochs = max(1, min(epochs, fitting))
        changes = {**changes, "epochs": epochs}
        if not settings.is_given("patience"):
            changes["patience"] = max(3, epochs // 3)
        fewer = replace(plan, config=replace(plan.config, epochs=epochs))
        cost = forecast(fewer, forward_s, train_s)
    return _Candidate(changes, cost)


def _resolve(
    settings: Settings, changes: dict[str, object], index: FolderIndex, context: Context
) -> Plan:
    """Return a plan with some settings changed, of images that have not been read."""
    for name, value in changes.items():
        settings = settings.replaced(name, value, BUDGET_REASON)
    settings = resolve_machine(settings, context.hardware, index.root)
    settings, start = build_starting_model(settings, index, None, SILENT)
    dataset = rough_dataset(index, start.split_rule(index))
    return resolve_plan(settings, start, dataset, ExtractedFeatures(), None)


def _sizes(settings: Settings, plan: Plan) -> list[int]:
    """Return the image sizes to try, the plan's own first."""
    own = plan.config.img_size
    if settings.is_given("img_size") or not is_convolutional(plan.start.network):
        return [own]
    smaller = {max(32, round(part * own / 32) * 32) for part in SMALLER}
    return [own, *sorted((size for size in smaller if size < own), reverse=True)]


def _record(settings: Settings, chosen: _Candidate, budget_s: float, context: Context) -> Settings:
    """Return the settings with the changes and the reason for them; report them."""
    seconds = duration_text(chosen.cost.seconds)
    reason = f"{BUDGET_REASON} {_short(budget_s)}: about {seconds} in all"
    for name, value in chosen.changes.items():
        settings = settings.replaced(name, value, reason)
    words = [f"{name.replace('_', '-')} {value}" for name, value in chosen.changes.items()]
    context.report.note(
        f"budget {_short(budget_s)}: {', '.join(words) or 'the defaults'}, about {seconds} in all"
    )
    return settings


def _short(seconds: float) -> str:
    """Return a budget as it may have been given, such as 10m."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
