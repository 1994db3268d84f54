"""The machine at hand: device, precision, threads, signals, versions.

Imports torch only inside the functions that ask it something, so that naming a device costs
nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from swinclf.errors import DeviceError, ExitCode, ExportError, Interrupted

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names in malloc.h
_KEPT_BYTES = 1024**3
_IS_WINDOWS = os.name == "nt"


class Precision(StrEnum):
    """The number format that networks are computed in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True)
class Hardware:
    """What networks run on, and why.

    Attributes:
        device: A torch device name: cpu, cuda, cuda:N or mps.
        precision: fp32, bf16 or fp16, never auto.
        reason: Why this precision, a few words.
        note: What the user should know of the device, such as that it is not the one asked for;
            empty for nothing.
    """

    device: str
    precision: Precision
    reason: str
    note: str = ""


def choose_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Settles device and precision.

    A CUDA device that this machine lacks is replaced by what `auto` takes, with a note: commands
    with `--device cuda:0` are carried from machine to machine. Any other name is obeyed or refused.

    Args:
        device: auto, cpu, cuda, cuda:N or mps. auto takes the first of cuda, mps, cpu that is
            there.
        precision: auto, fp32, bf16 or fp16. auto takes bf16 where the hardware multiplies it
            natively.

    Raises:
        DeviceError: If this machine lacks the device, or that the precision.
    """
    chosen, note = _choose_device(device)
    if precision != Precision.AUTO:
        require_precision(chosen, Precision(precision))
        return Hardware(chosen, Precision(precision), "as asked", note)
    native, reason = multiplies_bf16(chosen)
    return Hardware(chosen, Precision.BF16 if native else Precision.FP32, reason, note)


def require_precision(device: str, precision: Precision) -> None:
    """Refuse a number format that the device does not have at all.

    Raises:
        DeviceError: Then.
    """
    import torch

    if device != "mps" or precision is not Precision.BF16:
        return
    if not torch.backends.mps.is_macos_or_newer(14, 0):
        raise DeviceError(
            "macOS 14 or newer for --precision bf16 on mps",
            found=f"macOS {platform.mac_ver()[0] or 'of an unknown version'}",
            hint="--precision fp32 or fp16, or --device cpu",
        )


def _choose_device(name: str) -> tuple[str, str]:
    """The device, and a note where it is not the one of that name."""
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    auto = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if name == "auto":
        return auto, ""
    kind, colon, number = name.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}.get(kind, 0)
    if count and not colon or number.isdecimal() and int(number) < count:
        return name, ""
    if name == "cuda" or re.fullmatch(r"cuda:\d+", name):
        count = torch.cuda.device_count()
        found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
        return auto, f"--device {name}: this machine has {found}; using {auto} instead"
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    raise DeviceError(
        f"the device '{name}' of --device",
        found=f"this machine has {', '.join(there + ['mps'] * has_mps)}",
        hint="--device auto",
    )


def multiplies_bf16(device: str) -> tuple[bool, str]:
    """Whether the device multiplies bf16 natively, asked of the hardware, and how that is known."""
    import torch

    if device.startswith("cuda"):
        native = torch.cuda.get_device_capability(device)[0] >= 8
        name = torch.cuda.get_device_name(device)
        return native, f"{name} {'multiplies' if native else 'does not multiply'} bf16 natively"
    if device == "cpu":
        features = cpu_features()
        for feature, name in (
            ("amx_bf16", "AMX"),
            ("avx512_bf16", "AVX512-BF16"),
            ("arm_bf16", "Arm bf16"),
        ):
            if features.get(feature):
                return True, f"this CPU multiplies bf16 natively ({name})"
        return False, "this CPU does not multiply bf16 natively"
    return False, f"bf16 is not known to be faster on {device}"


def cpu_features() -> Mapping[str, bool]:
    """Return which instruction sets this CPU has, by torch's names for them."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    # Before torch 2.12 only x86 can be asked, and by this name. On Arm the answer is fp32.
    return {"avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported())}


def use_threads(count: int | None) -> int:
    """Sets how many threads compute on the CPU, where a number is given; returns how many do."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Inside it, numpy and scipy do their linear algebra on one thread.

    Of small matrices, threads wait for each other longer than they compute; and as they wait
    spinning, a program that takes one of the cores makes it many times as long.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Inside it, torch computes on one thread, in the whole process; for steps of milliseconds.

    Threads that wait spinning for each other cost such steps many times what they bring as soon as
    another program takes one of the cores.
    """
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def default_workers() -> int:
    """Threads that read and decode images: one for each core this process may use, at most 16."""
    return min(16, available_cores())


def keep_freed_memory() -> None:
    """Keeps what is freed for the next batch, where the C library can be told so (glibc).

    By default every large tensor is fresh memory, which the system first fills with zeros page by
    page: for Swin-T in bf16 more than a quarter of the time. For a process that is ours alone.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for limit in (_KEPT_BYTES, 32 * 1024**2):  # older ones refuse the first
        if mallopt(_M_MMAP_THRESHOLD, limit):
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            return


def free_memory() -> int:
    """Bytes of memory that are free now; within a container (cgroup v2) those that it is left."""
    group = Path("/sys/fs/cgroup")
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(available.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        limit, used = (
            int((group / name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        found.append(max(0, limit - used))
    if not found and hasattr(os, "sysconf"):  # nobody says: half of all there is
        with suppress(OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(found, default=2 * 1024**3)


def give_back_memory() -> None:
    """Gives the system all freed memory back, for a moment that needs much of it (glibc)."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another C library
        return


def fixed_batch_size(device: str) -> int:
    """Images that go through a network together wherever two computations have to agree to the bit.

    With another number a network rounds otherwise. On a CPU larger ones are no faster.
    """
    return {"cpu": 16, "cuda": 128}.get(device.partition(":")[0], 32)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> torch.Generator:
    """Seeds torch's global generator (dropout, drop path, new weights) and returns it."""
    import torch

    return torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """Versions of everything that can change an answer."""
    found = {"swinclf": _package_version("swinclf"), "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "pillow", "safetensors", "numpy"):
        found[name] = _package_version(name)
    return found


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def import_onnx_extra(*names: str) -> list[Any]:
    """The modules of the optional extra `onnx`, in the order of their names.

    Args:
        names: The modules.

    Raises:
        ExportError: If one of them is not installed.
    """
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise ExportError(
            "the optional extra 'onnx' for ONNX files",
            found=f"not installed ({error})",
            hint="pip install 'swinclf[onnx]'",
        ) from error


def command_line(words: Sequence[str]) -> str:
    """Return words as a command to type into the system's own shell."""
    if not _IS_WINDOWS:
        return shlex.join(words)
    # cmd.exe and PowerShell both take double quotes; single ones are letters to cmd.exe
    plain = re.compile(r"[\w@+=:,./\\-]+")
    doubled = (word.replace('"', '""') for word in words)
    return " ".join(word if plain.fullmatch(word) else f'"{word}"' for word in doubled)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is one of torch's many ways to say that memory ran out."""
    said = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


@contextmanager
def out_of_memory_named(batch_size: int) -> Iterator[None]:
    """Turns all the ways in which torch runs out of memory into one error.

    Args:
        batch_size: The batch size in use, named in the error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        text = str(error)
        first_line = text.splitlines()[0] if text else type(error).__name__
        raise DeviceError(
            f"memory on the device for a batch of {batch_size} images",
            found=f"it ran out ({first_line[:160]})",
            hint=f"--batch-size {max(1, batch_size // 2)}, a smaller --img-size or --model",
        ) from error


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM, which ends what is being done.

    Work that has something to save does so `patiently`: the flag is then only set, and the work
    looks at it between two steps, saves and leaves. Any other work is left at once, by an
    `Interrupted` out of nowhere. A second signal ends the process, whatever it is doing.

    Outside the main thread no handler can be installed, and none is.
    """

    def __init__(self) -> None:
        self.exit_code: ExitCode | None = None
        self._is_patient = False

    def __bool__(self) -> bool:
        """Whether the work should stop."""
        return self.exit_code is not None

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Work that looks at the flag itself.

        Raises:
            Interrupted: At its end, if it has not obeyed a signal by itself.
        """
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False
        if self.exit_code is not None:
            raise Interrupted(self.exit_code)

    @contextmanager
    def listening(self) -> Iterator[StopFlag]:
        """Listens for signals inside the `with` block and puts the old handlers back after it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in previous:
            signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        if self:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
        self.exit_code = code
        if not self._is_patient:
            raise Interrupted(code)


@contextmanager
def termination_raised() -> Iterator[None]:
    """SIGTERM inside the `with` block is an exception, as Ctrl-C is, and not a sudden death.

    Raises:
        Interrupted: Then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted(ExitCode.TERMINATED)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
