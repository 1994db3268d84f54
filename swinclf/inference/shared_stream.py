"""Inference on a stream of files by all processes: each computes every Nth file of a group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from swinclf.device import StopFlag, choose_hardware
from swinclf.errors import ExitCode, Interrupted
from swinclf.inference.predictor import InferenceOptions, Predictor, open_predictor
from swinclf.inference.sources import Source
from swinclf.inference.stream import ImageOutput, InputT, stream_outputs
from swinclf.processes import Processes, check_device, current, own_device
from swinclf.reporter import Reporter

GROUP = 4096  # files of a process that are computed before the results are collected


@dataclass(frozen=True)
class ModelFile:
    """The file of a model and how to run it."""

    path: Path
    options: InferenceOptions


def stream_shared(
    predictor: Predictor,
    model: ModelFile | None,
    files: Iterable[InputT],
    *,
    workers: int,
    batch_size: int | None = None,
    is_padded: bool = False,
) -> Iterator[tuple[InputT, ImageOutput]]:
    """Yield the outputs for files in their order, by all processes if `model` is given.

    With several processes, outputs have no features and no logits. `model` is the predictor's file,
    which the other processes open. `files` are read lazily; other arguments as for
    `stream_outputs`.
    """
    processes = current()
    if processes.count == 1 or model is None:
        yield from stream_outputs(
            predictor, files, workers=workers, batch_size=batch_size, is_padded=is_padded
        )
        return
    check_device(predictor.device, processes)
    source, size = iter(files), batch_size or predictor.parallel.size
    while group := list(islice(source, GROUP * processes.count)):
        task = OutputsTask(model, group, workers, size, is_padded)
        with processes.sharing(task):
            shares = task.share(predictor, processes)
        if sum(map(len, shares)) < len(group):
            raise Interrupted(ExitCode.TERMINATED)  # another process was asked to stop
        for number, file in enumerate(group):
            yield file, shares[number % processes.count][number // processes.count]


@dataclass(frozen=True)
class OutputsTask:
    """The outputs for a share of a group of files."""

    model: ModelFile
    files: Sequence[Source]  # of all processes
    workers: int  # threads that decode, of each process
    batch_size: int
    is_padded: bool

    def run(self, processes: Processes, report: Reporter, stop: StopFlag) -> None:  # noqa: ARG002
        """See `processes.Task`."""
        self.share(_opened(self.model), processes, stop)

    def share(
        self, predictor: Predictor, processes: Processes, stop: StopFlag | None = None
    ) -> list[list[ImageOutput]]:
        """Compute the share of this process, shorter if `stop` is set.

        The first process gets the shares of all.
        """
        own = self.files[processes.rank :: processes.count]
        outputs = stream_outputs(
            predictor,
            own,
            workers=self.workers,
            batch_size=self.batch_size,
            is_padded=self.is_padded,
        )
        results: list[ImageOutput] = []
        for _, output in outputs:
            if stop:
                break
            results.append(replace(output, logits=None, features=None))
        return processes.gather(results)


@lru_cache(maxsize=1)
def _opened(model: ModelFile) -> Predictor:
    """Open a model on the GPU of this process, or the CPU."""
    device = own_device(choose_hardware(model.options.device).device)
    return open_predictor(model.path, replace(model.options, device=device))
