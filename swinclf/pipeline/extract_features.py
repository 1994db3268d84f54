"""Read every image once: extract features, find unreadable files, report dataset problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swinclf.data.dataset import assign_splits
from swinclf.data.folder import TEST, TRAIN, VAL, FolderIndex, SkippedFile
from swinclf.data.images import FORMATS, REVISION
from swinclf.data_quality.findings import Finding, format_finding, quick_findings
from swinclf.device import Hardware, StopFlag, cpu_features, fixed_batch_size, versions
from swinclf.errors import DataError, ExitCode, Interrupted
from swinclf.models.compute import REVISION as COMPUTE_REVISION
from swinclf.models.compute import Computer
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import StartingModel
from swinclf.processes import Processes, own_device
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import EXAMPLES, FindingSummary
from swinclf.shell_quoting import command_line
from swinclf.training.feature_cache import FeatureCache, cache_folder, cache_key, weights_digest
from swinclf.training.feature_extraction import (
    MIRROR,
    PLAIN,
    ExtractedFeatures,
    FeatureCaches,
    FeatureExtractor,
)


def extract_features(
    index: FolderIndex, start: StartingModel, context: Context, *, is_resumed: bool = False
) -> tuple[ExtractedFeatures, FolderIndex]:
    """Read every image once and, if `start.extracts_features`, extract its features.

    The split is known when all images have been read; missing mirrored views of training images
    are extracted afterwards.

    `is_resumed` is whether the images are those of a run, each in its split.

    Raises:
        DataError: If the readable images are not enough to train on.
        Interrupted: If a signal asked to stop; features computed so far are cached.
    """
    stop, processes = context.stop, context.processes
    if processes.count > 1:  # where the network can be sent from
        start.network.to("cpu")
    with ExitStack() as stack:
        task = _ExtractionTask(index, start, context.hardware)
        with processes.sharing(task, ends=(Interrupted,)), _all_or_none(context):
            extractor = stack.enter_context(closing(build_extractor(index.root, start, context)))
            _extract_shared(extractor, index, start, processes)
        extracted = extractor.extracted
        stop.check()
        dataset = index
        if not is_resumed:
            rule = start.split_rule(index)
            dataset = assign_splits(index, extracted.digests, extracted.errors, rule)
        table = extracted.features
        if start.extraction.mirror and table is not None:
            train = [image.path for image in dataset.of(TRAIN)]
            missing = [  # without those that a resumed run can no longer read
                path
                for path in train
                if path in extracted.digests and extracted.digests[path] + MIRROR not in table
            ]
            extractor.extract(missing, lambda *_: (PLAIN, MIRROR))
            stop.check()
    return extracted, dataset


@dataclass(frozen=True)
class _ExtractionTask:
    """The features of a share of the images, for the first process."""

    index: FolderIndex
    start: StartingModel
    hardware: Hardware

    def run(self, processes: Processes, report: Reporter, stop: StopFlag) -> None:
        """See `processes.Task`."""
        if not self.index.root.is_dir():
            raise DataError(
                f"the folder '{self.index.root}' on every machine",
                found="none on this one",
                hint="a folder that all machines share, or a copy at the same path",
            )
        hardware = replace(self.hardware, device=own_device(self.hardware.device))
        context = Context(hardware, report, stop, processes)
        with (
            closing(build_extractor(self.index.root, self.start, context)) as extractor,
            _all_or_none(context),
        ):
            _extract_shared(extractor, self.index, self.start, processes)


def build_extractor(
    root: Path, start: StartingModel, context: Context, *, dtype: torch.dtype = torch.float32
) -> FeatureExtractor:
    """Build the extractor of the features of files; without a frozen network it only reads."""
    return FeatureExtractor(
        root,
        start.preprocess,
        Computer(start.network, context.hardware) if start.extracts_features else None,
        context.hardware,
        workers=start.extraction.workers,
        report=context.report,
        stop=context.stop,
        caches=open_user_caches(start, context, dtype),
        dtype=dtype,
    )


def _extract_shared(
    extractor: FeatureExtractor, index: FolderIndex, start: StartingModel, processes: Processes
) -> None:
    """Extract the features of the images together with other processes, for the first one.

    Training images get a mirrored view, validation images do not. The final split is known when all
    images have been read; that by which the views are chosen differs for a few.
    """
    split_of = {image.path: image.split for image in index.images}
    rule = start.split_rule(index)

    def views_of(file: str, digest: bytes) -> Sequence[bytes]:
        split = split_of[file]
        if split == TEST and not start.extraction.split.test:  # scored by another command
            return ()
        is_train = split not in (VAL, TEST) and rule.expected(digest) == TRAIN
        return (PLAIN, MIRROR) if start.extraction.mirror and is_train else (PLAIN,)

    extractor.extract_shared(list(split_of), views_of, processes)


@contextmanager
def _all_or_none(context: Context) -> Iterator[None]:
    """Let all of several processes finish the block, or none: a signal to one of them is for all.

    Raises:
        Interrupted: If one was asked to stop.
    """
    processes, stop = context.processes, context.stop
    if processes.count == 1:
        yield
        return
    with stop.deferring_signals() if processes.rank == 0 else nullcontext():
        yield
        if processes.agree(bool(stop))[0]:
            raise Interrupted(stop.exit_code or ExitCode.TERMINATED)


def open_user_caches(start: StartingModel, context: Context, dtype: torch.dtype) -> FeatureCaches:
    """Open the user's caches for the configuration that determines this network's features.

    There are none if caching is off; `dtype` is the type of the stored features.
    """
    options, hardware, preprocess = start.extraction, context.hardware, start.preprocess
    folder = cache_folder()
    if not options.is_cached or folder is None:
        return FeatureCaches()
    installed = versions()
    decoder = {
        "decode_px": preprocess.decode_px,
        "decoder": REVISION,
        "formats": FORMATS,
        **{name: installed[name] for name in ("swinclf", "pillow")},
    }

    def open_cache(configuration: Mapping[str, object]) -> FeatureCache:
        return FeatureCache(
            folder,
            cache_key(configuration),
            limit_bytes=options.cache_bytes,
            note=context.report.note,
            dtype=dtype,
        )

    readable = open_cache(decoder)
    if not start.extracts_features:
        return FeatureCaches(None, readable)
    network = start.network
    configuration = {
        **decoder,
        "weights": weights_digest(network),
        "network": [options.network_id, type(network).__module__, COMPUTE_REVISION],
        "preprocess": preprocess.to_dict(),
        "precision": hardware.precision,
        "machine": _machine(hardware.device),
        "batch": fixed_batch_size(hardware.device),
        **{name: installed[name] for name in ("torch", "timm", "numpy")},
        **({} if dtype is torch.float32 else {"dtype": str(dtype)}),
    }
    return FeatureCaches(open_cache(configuration), readable)


def _machine(device: str) -> list[object]:
    """Return what rounding depends on besides precision and software."""
    if device.startswith("cuda"):
        return ["cuda", torch.cuda.get_device_name(device)]
    abilities = sorted(name for name, has in cpu_features().items() if has is True)
    return [device, torch.get_num_threads(), *abilities]


def report_findings(
    index: FolderIndex, extracted: ExtractedFeatures, report: Reporter
) -> list[FindingSummary]:
    """Warn about dataset problems that reading the images has shown; return them for the report."""
    findings = [one for one in quick_findings(index.images, extracted.digests) if one.needs_fix]
    for finding in findings:
        report.warn(format_finding(finding))
    if findings:
        folder = command_line([str(index.root)])
        report.note(f"all findings, with near-duplicates: swinclf check {folder}")
    return [_summarize(finding) for finding in findings]


def refuse_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Raise a DataError if there are unreadable files, under --strict."""
    if skipped:
        raise DataError(
            "only readable image files, as --strict requires",
            found=f"{len(skipped)} unreadable, e.g. {skipped[0].path}: {skipped[0].reason}",
            hint="swinclf check DATA lists them all; --no-strict skips them",
        )


def _summarize(finding: Finding) -> FindingSummary:
    """Return a finding as a run's report shows it, with its first few images and notes."""
    paths = [path for example in finding.examples for path in example.paths]
    notes = [example.note for example in finding.examples if not example.paths]
    return FindingSummary(finding.message, finding.advice, paths[:EXAMPLES], notes[:EXAMPLES])
