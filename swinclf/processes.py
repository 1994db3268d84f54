"""The processes of a program that was started by torchrun, and how they exchange values.

The first process runs the program; the others wait for its tasks (`serve_tasks`). Without torchrun
there is one process, for which every exchange is trivial. Imports torch inside functions only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from swinclf.device import StopFlag, available_cores, is_under_torchrun, local_processes
from swinclf.errors import DeviceError, DivergedError, Interrupted, RunError
from swinclf.reporter import Reporter

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

WAIT = timedelta(days=30)  # for a task: the first process may be busy with anything


class LostProcessError(RunError):
    """Another process has ended, and this one cannot continue."""


@dataclass(frozen=True)
class Processes:
    """This process and the number of all."""

    rank: int = 0  # of this process; the first one is 0
    count: int = 1
    group: ProcessGroup | None = None  # exchanges values on the CPU; None if alone

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes, in float64; every process calls this.

        Raises:
            LostProcessError: If another process has ended.
        """
        if self.count == 1:
            return [float(one) for one in values]
        import torch
        from torch import distributed

        sums = torch.tensor(values, dtype=torch.float64)
        with self.noticing_losses():
            distributed.all_reduce(sums, group=self.group)
        return sums.tolist()

    def agree(self, *flags: bool) -> list[bool]:
        """Return whether each flag is set in any process; every process calls this.

        Raises:
            LostProcessError: If another process has ended.
        """
        return [one > 0 for one in self.total(flags)]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes to the first one; every process calls this.

        The others get an empty list. Values are pickled.

        Raises:
            LostProcessError: If another process has ended.
        """
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        with self.noticing_losses():
            distributed.gather_object(value, values if self.rank == 0 else None, group=self.group)
        return values if self.rank == 0 else []

    @contextmanager
    def sharing(self, task: Task, *, ends: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        """Let the other processes run a task; this one, the first, does its share in the block.

        `ends` are exceptions with which the task ends in all processes.

        Raises:
            LostProcessError: If another process has ended.
        """
        global _in_task
        if self.count == 1:
            yield
            return
        import torch

        _in_task = True
        self._broadcast((task, torch.get_num_threads()))
        try:
            yield
        except ends:
            _in_task = False
            raise
        _in_task = False

    def receive(self) -> Task | None:
        """Return the next task, for the same number of threads as the first process; None if none.

        Raises:
            LostProcessError: If the first process has ended.
        """
        import torch

        received = self._broadcast(None)
        if received is None:
            return None
        task, threads = received
        torch.set_num_threads(threads)
        return task

    def _broadcast(self, value: tuple[Task, int] | None) -> tuple[Task, int] | None:
        from torch import distributed

        values = [value]
        with self.noticing_losses():
            distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    @contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Raise torch's errors of a lost connection inside the `with` block as LostProcessError."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_lost_connection(error):
                raise
            raise LostProcessError(
                f"all {self.count} processes to continue",
                found=f"another one has ended ({_first_line(error)})",
                hint="the messages above say why; then start it again",
            ) from error


class Task(Protocol):
    """A part of the work of the first process; pickled, and run by every other process."""

    def run(self, processes: Processes, report: Reporter, stop: StopFlag) -> None:
        """Do the share of this process; `report` shows warnings only."""


ALONE = Processes()
_current = ALONE
_in_task = False  # whether a task is being run, or has failed: the others then expect no new one


def current() -> Processes:
    """Return this process as `join` found it."""
    return _current


def join() -> Processes:
    """Connect the processes if torchrun started several; each gets its share of the cores.

    Raises:
        RunError: If they cannot be connected.
    """
    global _current
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if not is_under_torchrun() or count == 1:
        return _current
    import torch
    from torch import distributed

    torch.set_num_threads(available_cores())  # torchrun sets OMP_NUM_THREADS to 1
    has_cuda, gpus = torch.cuda.is_available(), torch.cuda.device_count()
    if has_cuda and local_processes() > gpus:
        raise RunError(
            f"at most a process for each GPU of this machine, which has {gpus}",
            found=f"{local_processes()} processes",
            hint=f"torchrun --nproc-per-node={gpus}; with CUDA_VISIBLE_DEVICES= they use the CPU",
        )
    if has_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if has_cuda else "gloo")
        group = distributed.new_group(backend="gloo", timeout=WAIT)
    except RuntimeError as error:
        raise RunError(
            f"a connection between the {count} processes of torchrun",
            found=_first_line(error),
            hint="torchrun --standalone on one machine; docs/distributed.md for several",
        ) from error
    assert not isinstance(group, int)  # only of processes that are not in it
    _current = Processes(distributed.get_rank(), count, group)
    return _current


def leave() -> None:
    """End the other processes, if there are any.

    In the middle of a task they notice by themselves that the connection is lost.
    """
    global _current
    processes, _current = _current, ALONE
    if processes.count == 1 or _in_task:
        return
    from torch import distributed

    if processes.rank == 0:
        with suppress(LostProcessError):
            processes._broadcast(None)  # no task
    distributed.destroy_process_group()


def serve_tasks(processes: Processes, report: Reporter) -> None:
    """Run the tasks of the first process until it ends this one.

    A signal sets the flag that tasks check. What stops all processes is reported by the first one.

    Raises:
        SwinclfError: If this process fails.
    """
    global _in_task
    stop = StopFlag()
    with stop.handling_signals(), suppress(Interrupted), stop.deferring_signals():
        while (task := processes.receive()) is not None:
            _in_task = True
            with suppress(DivergedError, Interrupted):
                task.run(processes, report, stop)
            _in_task = False
            del task  # its network and tables


def own_device(name: str) -> str:
    """Return a device with the number of this process's GPU: threads do not inherit the choice."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if name == "cuda" else name


def check_device(device: str, processes: Processes) -> None:
    """Check that several processes can compute on a device.

    Raises:
        DeviceError: If they cannot: each process has a GPU of its own, or all share the CPU.
    """
    if processes.count > 1 and device not in ("cpu", "cuda"):
        raise DeviceError(
            "--device auto, cpu or cuda for several processes", found=device, hint="--device auto"
        )


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether an error of gloo or NCCL is that of a connection to an ended process."""
    phrases = (
        *("Connection closed by peer", "Connection reset by peer", "Connection refused"),
        *("Broken pipe", "timed out", "remote process exited", "communicator was aborted"),
    )
    return any(phrase in str(error) for phrase in phrases)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][-120:]
