"""The machine: device, precision, threads, memory, signals and versions.

Imports torch inside functions only, so that importing this module is fast.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from swinclf.errors import ConfigError, DeviceError, ExitCode, ExportError, Interrupted

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names in malloc.h
_RETAINED_BYTES = 1024**3
_REPEAT_S = 5.0  # within which torchrun passes on a signal that its processes may have got, too


class Precision(StrEnum):
    """The number format of a network's computation."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


# Instruction sets that multiply a number format, by torch's names.
_CPU_FEATURES = {
    Precision.BF16: {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "arm_bf16": "Arm bf16"},
    Precision.FP16: {"amx_fp16": "AMX", "avx512_fp16": "AVX512-FP16"},
}


@dataclass(frozen=True)
class Hardware:
    """The device and precision that networks are computed with."""

    device: str  # a torch device name: cpu, cuda, cuda:N or mps
    precision: Precision  # fp32, bf16 or fp16, never auto
    reason: str  # why this precision, a few words
    # a remark for the user, such as that the requested device is missing; may be empty
    note: str = ""


def choose_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Choose device and precision.

    A CUDA device that this machine lacks is replaced by `auto`, with a note: the same command is
    used on several machines.

    The device is auto (the first available of cuda, mps, cpu), cpu, cuda, cuda:N or mps; the
    precision auto (bf16 if the hardware multiplies it natively), fp32, bf16 or fp16.

    Raises:
        DeviceError: If the machine lacks the device, or the device the precision.
    """
    chosen, note = _choose_device(device)
    if precision != Precision.AUTO:
        require_precision(chosen, Precision(precision))
        return Hardware(chosen, Precision(precision), "as requested", note)
    native, reason = multiplies_natively(chosen, Precision.BF16)
    return Hardware(chosen, Precision.BF16 if native else Precision.FP32, reason, note)


def require_precision(device: str, precision: Precision) -> None:
    """Check that the device supports a number format.

    Raises:
        DeviceError: If it does not.
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
    """Return the device, and a note if it is not the one of that name."""
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    auto = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if name == "auto":
        return auto, ""
    kind, colon, number = name.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}.get(kind, 0)
    if count and not colon or number.isdecimal() and int(number) < count:
        return name if kind == "cuda" else kind, ""  # others have one device
    if name == "cuda" or re.fullmatch(r"cuda:\d+", name):
        count = torch.cuda.device_count()
        found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
        return auto, f"--device {name}: this machine has {found}; using {auto} instead"
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", name):
        raise ConfigError(
            "auto, cpu, cuda, cuda:N or mps for --device", found=repr(name), hint="--device auto"
        )
    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    raise DeviceError(
        f"the device '{name}' of --device",
        found=f"this machine has {', '.join(available + ['mps'] * has_mps)}",
        hint="--device auto",
    )


def multiplies_natively(device: str, precision: Precision) -> tuple[bool, str]:
    """Return whether the device multiplies bf16 or fp16 natively, and the reason in words."""
    import torch

    if device.startswith("cuda"):
        least = 8 if precision is Precision.BF16 else 7
        native = torch.cuda.get_device_capability(device)[0] >= least
        does = "multiplies" if native else "does not multiply"
        return native, f"{torch.cuda.get_device_name(device)} {does} {precision} natively"
    if device == "cpu":
        features = cpu_features()
        for feature, name in _CPU_FEATURES[precision].items():
            if features.get(feature):
                return True, f"this CPU multiplies {precision} natively ({name})"
        return False, f"this CPU does not multiply {precision} natively"
    if precision is Precision.FP16:
        return True, f"{device} multiplies fp16 natively"
    return False, f"bf16 is not known to be faster on {device}"


def cpu_features() -> Mapping[str, bool]:
    """Return which instruction sets this CPU has, by torch's names for them."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    # Before torch 2.12 only x86 can be queried, by this name. Arm uses fp32 there.
    return {"avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported())}


def set_threads(count: int | None) -> int:
    """Set the number of CPU threads of torch unless it is None; return the number in use.

    Both are those of all processes of this machine together, so that a run has the same setting
    with any number of processes.
    """
    import torch

    if count is not None:
        torch.set_num_threads(max(1, count // local_processes()))
    return torch.get_num_threads() * local_processes()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit the linear algebra of numpy and scipy to one thread inside the `with` block.

    With small matrices threads wait for each other longer than they compute, and as they spin, a
    program that takes one of the cores slows them down many times.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute on `count` threads inside the `with` block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_workers() -> int:
    """Return the number of threads that decode images: one a core, at most 16."""
    return min(16, available_cores())


def retain_freed_memory() -> None:
    """Make the C library (glibc) retain freed memory for the next batch.

    By default every large tensor is new memory, which the system clears page by page: for Swin-T in
    bf16 more than a quarter of the time. Affects the whole process.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for limit in (_RETAINED_BYTES, 32 * 1024**2):  # older versions refuse the first
        if mallopt(_M_MMAP_THRESHOLD, limit):
            mallopt(_M_TRIM_THRESHOLD, _RETAINED_BYTES)
            return


def free_memory() -> int:
    """Return the bytes of free memory, within the limit of a container (cgroup v2)."""
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
        statistics = (group / "memory.stat").read_text(encoding="ascii")
        # Freed as soon as a process needs memory, like the page cache in MemAvailable.
        cached = re.findall(r"^(?:in)?active_file (\d+)$", statistics, re.MULTILINE)
        found.append(max(0, limit - used + sum(map(int, cached))))
    if not found and hasattr(os, "sysconf"):  # unknown: half of the physical memory
        with suppress(OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(found, default=2 * 1024**3)


def trim_heap() -> None:
    """Return all freed memory to the system (glibc), before an allocation of much memory."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another C library
        return


def fixed_batch_size(device: str) -> int:
    """Return the batch size of computations whose results have to agree bit for bit.

    The rounding of a network depends on the batch size. On a CPU larger ones are no faster.
    """
    return {"cpu": 16, "cuda": 128}.get(device.partition(":")[0], 32)


def available_cores() -> int:
    """Return the number of cores this process may use, its share of those of the machine."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // local_processes())


def local_processes() -> int:
    """Return how many processes torchrun has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_under_torchrun() else 1


def is_under_torchrun() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def versions() -> dict[str, str]:
    """Return the versions of all packages that can change a prediction."""
    found = {"swinclf": _package_version("swinclf"), "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "pillow", "safetensors", "numpy"):
        found[name] = _package_version(name)
    return found


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def import_extra(extra: str, *names: str) -> list[Any]:
    """Import modules of an optional extra, such as onnx; return them in the given order.

    Raises:
        ExportError: If one of them is not installed.
    """
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise ExportError(
            f"the optional extra '{extra}'",
            found=f"not installed ({error})",
            hint=f"pip install 'swinclf[{extra}]'",
        ) from error


def import_openvino() -> Any:
    """Import the optional extra `openvino` without its telemetry.

    Its import sends a message over the network; without that package it uses a stub of its own.

    Raises:
        ExportError: If it is not installed.
    """
    modules: dict[str, Any] = sys.modules
    name = "openvino_telemetry"
    before = modules.get(name)
    modules[name] = None
    try:
        return import_extra("openvino", "openvino")[0]
    finally:
        del modules[name]
        if before is not None:
            modules[name] = before


class StopFlag:
    """A flag that the first Ctrl-C or SIGTERM sets, which stops the work.

    Work that has something to save runs in `deferring_signals`: the signal only sets the flag, and
    the work checks it between two steps, saves and ends. Elsewhere the signal raises `Interrupted`
    immediately. A second signal ends the process if `ENDS_PROCESS`, else raises `Interrupted`.

    Outside the main thread signals are not handled, nor those that Python itself does not handle.
    """

    ENDS_PROCESS: ClassVar[bool] = False  # set by the program; a notebook is not ended

    def __init__(self) -> None:
        self.exit_code: ExitCode | None = None
        self._is_deferring = False
        self._signalled_at = 0.0

    def __bool__(self) -> bool:
        """Whether the work should stop."""
        return self.exit_code is not None

    def check(self) -> None:
        """Raise `Interrupted` if the work should stop."""
        if self.exit_code is not None:
            raise Interrupted(self.exit_code)

    @contextmanager
    def deferring_signals(self) -> Iterator[None]:
        """Only set the flag on a signal inside the `with` block, which checks it.

        Raises:
            Interrupted: At the end of the block, if the flag is set.
        """
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False
        self.check()

    @contextmanager
    def handling_signals(self) -> Iterator[StopFlag]:
        """Handle signals inside the `with` block; restore the old handlers after it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        handlers = {number: signal.getsignal(number) for number in numbers}
        # None is of a program in another language that Python is embedded in.
        previous = {number: one for number, one in handlers.items() if one is not None}
        for number in previous:
            signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        if self and is_under_torchrun() and time.monotonic() - self._signalled_at < _REPEAT_S:
            return
        if self and self.ENDS_PROCESS:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
        is_second = bool(self)
        self.exit_code, self._signalled_at = code, time.monotonic()
        if is_second or not self._is_deferring:
            raise Interrupted(code)
