"""train: one folder in, one finished run out.

Reads as the story of a run: look at the data, build the network, settle what was left open, train,
score the file that was written. Knows no terminal.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from swinclf.audit.findings import Finding
from swinclf.audit.quick import for_report, in_one_line, quick_findings
from swinclf.card import ModelCard
from swinclf.config import SETTINGS, Impl, Settings, Source, command_of, gather_settings
from swinclf.data.dataset import Dataset, assign_splits
from swinclf.data.folder import (
    TEST,
    TRAIN,
    VAL,
    FolderIndex,
    ImageFile,
    Skipped,
    dataset_digest,
    scan_folder,
)
from swinclf.errors import DataError, DivergedError, ExitCode, Interrupted, RunError
from swinclf.evaluation.metrics import Metrics
from swinclf.evaluation.sections import Sections
from swinclf.files import cannot_write, check_room, read_csv, read_json, write_csv, write_json
from swinclf.inference.alike import most_alike
from swinclf.inference.calibrate import measure_confidence
from swinclf.inference.insight import doubtful_labels, worth_of_images
from swinclf.inference.predictor import (
    Asked,
    Outputs,
    TorchPredictor,
    hardware_for,
    open_predictor,
)
from swinclf.inference.results import Illustrations, ReportedSetting, write_results, write_skipped
from swinclf.inference.samples import save_samples
from swinclf.inference.score import answers_in_whole_batches, score_answers, score_images
from swinclf.inspection.overlay import EvidenceDrawer
from swinclf.models.build import (
    OWN_SHAPES,
    Architecture,
    build_from_file,
    build_network,
    build_pretrained,
    default_preprocess,
    reset_head,
)
from swinclf.models.compute import Computer, has_linear_head, logits_of
from swinclf.models.freeze import freeze_stages
from swinclf.models.names import is_native
from swinclf.models.store import save_model
from swinclf.models.weights import find_weights
from swinclf.preprocess import Preprocess
from swinclf.progress import SILENT, EpochRow, Reporter
from swinclf.runs import (
    SPLIT_COLUMNS,
    Claim,
    RunFolder,
    claim_new_run,
    claim_run,
    mark_latest,
)
from swinclf.runtime import (
    Hardware,
    StopFlag,
    choose_hardware,
    default_workers,
    out_of_memory_named,
    seed_everything,
    use_threads,
    versions,
    whole_batch,
)
from swinclf.training.batches import Batches, FeatureBatches
from swinclf.training.checkpoint import (
    Checkpoint,
    CheckpointSaver,
    read_checkpoint,
    remove_checkpoints,
    restore,
    save_checkpoint,
    step_back,
)
from swinclf.training.compiling import require_compiler
from swinclf.training.features import (
    MIRROR,
    PLAIN,
    Known,
    Look,
    Looker,
    open_known,
    views_by_split,
    views_missing,
)
from swinclf.training.logistic import Baseline, fit_baseline
from swinclf.training.loop import TrainState, fit
from swinclf.training.origin import (
    Origin,
    check_images,
    check_network,
    check_settings,
    frozen_digest,
    origin_of,
)
from swinclf.training.probe import linear_classifiers
from swinclf.training.recipe import Facts, Regime, choose_mirror, choose_regime, choose_schedule
from swinclf.training.regimes import (
    begin_with,
    feature_batches,
    head_hardware,
    head_state,
    image_batches,
    install_best,
    network_state,
    schedule_of,
)

RISKY_LR = 5e-4  # above it, fine-tuning with AdamW is known to destroy a pretrained transformer


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: Its files.
        metrics: On the images that were held out.
        skipped: Files that could not be used.
    """

    folder: RunFolder
    metrics: Metrics
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Start:
    """What a training starts from, before a class or an image has been looked at closely."""

    network: nn.Module
    preprocess: Preprocess
    regime: Regime
    trained_weights: bool
    is_saved: bool  # the weights are still to come, out of a checkpoint
    frozen: str  # the digest of what never trains; empty where the whole network is in a checkpoint


@dataclass(frozen=True)
class _Frozen:
    """What is known of a network before it is trained.

    Attributes:
        features: Of all images.
        baseline: The best head on them.
    """

    features: FeatureBatches
    baseline: Baseline


def train(settings: Settings, *, report: Reporter = SILENT, resume: RunFolder | None = None) -> Run:
    """Trains a classifier on a folder of class folders.

    Args:
        settings: What was asked for (`config.gather_settings`); of an interrupted run, its own.
        report: Told of progress, choices and their reasons.
        resume: The interrupted run to go on with.

    Returns:
        The finished run.

    Raises:
        SwinclfError: If it cannot be done; the text says why, and what to do.
        Interrupted: If a signal asked to stop; everything has been saved.
    """
    stop = StopFlag()
    with stop.listening():
        hardware = choose_hardware(settings.config.device, settings.config.precision)
        if settings.config.compile:
            require_compiler(hardware.device)
        index = _index(settings, resume)
        with _claim(settings, index, resume) as claim:
            saved, notes = _saved(claim.run, settings, report) if resume else (None, [])
            settings = _settle_machine(settings, hardware, index)
            settings, start = _start(settings, index, report, saved)
            check_room(
                claim.run.path.parent, _room_needed(start), "the weights and what --resume needs"
            )
            settings = choose_mirror(settings, index.classes)
            settings = settings.choose("workers", default_workers(), "one a core")
            look, dataset = _look(settings, index, start, hardware, resume, report, stop)
            if settings.config.strict:
                _refuse_skipped(dataset.skipped)
            faults = [] if resume else _faults(index, look)
            _tell_faults(faults, index, report)
            settings = _settle(settings, dataset, start)
            if saved is not None:
                notes += check_images(saved.origin, dataset, look.digests, look.errors, claim.run)
            _tell(settings, dataset, start, hardware, report, notes)
            frozen = _frozen(settings, dataset, start, look, hardware, report, stop)
            state, batches = _prepare(
                settings, dataset, start, look, frozen, hardware, report, saved
            )
            if saved:
                origin = saved.origin
            else:
                origin = _begin(settings, claim, start, dataset, look, frozen, state)
            with _how_to_go_on(claim.run):
                with stop.patiently():
                    _fit(
                        settings,
                        dataset,
                        start,
                        state,
                        batches,
                        hardware,
                        claim.run,
                        origin,
                        report,
                        stop,
                    )
                return _finish(
                    settings, dataset, start, look, state, hardware, claim.run, faults, report
                )


def _claim(
    settings: Settings, index: FolderIndex, resume: RunFolder | None
) -> AbstractContextManager[Claim]:
    """The run's folder, for this process alone."""
    if resume is not None:
        return claim_run(resume)
    config = settings.config
    return claim_new_run(Path(config.out), name=config.name, dataset=index.root)


def _saved(run: RunFolder, settings: Settings, report: Reporter) -> tuple[Checkpoint, list[str]]:
    """What an interrupted run goes on from, and what has changed since and may."""
    saved = read_checkpoint(run)
    if saved.instead_of:
        report.warn(
            f"{run.checkpoint} cannot be read ({saved.instead_of}): going on from the one before it"
        )
        step_back(run)
    return saved, check_settings(saved.origin, settings, run)


def _settle_machine(settings: Settings, hardware: Hardware, index: FolderIndex) -> Settings:
    """Settles what the machine decides, and begins the random numbers."""
    config = settings.config
    settings = settings.choose("precision", hardware.precision, hardware.reason)
    settings = settings.choose("device", hardware.device, "the best there is")
    settings = settings.choose("threads", use_threads(config.threads), "as torch chooses")
    seed_everything(config.seed)
    return replace(settings, config=replace(settings.config, data=str(index.root)))


@contextmanager
def _how_to_go_on(run: RunFolder) -> Iterator[None]:
    """Whatever ends a training that has begun says how to go on with it."""
    try:
        yield
    except Interrupted as interrupted:
        raise Interrupted(interrupted.exit_code, resume_command(run)) from None
    except (RunError, OSError) as error:
        named = Path(getattr(error, "filename", None) or run.path / "a file")
        told = error if isinstance(error, RunError) else cannot_write(named, error)
        if not run.checkpoint.is_file():  # the folder itself has gone
            hint = "start again: swinclf train DATA"
            raise RunError(told.expected, found=told.found, hint=hint) from error
        hint = f"mend that, then: {resume_command(run)}"
        raise RunError(told.expected, found=told.found, hint=hint) from error


def resume_settings(run: RunFolder, *, workers: int | None = None) -> Settings:
    """The settings of an interrupted run, exactly as they were resolved.

    Args:
        run: The run.
        workers: Threads that read, another number than before; it changes no bit.

    Raises:
        RunError: If there is nothing to go on with.
    """
    has_state = run.checkpoint.is_file() or run.previous_checkpoint.is_file()
    if run.is_finished and not has_state:  # with it, something of the end was left to do
        raise RunError(
            f"an interrupted run at '{run.path}'",
            found="a finished one",
            hint=f"swinclf train DATA --weights '{run.path}' starts a new run from its weights",
        )
    if not has_state:
        raise RunError(
            f"the saved state of a run, '{run.checkpoint}'",
            found="none: it stopped before anything was saved",
            hint="swinclf train DATA",
        )
    try:
        saved: Mapping[str, Any] = json.loads(run.config.read_text(encoding="utf-8"))
        values = {name: saved[name] for name in SETTINGS}
        sources = {name: Source(saved["sources"][name]) for name in SETTINGS}
        reasons = dict(saved["reasons"])
        if workers is not None:
            values["workers"], sources["workers"] = workers, Source.FLAG
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the settings of a run in '{run.config}'",
            found=f"{type(error).__name__}: {error}",
            hint="swinclf train DATA",
        ) from error
    # What --freeze-stages settles about --freeze-layers is recorded, but not to be asked for.
    settled = (
        {"freeze_layers": values.pop("freeze_layers")}
        if values["freeze_stages"] is not None
        else {}
    )
    return Settings(replace(gather_settings(values).config, **settled), sources, reasons)


def _index(settings: Settings, resume: RunFolder | None) -> FolderIndex:
    config = settings.config
    if resume is None:
        return scan_folder(Path(config.data), val=Path(config.val) if config.val else None)
    rows = read_csv(resume.split, SPLIT_COLUMNS)
    return FolderIndex(
        root=Path(config.data),
        classes=tuple(map(str, read_json(resume.class_indices).values())),
        images=tuple(ImageFile(row["path"], row["label"], row["split"]) for row in rows),
        skipped=(),
        has_val=True,
    )


def _start(
    settings: Settings, index: FolderIndex, report: Reporter, saved: Checkpoint | None
) -> tuple[Settings, _Start]:
    """Builds the network, from a file, from published weights or from random ones.

    Of a resumed run whose whole network trains, all weights come from what was saved.
    """
    config = settings.config
    is_saved = saved is not None and not saved.origin.network
    weights = find_weights(Path(config.weights)) if config.weights and not is_saved else None
    if weights and weights.card:
        reason = "as the run that --weights names"
        settings = settings.choose("model", weights.card.model, reason)
        settings = settings.choose("impl", weights.card.impl, reason)
        settings = settings.choose("img_size", weights.card.preprocess.height, reason)
        arguments = tuple(f"{key}={value}" for key, value in weights.card.model_args.items())
        settings = settings.choose("model_arg", arguments, reason)
    if settings.config.model in OWN_SHAPES:
        settings = settings.choose("impl", Impl.NATIVE, "a shape of your own")
    elif is_native(settings.config.model):
        settings = settings.choose("impl", Impl.NATIVE, "quicker, with the same answers")
    else:
        settings = settings.choose("impl", Impl.TIMM, "the only one that knows the model")
    trained_weights = bool(config.weights) or config.pretrained
    settings, regime = choose_regime(settings, trained_weights=trained_weights)
    config = settings.config
    assert config.impl is not None
    architecture = Architecture(
        name=config.model,
        impl=config.impl,
        num_classes=len(index.classes),
        img_size=config.img_size,
        drop_path=config.drop_path or 0.0,
        model_args=_arguments(config.model_arg),
    )
    if weights:
        network = build_from_file(architecture, weights.path)
    elif config.pretrained and not is_saved:
        network = build_pretrained(architecture, report=report)
    else:
        network = build_network(architecture)
    frozen = frozen_digest(network) if regime is Regime.HEAD else ""
    if saved is not None:
        check_network(saved.origin, frozen, saved.path.parent)
    if config.freeze_stages is not None:
        freeze_stages(network, config.freeze_stages)  # asks for too many: better known now
    preprocess = default_preprocess(architecture, img_size=config.img_size, fit=config.fit)
    settings = settings.choose("img_size", preprocess.height, "the model's own")
    settings = settings.choose("fit", preprocess.fit, "the model's own")
    return settings, _Start(network, preprocess, regime, trained_weights, is_saved, frozen)


def _arguments(words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words by key."""
    pairs = (word.partition("=") for word in words)
    return {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}


def _look(
    settings: Settings,
    index: FolderIndex,
    start: _Start,
    hardware: Hardware,
    resume: RunFolder | None,
    report: Reporter,
    stop: StopFlag,
) -> tuple[Look, Dataset]:
    """Reads every image once; where trained weights can tell something by it, keeps its features.

    Which images are held out is known when all have been read; those that are trained on after all
    are then looked at once more.
    """
    config = settings.config
    keeps_features = start.regime is Regime.HEAD or (start.trained_weights and not start.is_saved)
    views_of = views_by_split(
        index, mirror=bool(config.mirror), val_split=config.val_split, seed=config.seed
    )
    looker = Looker(
        index.root,
        start.preprocess,
        Computer(start.network, hardware) if keeps_features else None,
        hardware,
        workers=config.workers or 0,
        report=report,
        stop=stop,
        known=_known(settings, start, start.network if keeps_features else None, hardware, report),
    )
    with closing(looker), out_of_memory_named(whole_batch(hardware.device)):
        looker.look([image.path for image in index.images], views_of)
        if not stop:
            dataset = _dataset(settings, index, looker.seen, resume)
        if not stop and config.mirror:
            trained_on = [image.path for image in dataset.of(TRAIN)]
            looker.look(views_missing(looker.seen, trained_on), lambda *_: (PLAIN, MIRROR))
        if stop:
            raise Interrupted(stop.exit_code or ExitCode.INTERRUPTED)
    return looker.seen, dataset


def _known(
    settings: Settings,
    start: _Start,
    network: nn.Module | None,
    hardware: Hardware,
    report: Reporter,
) -> Known:
    """What the cache holds for this network, or nothing where none is wanted."""
    config = settings.config
    if not config.cache:
        return Known()
    return open_known(
        network,
        f"{config.model} {config.model_arg}",
        start.preprocess,
        hardware,
        limit_bytes=int(config.cache_gib * 1024**3),
        say=report.note,
    )


def _dataset(
    settings: Settings, index: FolderIndex, look: Look, resume: RunFolder | None
) -> Dataset:
    config = settings.config
    if resume is None:
        return assign_splits(
            index, look.digests, look.errors, val_split=config.val_split, seed=config.seed
        )
    skipped = read_csv(resume.skipped) if resume.skipped.is_file() else []
    rows = tuple(Skipped(row["path"], row["reason"]) for row in skipped)
    return Dataset(index.root, index.classes, index.images, rows)


def _settle(settings: Settings, dataset: Dataset, start: _Start) -> Settings:
    """Settles what depends on how many images there are."""
    facts = Facts(
        trained_weights=start.trained_weights,
        train_count=len(dataset.rows(TRAIN)),
        class_counts=dataset.counts(TRAIN),
        is_vit=hasattr(start.network, "pos_embed"),
    )
    return choose_schedule(settings, start.regime, facts)


def _room_needed(start: _Start) -> int:
    """Bytes that the run's large files take: three checkpoints while one is written, one model."""
    whole: int = sum(one.nbytes for one in start.network.state_dict().values())
    # The weights, the best ones so far, and AdamW's two numbers for each.
    return whole + (0 if start.regime is Regime.HEAD else 3 * 4 * whole)


def _begin(
    settings: Settings,
    claim: Claim,
    start: _Start,
    dataset: Dataset,
    look: Look,
    frozen: _Frozen | None,
    state: TrainState,
) -> Origin:
    """Writes all that is known before training and the state to begin with: now it is a run."""
    run = claim.run
    facts = {"command": command_of(settings), "versions": versions()}
    write_json(run.config, {**settings.to_dict(), **facts})
    write_json(run.class_indices, {str(n): name for n, name in enumerate(dataset.classes)})
    write_csv(run.split, SPLIT_COLUMNS, map(astuple, dataset.images))
    if dataset.skipped:
        write_skipped(run.skipped, [(one.path, one.reason) for one in dataset.skipped])
    if frozen is not None:
        write_json(run.baseline, frozen.baseline.facts())
    origin = origin_of(settings, run, dataset, look.digests, network=start.frozen)
    save_checkpoint(run, state, origin)
    claim.publish()
    return origin


def _frozen(
    settings: Settings,
    dataset: Dataset,
    start: _Start,
    look: Look,
    hardware: Hardware,
    report: Reporter,
    stop: StopFlag,
) -> _Frozen | None:
    """What the network can do before it is trained: its features, and the instant baseline."""
    config, classes = settings.config, len(dataset.classes)
    features = feature_batches(dataset, look, config, hardware.device)
    if features is None:
        return None
    reset_head(start.network, classes)
    linear_classifiers(start.network)  # a head that is not linear is better known now
    started = time.perf_counter()
    schedule = schedule_of(config, dataset, hardware.device)
    baseline = fit_baseline(features, classes, schedule, seed=config.seed, stop=stop)
    took = time.perf_counter() - started
    right = f"{baseline.accuracy:.1%} of held-out images right, "
    report.note(
        f"linear probe (L-BFGS): {right if features.val_count else ''}in {took:.1f} s, "
        f"L2 {baseline.strength:g}"
        + ("" if start.regime is Regime.HEAD else "; the head starts from it")
    )
    if baseline.images < features.train_count:
        report.note(
            f"  fitted on {baseline.images:,} of {features.train_count:,} training images, "
            "so that it does not take long"
        )
    return _Frozen(features, baseline)


def _prepare(
    settings: Settings,
    dataset: Dataset,
    start: _Start,
    look: Look,
    frozen: _Frozen | None,
    hardware: Hardware,
    report: Reporter,
    saved: Checkpoint | None,
) -> tuple[TrainState, Batches]:
    """What trains, in the state that it starts or goes on from, and what on."""
    config = settings.config
    network, device = start.network, hardware.device
    reset_head(network, len(dataset.classes))
    batches: Batches
    if start.regime is Regime.HEAD:
        assert frozen is not None
        batches = frozen.features
        state = head_state(network, frozen.features, config, head_hardware(device))
    else:
        tell = _bad_file_teller(report, strict=config.strict)
        batches = replace(
            image_batches(dataset, start.preprocess, config, device, tell),
            digests={dataset.root / path: digest for path, digest in look.digests.items()},
        )
        if batches.kept.limit_bytes:
            room = batches.kept.limit_bytes / 1024**3
            report.note(
                f"decoded images are kept in memory for later epochs, {room:.1f} GiB at most"
            )
        if frozen is not None:
            frozen.baseline.probe.install(network)
        state = network_state(network, config, hardware)
    if frozen is not None:
        begin_with(state, frozen.baseline)
    seed_everything(config.seed)
    if saved is not None:
        restore(saved, state)
    return state, batches


def _fit(
    settings: Settings,
    dataset: Dataset,
    start: _Start,
    state: TrainState,
    batches: Batches,
    hardware: Hardware,
    run: RunFolder,
    origin: Origin,
    report: Reporter,
    stop: StopFlag,
) -> None:
    """Trains to the end; the network then holds the best weights."""
    schedule = schedule_of(settings.config, dataset, hardware.device)
    if start.regime is Regime.HEAD:
        hardware = head_hardware(hardware.device)
    saver = CheckpointSaver(run, origin)
    try:
        with out_of_memory_named(batches.batch_size):
            fit(state, batches, schedule, hardware, report=report, stop=stop, saver=saver)
    except DivergedError as error:
        raise _keep_last_good(error, settings, dataset, start, state, hardware, run) from None
    finally:  # whatever ends it, and if it is a full disk
        with suppress(RunError):
            write_csv(run.history, EpochRow.header(), (row.values() for row in state.history))
    saver.save(state)
    if state.best is not None and state.best.epoch == 0:
        report.warn(
            "no epoch has as many of the held-out images right as the linear probe "
            f"({state.best.score[0]:.1%}): the probe is kept"
        )
    install_best(state, start.network)


def _keep_last_good(
    error: DivergedError,
    settings: Settings,
    dataset: Dataset,
    start: _Start,
    state: TrainState,
    hardware: Hardware,
    run: RunFolder,
) -> DivergedError:
    """Leaves a diverged run with its best weights as its model, if it has any; returns what to say.

    Before the end of an epoch there are none that were ever better than those it began with.
    """
    kept = f"no epoch had ended, and {run.checkpoint} holds the last good state"
    if state.best is not None:
        install_best(state, start.network)
        save_model(run.model, start.network, _card(settings, dataset, start, hardware))
        kept = f"the weights of epoch {state.best.epoch} are kept: {run.model}"
    return DivergedError(
        error.expected,
        found=f"{error.found}; {kept}",
        hint=f"swinclf train {shlex.quote(str(dataset.root))} {error.hint}",
    )


def _finish(
    settings: Settings,
    dataset: Dataset,
    start: _Start,
    look: Look,
    state: TrainState,
    hardware: Hardware,
    run: RunFolder,
    faults: Sequence[Finding],
    report: Reporter,
) -> Run:
    """Writes the weights, then scores the file that was written, as any later use will see it."""
    config = settings.config
    card = _card(settings, dataset, start, hardware)
    kept = _kept_outputs(start, look, hardware)
    measured = measure_confidence(
        TorchPredictor(start.network, card, hardware_for(card, Asked(device=hardware.device))),
        dataset.root,
        dataset.of(VAL),
        dataset.of(TRAIN),
        seed=config.seed,
        workers=config.workers or 0,
        report=report,
        kept=kept,
    )
    card = replace(card, confidence=measured.confidence)
    save_model(run.model, start.network, card)
    split = VAL if dataset.rows(VAL) else TRAIN
    images = dataset.of(split)
    if kept is not None:
        answers = answers_in_whole_batches(kept(images), card.confidence, hardware.device)
        scored = score_answers(
            card.classes, dataset.root, images, answers, split=split, report=report
        )
    else:
        scored = score_images(
            open_predictor(run.model, Asked(device=hardware.device)),
            dataset.root,
            images,
            split=split,
            workers=config.workers or 0,
            report=report,
        )
    save_samples(run.samples, dataset.paths(split), start.preprocess)
    drawer = EvidenceDrawer.open(run.model, root=dataset.root, device=hardware.device)
    write_results(
        run.path,
        replace(scored, skipped=[*dataset.skipped, *scored.skipped]),
        title=run.path.name,
        data=str(dataset.root),
        command=command_of(settings),
        settings=_reported(settings),
        history=[asdict(row) for row in state.history],
        illustrations=Illustrations(
            dataset.root,
            config.workers or 0,
            drawer.draw if drawer else None,
            partial(most_alike, measured),
        ),
        sections=replace(
            _insight(dataset, look, config.seed),
            calibration=measured.calibration,
            thresholds=measured.confidence.thresholds,
            audit=list(map(for_report, faults)),
        ),
    )
    mark_latest(run)
    remove_checkpoints(run)
    return Run(run, scored.metrics, (*dataset.skipped, *scored.skipped))


def _kept_outputs(
    start: _Start, look: Look, hardware: Hardware
) -> Callable[[Sequence[ImageFile]], Outputs] | None:
    """What gives the outputs of a frozen network from the features that were kept, to the bit.

    None where only the whole network can: it was trained, or its head is not one linear layer.
    """
    table, network = look.features, start.network
    if start.regime is not Regime.HEAD or table is None or not has_linear_head(network):
        return None

    def outputs(images: Sequence[ImageFile]) -> Outputs:
        features = table.gather([look.digests[image.path] + PLAIN for image in images])
        logits = logits_of(network, features, hardware.device)
        return Outputs(logits.numpy(), features.numpy())

    return outputs


def _insight(dataset: Dataset, look: Look, seed: int) -> Sections:
    """What the frozen network's features tell of the dataset, where they were kept."""
    if look.features is None:
        return Sections()
    training, held_out = dataset.of(TRAIN), dataset.of(VAL)
    seen = [
        look.features.gather([look.digests[image.path] + PLAIN for image in images]).numpy()
        for images in (training, held_out)
    ]
    return Sections(
        suspects=doubtful_labels(
            [*training, *held_out], np.concatenate(seen), dataset.classes, seed=seed
        ),
        learning=worth_of_images(training, seen[0], held_out, seen[1], dataset.classes, seed=seed),
    )


def _card(settings: Settings, dataset: Dataset, start: _Start, hardware: Hardware) -> ModelCard:
    """What the weights are stored with."""
    config = settings.config
    assert config.impl is not None
    return ModelCard(
        model=config.model,
        impl=config.impl,
        model_args=_arguments(config.model_arg),
        classes=dataset.classes,
        preprocess=start.preprocess,
        precision=hardware.precision,
        split={
            "seed": config.seed,
            "val_split": config.val_split,
            "dataset": dataset_digest(dataset.root),
        },
        versions=versions(),
    )


def resume_command(run: RunFolder) -> str:
    """What to type to go on with a run."""
    return f"swinclf train --resume {shlex.quote(str(run.path))}"


def _tell(
    settings: Settings,
    dataset: Dataset,
    start: _Start,
    hardware: Hardware,
    report: Reporter,
    changes: Sequence[str],
) -> None:
    """Says what is about to happen: the data, the network, and every choice with its reason."""
    config = settings.config
    counts = {split: len(dataset.rows(split)) for split in (TRAIN, VAL, TEST)}
    held = f"{counts[VAL]:,} to check with" + (
        f", {counts[TEST]:,} for a test" if counts[TEST] else ""
    )
    report.note(f"{len(dataset.classes)} classes, {counts[TRAIN]:,} images to train on, {held}")
    if dataset.skipped:
        report.warn(
            f"{len(dataset.skipped)} files skipped, e.g. {dataset.skipped[0].path}: "
            f"{dataset.skipped[0].reason} (all in skipped.csv)"
        )
    report.note(f"{config.model} on {hardware.device} in {hardware.precision} ({hardware.reason})")
    for change in changes:
        report.note(f"since this run began: {change}")
    report.note("chosen, as not given:")
    for name, reason in settings.reasons.items():
        if name not in ("device", "precision"):
            report.note(f"  {name.replace('_', '-')} {getattr(config, name)} ({reason})")
    risky = start.trained_weights and start.regime is not Regime.HEAD
    if risky and config.lr is not None and config.lr > RISKY_LR:
        report.warn(f"--lr {config.lr:g} is known to destroy trained weights; 1e-4 is a usual rate")
    if start.regime is Regime.HEAD and not start.trained_weights:
        report.warn("only the head trains, on a network of random weights: expect little of it")


def _faults(index: FolderIndex, look: Look) -> list[Finding]:
    """What the look at the images has shown to be wrong with them."""
    return [one for one in quick_findings(index.images, look.digests) if one.mend]


def _tell_faults(faults: Sequence[Finding], index: FolderIndex, report: Reporter) -> None:
    for fault in faults:
        report.warn(in_one_line(fault))
    if faults:
        report.note(f"all of it, and near copies: swinclf check {shlex.quote(str(index.root))}")


def _refuse_skipped(skipped: Sequence[Skipped]) -> None:
    """What --strict says to files that cannot be read."""
    if skipped:
        raise DataError(
            "every file named like an image to be one, as --strict asks",
            found=f"{len(skipped)} that cannot be read, e.g. {skipped[0].path}: "
            f"{skipped[0].reason}",
            hint="swinclf check DATA lists them all; or leave them out: --no-strict",
        )


def _bad_file_teller(report: Reporter, *, strict: bool) -> Callable[[Path, str], None]:
    """Says of each file once that it went bad; where it must not, stops."""
    told: set[Path] = set()

    def tell(path: Path, reason: str) -> None:
        if strict:
            _refuse_skipped([Skipped(str(path), reason)])
        if path not in told:
            told.add(path)
            report.warn(f"{path} could be read before and cannot any more ({reason}): left out")

    return tell


def _reported(settings: Settings) -> dict[str, ReportedSetting]:
    return {
        name: ReportedSetting(
            getattr(settings.config, name), str(settings.sources[name]), settings.reasons.get(name)
        )
        for name in SETTINGS
    }
