"""--compile: a network made into one program for this machine by torch.compile, if it can be."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from swinclf.errors import DeviceError

BACKEND = "inductor"


def compile_network(network: nn.Module) -> None:
    """Has a network's calls compiled, at the first call of each size; names and weights stay."""
    _ignore_slow_guards()
    network.compile(backend=BACKEND, dynamic=False)


def require_compiler(device: str) -> None:
    """Compiles next to nothing: better known now than after minutes of reading images.

    Raises:
        DeviceError: If this machine has no compiler that torch.compile can use.
    """
    _ignore_slow_guards()
    try:
        torch.compile(_double, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # each backend raises its own kinds
        reasons = [line for line in str(error).splitlines() if line and "backend=" not in line]
        raise DeviceError(
            f"a compiler that torch.compile can use on {device}, for --compile",
            found=(reasons or [type(error).__name__])[0][:200],
            hint="--no-compile; or install one: g++ for a CPU, triton for an NVIDIA GPU",
        ) from error


def _ignore_slow_guards() -> None:
    """Ignore one warning of torch's compiler, which comes whenever it compiles on Python 3.13.0.

    It advises Python 3.13.1, with which compiled code is entered a little faster; the result is the
    same. It comes with the first batch, not here, so that the filter has to outlast this call.
    """
    message = r"Guards may run slower on Python 3\.13\.0"
    warnings.filterwarnings("ignore", message, RuntimeWarning)


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
