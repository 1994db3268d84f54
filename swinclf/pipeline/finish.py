"""The end of a training: saves the model, scores the saved file, writes the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import chain

from torch.nn import Module

from swinclf.card import ModelCard
from swinclf.config import SETTINGS
from swinclf.data.folder import TRAIN, VAL, ImageFile
from swinclf.data.loader import batched
from swinclf.data.split import SplitRule
from swinclf.data_quality.dataset_insights import find_label_issues, fit_learning_curve
from swinclf.data_quality.image_stats import median_side_px
from swinclf.device import Hardware, one_blas_thread
from swinclf.explain.saliency_overlay import EvidenceDrawer, has_evidence
from swinclf.inference.fit_confidence import ConfidenceFit, LabelledOutputs, fit_confidence
from swinclf.inference.neighbours import find_held_out_neighbours, save_reference_features
from swinclf.inference.predictor import (
    InferenceOptions,
    Outputs,
    TorchPredictor,
    choose_model_hardware,
    open_predictor,
)
from swinclf.inference.results import Illustrations, write_results
from swinclf.inference.samples import save_samples
from swinclf.inference.score import (
    SCORED_AT_ONCE,
    ScoringResult,
    score_images,
    score_outputs,
    to_image_outputs_in_batches,
)
from swinclf.metrics import Metrics, cross_validation_interval
from swinclf.models.compute import has_linear_head, head_logits
from swinclf.models.store import save_model
from swinclf.pipeline.cross_validation import cross_validate
from swinclf.pipeline.distill import score_teacher
from swinclf.pipeline.plan import Context, Plan
from swinclf.reporter import EpochRow, Reporter, format_percent, timed
from swinclf.reporting.report_data import (
    FindingSummary,
    LearningCurve,
    Provenance,
    ReportedSetting,
    ReportSections,
    Suspect,
    TrainingFigures,
)
from swinclf.reporting.verdict import LabelReview
from swinclf.run_folder import RunFolder
from swinclf.settings import command_of
from swinclf.training.defaults import Regime
from swinclf.training.state import TrainState

CURVE_SPLIT = SplitRule(0.2)  # of a cross-validated training
EXPLODED = 3  # times the loss of a uniform guess


def finish(
    plan: Plan,
    context: Context,
    state: TrainState,
    run: RunFolder,
    findings: Sequence[FindingSummary],
) -> ScoringResult:
    """Save the final weights, then score the saved file, as any later use will load it.

    The network has the best weights of `state`, of the finished training. `findings` are those at
    the start of the run. The skipped files of the result include those skipped in training.

    Raises:
        RunError: If a file cannot be written.
    """
    dataset, network, report = plan.dataset, plan.start.network, context.report
    options = InferenceOptions(device=context.hardware.device)
    card = plan.card(context.hardware)
    cached_outputs = _cached_outputs(plan, options.device)
    hardware = choose_model_hardware(card, options)
    cross_validated = None
    if plan.config.folds:
        with timed(report, "cross-validation"):
            cross_validated = cross_validate(plan, context)
    with timed(report, "calibration and rejection"):
        measured = fit_confidence(
            TorchPredictor(network, card, hardware),
            dataset.root,
            cross_validated or dataset.of(VAL),
            dataset.of(TRAIN),
            seed=plan.config.seed,
            workers=plan.config.workers,
            report=report,
            cached_outputs=cached_outputs,
        )
    sections = _sections(plan, run, measured, findings, report)
    card = replace(card, confidence=measured.confidence)
    with ThreadPoolExecutor(1) as writer:  # the disk is waited for in parallel
        saving = writer.submit(_save, run, network, card, measured)
        outputs = _computed_outputs(plan, cached_outputs, cross_validated)
        if outputs is None:
            saving.result()
        with timed(report, "scores"):
            scored = _score(plan, run, card, outputs, options, report)
        with timed(report, "sample images"):
            save_samples(run.samples, scored.paths(dataset.root), plan.start.preprocess)
        illustrations = _illustrations(plan, run, card, measured, hardware, saving, report)
        teacher = score_teacher(plan, scored.rows)
        if teacher is not None:
            report.note(teacher.line())
        with timed(report, "plots and report"):
            write_results(
                run.path,
                scored,
                _provenance(plan, state, run),
                illustrations=illustrations,
                sections=replace(sections, teacher=teacher),
                others=saving,
            )
    return scored


def _computed_outputs(
    plan: Plan,
    cached_outputs: Callable[[Sequence[ImageFile]], Outputs] | None,
    cross_validated: LabelledOutputs | None,
) -> Iterator[Outputs] | None:
    """Return the outputs for the scored images, those of some images at a time.

    None if the saved model has to compute them.
    """
    if cross_validated is not None:
        return iter([Outputs(cross_validated.logits, cross_validated.features)])
    if cached_outputs is None:
        return None
    return map(cached_outputs, batched(plan.scored_images(), SCORED_AT_ONCE))


def _sections(
    plan: Plan,
    run: RunFolder,
    measured: ConfidenceFit,
    findings: Sequence[FindingSummary],
    report: Reporter,
) -> ReportSections:
    """Return the sections of the report that do not depend on the scores."""
    # One core each. The thread limit is set around both, as each would reset that of the other.
    with ThreadPoolExecutor(1) as other, one_blas_thread():
        learning = other.submit(_learning_curve, plan, report)
        suspects, labels = _label_issues(plan, report)
    return ReportSections(
        calibration=measured.calibration,
        confidence=measured.confidence,
        suspects=suspects,
        labels=labels,
        learning=learning.result(),
        audit=findings,
        is_untrained=not plan.start.trained_weights,
        training=_training_figures(plan, run),
    )


def _training_figures(plan: Plan, run: RunFolder) -> TrainingFigures:
    """Return the figures of the training that the verdict depends on."""
    return TrainingFigures(
        counts=plan.dataset.counts(TRAIN),
        probe_accuracy=run.probe_accuracy,
        image_px=median_side_px(plan.dataset.paths(TRAIN)),
        input_px=min(plan.start.preprocess.height, plan.start.preprocess.width),
    )


def _illustrations(
    plan: Plan,
    run: RunFolder,
    card: ModelCard,
    measured: ConfidenceFit,
    hardware: Hardware,
    saving: Future[None],
    report: Reporter,
) -> Illustrations:
    """Return what draws the report's images: saliency by the network, or by its file once saved."""
    network, root = plan.start.network, plan.dataset.root
    drawer: EvidenceDrawer | None
    if has_evidence(network):
        drawer = EvidenceDrawer(network, card, root=root, hardware=hardware)
    else:
        saving.result()
        drawer = EvidenceDrawer.open(run.model, root=root, hardware=hardware)
    return Illustrations(
        root,
        plan.config.workers,
        plan.start.preprocess.ranges,
        drawer.draw if drawer else None,
        partial(find_held_out_neighbours, measured),
        report,
    )


def _save(run: RunFolder, network: Module, card: ModelCard, measured: ConfidenceFit) -> None:
    """Save the weights, and reference features of some training images."""
    save_model(run.model, network, card)
    save_reference_features(run, measured.training)


def _score(
    plan: Plan,
    run: RunFolder,
    card: ModelCard,
    outputs: Iterator[Outputs] | None,
    options: InferenceOptions,
    report: Reporter,
) -> ScoringResult:
    """Score the split that is the result of the training.

    `outputs` are those of the split, in parts; None runs the saved model.
    """
    dataset, split = plan.dataset, plan.scored_split
    images = plan.scored_images()
    if outputs is not None:
        answers = chain.from_iterable(
            to_image_outputs_in_batches(part, card.confidence, options.device) for part in outputs
        )
        scored = score_outputs(
            card.classes, dataset.root, images, answers, split=split, report=report
        )
    else:
        scored = score_images(
            open_predictor(run.model, options),
            dataset.root,
            images,
            split=split,
            workers=plan.config.workers,
            report=report,
        )
    metrics, folds = scored.metrics, plan.config.folds
    if folds:
        interval = cross_validation_interval(metrics.accuracy, metrics.images, folds)
        metrics = replace(metrics, accuracy_ci95=interval)
    return replace(scored, metrics=metrics, skipped=[*dataset.skipped, *scored.skipped])


def _cached_outputs(plan: Plan, device: str) -> Callable[[Sequence[ImageFile]], Outputs] | None:
    """Return a function that computes a frozen network's outputs from cached features, bit for bit.

    None if the whole network was trained, or its head is not one linear layer.
    """
    extracted, network = plan.extracted, plan.start.network
    if plan.start.regime is not Regime.HEAD or not has_linear_head(network):
        return None

    def outputs(images: Sequence[ImageFile]) -> Outputs:
        features = extracted.plain_features(images)
        return Outputs(head_logits(network, features, device).numpy(), features.numpy())

    return outputs


def _label_issues(plan: Plan, report: Reporter) -> tuple[list[Suspect], LabelReview | None]:
    """Find label issues by the features of the starting weights; none without features."""
    dataset, extracted = plan.dataset, plan.extracted
    if extracted.features is None:
        return [], None
    images = [*dataset.of(TRAIN), *dataset.of(VAL)]
    features = extracted.plain_features(images).numpy()
    with timed(report, "label errors"):
        return find_label_issues(
            images, features, dataset.classes, seed=plan.config.seed, report=report
        )


def _learning_curve(plan: Plan, report: Reporter) -> LearningCurve | None:
    """Fit the learning curve on cached features; None without features."""
    dataset, extracted = plan.dataset, plan.extracted
    if extracted.features is None:
        return None
    train, val = dataset.of(TRAIN), dataset.of(VAL)
    if plan.config.folds:  # a fifth has to be held out for the curve
        digests = [extracted.digests[image.path] for image in train]
        split = CURVE_SPLIT.assign([image.label for image in train], digests)
        val = [image for image, name in zip(train, split, strict=True) if name == VAL]
        train = [image for image, name in zip(train, split, strict=True) if name == TRAIN]
    train_features, val_features = (extracted.plain_features(one).numpy() for one in (train, val))
    with timed(report, "learning curve"):
        return fit_learning_curve(
            train,
            train_features,
            val,
            val_features,
            dataset.classes,
            seed=plan.config.seed,
            report=report,
        )


def _provenance(plan: Plan, state: TrainState, run: RunFolder) -> Provenance:
    """Return the origin of the scores, for the report."""
    settings = plan.settings
    return Provenance(
        title=run.path.name,
        data=plan.dataset.root.name,
        command=command_of(settings),
        settings={
            name: ReportedSetting(
                getattr(plan.config, name), str(settings.sources[name]), settings.reasons.get(name)
            )
            for name in SETTINGS
        },
        history=[asdict(row) for row in state.history],
        epochs=plan.config.epochs,
        saved_epoch=None if state.best is None else state.best.epoch,
    )


def result_warnings(metrics: Metrics, history: Sequence[EpochRow]) -> Iterator[str]:
    """Yield what speaks against using the trained model, a sentence each."""
    if len(metrics.classes) > 1 and metrics.accuracy_ci95[0] <= metrics.majority_accuracy:
        yield (
            f"the accuracy of {format_percent(metrics.accuracy)} on {metrics.images:,} images is "
            "not significantly better than always answering the largest class "
            f"({format_percent(metrics.majority_accuracy)}): do not rely on this model"
        )
    uniform = math.log(max(2, len(metrics.classes)))
    losses = [row.train_loss for row in history]
    if losses and losses[-1] > max(losses[0], EXPLODED * uniform):
        yield (
            f"the training loss has exploded: {losses[-1]:,.4g} in the last epoch, where guessing "
            f"has {uniform:.2g}; try a lower --lr"
        )
    elif metrics.loss > 10 * EXPLODED * uniform:
        yield (
            f"the loss of {metrics.loss:,.4g} is far above that of guessing ({uniform:.2g}); "
            "try a lower --lr"
        )
