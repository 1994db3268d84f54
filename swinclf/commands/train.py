"""train: one folder in, one finished run out.

The steps of a run in order: build the network, extract features, resolve the settings, train, score
the saved file. Each step is implemented in `pipeline`. Knows no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swinclf.config import Compile, ResolvedConfig, TrainConfig
from swinclf.data.folder import TEST, FolderIndex, SkippedFile, scan_folder
from swinclf.data.split import read_split, write_split
from swinclf.device import Hardware, StopFlag, choose_hardware, torch_threads
from swinclf.errors import ConfigError, Interrupted
from swinclf.event_log import EventLog
from swinclf.files import check_free_space
from swinclf.latest_run import mark_latest
from swinclf.metrics import Metrics
from swinclf.pipeline.budget import fit_budget
from swinclf.pipeline.distill import find_teacher, prepare_teacher
from swinclf.pipeline.extract_features import extract_features, refuse_skipped, report_findings
from swinclf.pipeline.finish import finish, result_warnings
from swinclf.pipeline.fit import fit_best, sharing_training, unused_gpus_hint
from swinclf.pipeline.forecast import Forecast, forecast, measure_forward, measure_training
from swinclf.pipeline.measured_preprocess import resolve_colours, resolve_ranges
from swinclf.pipeline.plan import Context, Plan, report_plan, resolve_plan
from swinclf.pipeline.prepare import (
    build_feature_batches,
    prepare_baseline,
    prepare_training,
)
from swinclf.pipeline.resume import (
    ResumedRun,
    add_resume_hint,
    create_run,
    extract_run_features,
    resume_command,
    resume_state,
)
from swinclf.pipeline.starting_model import build_starting_model, resolve_machine
from swinclf.processes import check_device, current
from swinclf.reporter import SILENT, Reporter
from swinclf.reporting.report_data import FindingSummary
from swinclf.run_folder import RunClaim, RunFolder, check_new_run, claim_new_run, claim_run
from swinclf.settings import Settings
from swinclf.training.checkpoint import remove_checkpoints
from swinclf.training.compilation import require_compiler
from swinclf.training.defaults import Regime


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training.

    Attributes:
        folder: Its files by name, such as `run.folder.history`.
        metrics: Scores on the validation images, those of --test-split, or by cross-validation.
        skipped: Files that could not be used.
        config: The resolved settings.
        epochs: Trained epochs; 0 if the head was fitted by L-BFGS.
        probe_accuracy: Validation accuracy of a linear probe on the network before training; None
            without trained weights or validation images.
        warnings: What speaks against using the model, a sentence each.
    """

    folder: RunFolder
    metrics: Metrics
    skipped: tuple[SkippedFile, ...]
    epochs: int
    config: ResolvedConfig
    probe_accuracy: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Return the run's folder."""
        return self.folder.path

    def __repr__(self) -> str:
        """Return one line: the folder, the number of scored images and the accuracy on them."""
        scores = f"images={self.metrics.images}, accuracy={self.metrics.accuracy:.3f}"
        return f"Run(path={self.path.as_posix()!r}, {scores}, skipped={len(self.skipped)})"

    def to_dict(self) -> dict[str, object]:
        """Return the result as JSON values: paths, main scores, epochs and warnings."""
        metrics = self.metrics
        return {
            "run": str(self.path),
            "model": str(self.folder.model),
            "report": str(self.path / "report.html"),
            "split": metrics.split,
            "images": metrics.images,
            "accuracy": metrics.accuracy,
            "accuracy_ci95": list(metrics.accuracy_ci95),
            "balanced_accuracy": metrics.balanced_accuracy,
            "macro_f1": metrics.macro_f1,
            "majority_accuracy": metrics.majority_accuracy,
            "probe_accuracy": self.probe_accuracy,
            "epochs": self.epochs,
            "skipped": len(self.skipped),
            "warnings": list(self.warnings),
        }


def train(
    settings: Settings,
    *,
    report: Reporter = SILENT,
    resume: RunFolder | None = None,
    budget_s: float | None = None,
) -> Run:
    """Train a classifier on a folder of class folders.

    The settings are as given (`settings.gather_settings`), or those of the interrupted run `resume`
    (`resume.resume_settings`). A new training takes at most `budget_s` seconds (`pipeline.budget`).

    Raises:
        SwinclfError: If training fails; its text has the reason and a solution.
        Interrupted: If a signal asked to stop; the state has been saved.
    """
    stop = StopFlag()
    config = settings.config
    try:
        with stop.handling_signals(), _using_hardware(config) as hardware:
            check_device(hardware.device, current())
            if resume is not None:
                with claim_run(resume) as claim:
                    context = Context(hardware, EventLog(report, claim), stop, current())
                    run = resume_state(claim.run, settings, context)
                    return _train(run.settings, run.index, run, claim, context)
            index = _scan_dataset(config, hardware)
            with claim_new_run(Path(config.out), name=config.name, dataset=index.root) as claim:
                context = Context(hardware, EventLog(report, claim), stop, current())
                if budget_s is not None:
                    settings = fit_budget(settings, budget_s, index, context)
                return _train(settings, index, None, claim, context)
    except Interrupted as one:  # of a resumed run, the state is that of its last checkpoint
        command = resume_command(resume) if resume is not None else ""
        raise Interrupted(one.exit_code, one.resume or command) from None


def forecast_training(
    settings: Settings, *, report: Reporter = SILENT, budget_s: float | None = None
) -> tuple[Plan, Forecast]:
    """Plan a training and measure its time on a few steps, without writing a run.

    Every image is read once; a teacher is not loaded. `budget_s` is as of `train`. The returned
    plan's network is of no further use.

    Raises:
        SwinclfError: If the training would fail.
        Interrupted: If a signal asked to stop.
    """
    stop = StopFlag()
    with stop.handling_signals(), _using_hardware(settings.config) as hardware:
        config, context = settings.config, Context(hardware, report, stop)
        index = _scan_dataset(config, hardware)
        check_new_run(Path(config.out), name=config.name, dataset=index.root)
        if hardware.note:
            report.warn(hardware.note)
        if config.teacher is not None:
            report.warn("the forecast does not include the teacher")
        if budget_s is not None:
            settings = fit_budget(settings, budget_s, index, context)
        settings = resolve_machine(settings, context.hardware, index.root)
        settings, start = build_starting_model(settings, index, None, report)
        start = resolve_ranges(index, start, context, None)
        reading = replace(start, extracts_features=False)
        extracted, dataset = extract_features(index, reading, context)
        if config.strict:
            refuse_skipped(dataset.skipped)
        start = resolve_colours(settings, start, dataset, context)
        plan = resolve_plan(settings, start, dataset, extracted, None)
        report_plan(plan, context, [])
        forward_s = measure_forward(start, dataset, context)
        is_head = start.regime is Regime.HEAD
        train_s = 0.0 if is_head else measure_training(plan, context)
        return plan, forecast(plan, forward_s, train_s)


def _scan_dataset(config: TrainConfig, hardware: Hardware) -> FolderIndex:
    """Scan the dataset of a new training.

    Raises:
        DataError: If it has no images to train on.
        DeviceError: If the network is to be compiled and there is no compiler.
        ConfigError: If a test part is to be held out and it has a folder of test images.
    """
    if config.compile is Compile.ON:
        require_compiler(hardware.device)
    index = scan_folder(Path(config.data), val=Path(config.val) if config.val else None)
    if config.test_split and any(image.split == TEST for image in index.images):
        raise ConfigError(
            "--test-split for a dataset without a test folder",
            found=f"a test folder in '{index.root}'",
            hint="no --test-split; after the training: swinclf eval --split test",
        )
    return index


@contextmanager
def _using_hardware(config: TrainConfig) -> Iterator[Hardware]:
    """Choose the hardware; a GPU that is chosen by its number is torch's current one until the end.

    The random state that is saved and the memory that is measured are those of the current GPU.
    The number of torch's threads, which a training may change, is restored at the end.
    """
    hardware = choose_hardware(config.device, config.precision)
    has_number = hardware.device.startswith("cuda:")
    with (
        torch.cuda.device(hardware.device) if has_number else nullcontext(),
        torch_threads(torch.get_num_threads()),
    ):
        yield hardware


def _train(
    settings: Settings,
    index: FolderIndex,
    resumed: ResumedRun | None,
    claim: RunClaim,
    context: Context,
) -> Run:
    """Train in a claimed folder: plan, epochs, scores."""
    saved = resumed.saved if resumed else None
    if context.hardware.note:
        context.report.warn(context.hardware.note)
    plan, findings = _plan(settings, index, resumed, claim.run, context)
    features = build_feature_batches(plan, context.hardware.device)
    baseline = prepare_baseline(plan, context, features) if features else None
    with sharing_training(plan, context, baseline, saved):
        state, batches = prepare_training(plan, context, features, baseline, saved)
        if saved:
            context.report.note(f"resuming after epoch {state.epoch} of {plan.config.epochs}")
            fingerprint = saved.fingerprint
        else:
            fingerprint = create_run(plan, claim, baseline, state, findings)
        with add_resume_hint(claim.run), context.stop.deferring_signals():
            fit_best(plan, context, state, batches, claim.run, fingerprint)
    with add_resume_hint(claim.run):
        scored = finish(plan, context, state, claim.run, fingerprint.findings)
        mark_latest(claim.run.path)
        remove_checkpoints(claim.run)
        if resumed and plan.dataset.images != read_split(claim.run.split):
            write_split(claim.run.split, plan.dataset.images)
        run = Run(
            claim.run,
            scored.metrics,
            tuple(scored.skipped),
            state.epoch,
            plan.config,
            claim.run.probe_accuracy,
            tuple(result_warnings(scored.metrics, state.history)),
        )
        for text in run.warnings:
            context.report.warn(text)
        context.report.record("result", run.to_dict())
        return run


def _plan(
    settings: Settings,
    index: FolderIndex,
    resumed: ResumedRun | None,
    run: RunFolder,
    context: Context,
) -> tuple[Plan, list[FindingSummary]]:
    """Build the network, extract features, and resolve the settings.

    The problems are those of the dataset; a resumed run has them in its fingerprint.
    """
    report, saved = context.report, resumed.saved if resumed else None
    settings = resolve_machine(settings, context.hardware, index.root)
    if saved is None and (hint := unused_gpus_hint(context.hardware, settings, context.processes)):
        report.note(hint)
    settings, start = build_starting_model(settings, index, saved, report)
    settings, teacher = find_teacher(settings, index.classes, saved, context)
    check_free_space(run.path.parent, start.bytes_on_disk, "the weights and checkpoints")

    start = resolve_ranges(index, start, context, saved.fingerprint.ranges if saved else None)
    if resumed:
        extracted, dataset, changes = extract_run_features(run, settings, resumed, start, context)
    else:
        extracted, dataset = extract_features(index, start, context)
        changes = []
    start = resolve_colours(settings, start, dataset, context)
    settings, dataset, teacher_data = prepare_teacher(
        settings, teacher, start, dataset, extracted, context, saved
    )
    if settings.config.strict:
        refuse_skipped(dataset.skipped)
    findings = [] if resumed else report_findings(index, extracted, report)

    plan = resolve_plan(settings, start, dataset, extracted, teacher_data)
    report_plan(plan, context, changes)
    return plan, findings
