"""Training with torch.compile, and whether this machine has a compiler for it."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from swinclf.errors import DeviceError

BACKEND = "inductor"


def compile_network(network: nn.Module) -> None:
    """Compile a network in-place, at the first call with each input size; parameter names stay.

    A part that torch's compiler cannot translate runs as it is.
    """
    _ignore_slow_guards()
    torch._dynamo.config.suppress_errors = True
    # So that this holds for the backward pass, too: it is compiled with the forward pass.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    network.compile(backend=BACKEND, dynamic=False)


def require_compiler(device: str) -> None:
    """Check that torch.compile works here.

    Raises:
        DeviceError: If torch.compile finds no compiler.
    """
    if reason := why_no_compiler(device):
        raise DeviceError(
            f"a compiler that torch.compile can use on {device}, for --compile on",
            found=reason,
            hint="--compile off; or install one: g++ for a CPU, triton for an NVIDIA GPU",
        )


def why_no_compiler(device: str) -> str:
    """Return why torch.compile cannot compile a trivial function here; empty if it can."""
    _ignore_slow_guards()
    try:
        with torch._dynamo.config.patch(suppress_errors=False):
            torch.compile(_double, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # each backend raises its own types
        reasons = [line for line in str(error).splitlines() if line and "backend=" not in line]
        return (reasons or [type(error).__name__])[0][:200]
    return ""


def _ignore_slow_guards() -> None:
    """Ignore the warning of torch's compiler that compiled code starts slower on Python 3.13.0.

    It is raised with the first batch, not here, so that the filter has to outlast this call.
    """
    message = r"Guards may run slower on Python 3\.13\.0"
    warnings.filterwarnings("ignore", message, RuntimeWarning)


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
