"""The end of a training: the weights written, the file scored, the report beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial

from torch.nn import Module

from swinclf.card import ModelCard
from swinclf.config import SETTINGS
from swinclf.data.folder import TRAIN, VAL, ImageFile
from swinclf.data_quality.dataset_insights import find_label_issues, fit_learning_curve
from swinclf.device import Hardware, one_blas_thread
from swinclf.explain.saliency_overlay import EvidenceDrawer, has_evidence
from swinclf.inference.fit_confidence import ConfidenceFit, fit_confidence
from swinclf.inference.predictor import (
    InferenceOptions,
    Outputs,
    TorchPredictor,
    choose_model_hardware,
    open_predictor,
)
from swinclf.inference.reference_features import save_reference_features
from swinclf.inference.report_neighbours import find_held_out_neighbours
from swinclf.inference.results import Illustrations, write_results
from swinclf.inference.samples import save_samples
from swinclf.inference.score import (
    ScoringResult,
    score_images,
    score_outputs,
    to_image_outputs_in_batches,
)
from swinclf.models.compute import has_linear_head, head_logits
from swinclf.models.store import save_model
from swinclf.pipeline.distill import teacher_scores
from swinclf.pipeline.plan import Context, Plan
from swinclf.reporter import EpochRow, Reporter
from swinclf.reporting.report_data import (
    FindingSummary,
    LearningCurve,
    Provenance,
    ReportedSetting,
    ReportSections,
    Suspect,
)
from swinclf.run_folder import RunFolder
from swinclf.settings import command_of
from swinclf.training.defaults import Regime


def finish(
    plan: Plan,
    context: Context,
    history: Sequence[EpochRow],
    run: RunFolder,
    faults: Sequence[FindingSummary],
) -> ScoringResult:
    """Writes the weights, then scores the file that was written, as any later use will see it.

    Args:
        plan: The training, its network in the state to keep.
        context: Where it runs.
        history: A row an epoch.
        run: Where to.
        faults: What was wrong with the dataset when the run began.

    Returns:
        The scores; among what was skipped, also what could not be trained on.

    Raises:
        RunError: If a file cannot be written.
    """
    dataset, network, report = plan.dataset, plan.start.network, context.report
    options = InferenceOptions(device=context.hardware.device)
    card = plan.card(context.hardware)
    kept = _kept_outputs(plan, options.device)
    hardware = choose_model_hardware(card, options)
    measured = fit_confidence(
        TorchPredictor(network, card, hardware),
        dataset.root,
        dataset.of(VAL),
        dataset.of(TRAIN),
        seed=plan.config.seed,
        workers=plan.config.workers,
        report=report,
        cached_outputs=kept,
    )
    sections = _sections(plan, measured, faults, report)
    card = replace(card, confidence=measured.confidence)
    with ThreadPoolExecutor(1) as writer:  # who waits for a disk leaves the cores to others
        saving = writer.submit(_save, run, network, card, measured)
        if kept is None:
            saving.result()
        scored = _score(plan, run, card, kept, options, report)
        save_samples(run.samples, dataset.paths(scored.metrics.split), plan.start.preprocess)
        illustrations = _illustrations(plan, run, card, measured, hardware, saving)
        taught = teacher_scores(plan, scored.rows)
        if taught is not None:
            report.note(taught.line())
        write_results(
            run.path,
            scored,
            _provenance(plan, history, run),
            illustrations=illustrations,
            sections=replace(sections, teacher=taught),
            others=saving,
        )
    return scored


def _sections(
    plan: Plan, measured: ConfidenceFit, faults: Sequence[FindingSummary], report: Reporter
) -> ReportSections:
    """What the report shows besides the scores, as far as it is known before any scoring."""
    # A core each; on one thread around both, for each would undo the setting of the other.
    with ThreadPoolExecutor(1) as other, one_blas_thread():
        learning = other.submit(_learning, plan, report)
        suspects = _suspects(plan, report)
    return ReportSections(
        calibration=measured.calibration,
        confidence=measured.confidence,
        suspects=suspects,
        learning=learning.result(),
        audit=faults,
        is_untrained=not plan.start.trained_weights,
    )


def _illustrations(
    plan: Plan,
    run: RunFolder,
    card: ModelCard,
    measured: ConfidenceFit,
    hardware: Hardware,
    saving: Future[None],
) -> Illustrations:
    """What makes the report's pictures: evidence by the network, or by its file once written."""
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
    )


def _save(run: RunFolder, network: Module, card: ModelCard, measured: ConfidenceFit) -> None:
    """Writes the weights, and what they make of some training images."""
    save_model(run.model, network, card)
    save_reference_features(run, measured.training)


def _score(
    plan: Plan,
    run: RunFolder,
    card: ModelCard,
    kept: Callable[[Sequence[ImageFile]], Outputs] | None,
    options: InferenceOptions,
    report: Reporter,
) -> ScoringResult:
    """Scores what was held out, or what was trained on where nothing was."""
    dataset = plan.dataset
    split = VAL if dataset.rows(VAL) else TRAIN
    images = dataset.of(split)
    if kept is not None:
        answers = to_image_outputs_in_batches(kept(images), card.confidence, options.device)
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
    return replace(scored, skipped=[*dataset.skipped, *scored.skipped])


def _kept_outputs(plan: Plan, device: str) -> Callable[[Sequence[ImageFile]], Outputs] | None:
    """What gives the outputs of a frozen network from the features that were kept, to the bit.

    None where only the whole network can: it was trained, or its head is not one linear layer.
    """
    look, network = plan.look, plan.start.network
    if plan.start.regime is not Regime.HEAD or not has_linear_head(network):
        return None

    def outputs(images: Sequence[ImageFile]) -> Outputs:
        features = look.plain_features(images)
        return Outputs(head_logits(network, features, device).numpy(), features.numpy())

    return outputs


def _suspects(plan: Plan, report: Reporter) -> list[Suspect]:
    """Labels that the kept features of the starting weights doubt; none without such features."""
    dataset, look = plan.dataset, plan.look
    if look.features is None:
        return []
    images = [*dataset.of(TRAIN), *dataset.of(VAL)]
    seen = look.plain_features(images).numpy()
    return find_label_issues(images, seen, dataset.classes, seed=plan.config.seed, report=report)


def _learning(plan: Plan, report: Reporter) -> LearningCurve | None:
    """What more images would bring, as far as features of them that were kept can tell."""
    dataset, look = plan.dataset, plan.look
    if look.features is None:
        return None
    training, held_out = dataset.of(TRAIN), dataset.of(VAL)
    seen, judged = (look.plain_features(images).numpy() for images in (training, held_out))
    return fit_learning_curve(
        training, seen, held_out, judged, dataset.classes, seed=plan.config.seed, report=report
    )


def _provenance(plan: Plan, history: Sequence[EpochRow], run: RunFolder) -> Provenance:
    """Where the scores come from, for the report."""
    settings = plan.settings
    return Provenance(
        title=run.path.name,
        data=str(plan.dataset.root),
        command=command_of(settings),
        settings={
            name: ReportedSetting(
                getattr(plan.config, name), str(settings.sources[name]), settings.reasons.get(name)
            )
            for name in SETTINGS
        },
        history=[asdict(row) for row in history],
    )
