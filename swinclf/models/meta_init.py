"""Construction of networks without initialising weights that a file will replace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Create parameters of new modules in this thread on the meta device, without content.

    Initialising 28 million numbers, a Swin-T, takes longer than reading them. Buffers are created
    as usual. Load every parameter with `load_state_dict(..., assign=True)`.
    """
    here = threading.get_ident()

    def without_content(_: nn.Module, __: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != here:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch annotates the hook's result as None; its documentation and its code take a parameter.
    handle = register_module_parameter_registration_hook(without_content)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
