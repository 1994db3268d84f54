"""A stand-in for Apple's MPS device on a machine without one, as strict as the device.

A tensor "on the device" is a wrapper around a CPU tensor. It reports the device mps:0; what is
computed with it is computed by the CPU, but refused as MPS refuses it: float64 and complex numbers,
operators without an MPS kernel, operands on another device, `numpy()`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # modes load it, and it looks at the functions that are replaced below
import torchgen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

MPS = torch.device("mps", 0)
# Operators that may take indices, a mask or a source from the host.
CROSSING = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
# Shapes and the like, which no device computes; they stand in no table of kernels.
WITHOUT_KERNEL = {"detach", "alias", "lift_fresh"}
COMPOSITE = ("CompositeExplicitAutograd", "CompositeImplicitAutograd", "MPS")


@cache
def operators_of_mps() -> frozenset[str]:
    """The operators of aten with a kernel for MPS, as this PyTorch's own table of kernels says."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found, delegates = set[str](), dict[str, str]()
    name, has_dispatch = "", True
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.strip().removeprefix("- ").partition(":")
        if line.startswith("- func:"):
            if not has_dispatch:  # without a table an operator is made of others
                found.add(name)
            name, has_dispatch = value.split("(")[0].strip(), False
        elif key == "structured_delegate":
            delegates[name], has_dispatch = value.split("#")[0].strip(), True
        elif key == "dispatch":
            has_dispatch = True
        elif any(backend.strip().startswith(COMPOSITE) for backend in key.split(",")):
            found.add(name)
    found |= {name for name, out in delegates.items() if out in found}
    return frozenset(found)


class OnDevice(torch.Tensor):
    """A tensor on the device."""

    device, is_meta, is_mps, is_cpu = MPS, False, True, False  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl
    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        # To PyTorch it is a meta tensor: autograd needs no driver for those, and all that is done
        # with it, copying to the host too, comes through `__torch_dispatch__`.
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )
        made.held = held
        return made

    def __repr__(self, **_: object) -> str:
        return f"OnDevice({self.held!r})"

    def numpy(self, *_: object, **__: object) -> Any:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_index_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_index_tensors(index), value)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        return compute(func, args, kwargs or {})


def _index_tensors(index: Any) -> Any:
    """The same index with lists as tensors, which PyTorch would make on the meta device."""
    if isinstance(index, tuple):
        return tuple(map(_index_tensors, index))
    return torch.tensor(list(index)) if isinstance(index, list | range) else index


class DeviceMode(TorchDispatchMode):
    """Brings the calls here that name the device before any tensor is on it."""

    def __torch_dispatch__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Call an operator as the device would, or refuse as it would."""
    values = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
    wrapped = [one for one in values if isinstance(one, OnDevice)]
    wanted = kwargs.get("device")
    kind = None if wanted is None else torch.device(wanted).type
    if not wrapped and kind != "mps":
        return func(*args, **kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with DeviceMode():  # in inference mode it has not been taken apart before
            return func.decompose(*args, **kwargs)
    name, overload = func._schema.name.removeprefix("aten::"), func._overloadname
    lost = [one for one in values if not isinstance(one, OnDevice) and one.is_meta]
    assert not (wrapped and lost), f"{name}: PyTorch made a tensor without data; stand in for that"
    if name not in CROSSING:
        for one in values:
            if one.ndim and not isinstance(one, OnDevice):
                raise RuntimeError(f"{name}: expected all tensors on mps:0, found one on the CPU")
    full = name if overload == "default" else f"{name}.{overload}"
    if full not in operators_of_mps() and name not in WITHOUT_KERNEL:
        raise NotImplementedError(f"'aten::{full}' is not implemented for the MPS device")
    with torch.inference_mode(False):  # in it, views of ordinary tensors must be ordinary ones
        args, kwargs = tree_map(_to_host, (args, kwargs))
        out = func(*args, **kwargs)
        if kind == "cpu" or name == "copy_" and not isinstance(values[0], OnDevice):
            return out
        known = {id(one.held): one for one in wrapped}  # in place: the same tensor comes out
        return tree_map(lambda one: _to_device(one, known), out)


def _to_host(value: object) -> object:
    if isinstance(value, OnDevice):
        return value.held
    is_ours = isinstance(value, torch.device) and value.type in ("mps", "meta")
    return torch.device("cpu") if is_ours else value


def _to_device(value: object, known: Mapping[int, OnDevice]) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.float64 or value.is_complex():
        raise TypeError(f"the MPS framework does not support {value.dtype}")
    return known[id(value)] if id(value) in known else OnDevice(value)


@contextlib.contextmanager
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside it this machine has the device mps, and `auto` takes it."""
    move: Callable[..., torch.Tensor] = torch.Tensor.to
    make: Callable[..., torch.Tensor] = torch.tensor
    run = threading.Thread.run

    def tensor(data: object, device: object = None, **options: object) -> torch.Tensor:
        made = make(data, **options)  # its last step does not pass by `DeviceMode`
        return made if device is None else to(made, device)

    def to(self: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        # PyTorch asks the driver which of its devices "mps" is: there is only one.
        named = [MPS if str(one) == "mps" else one for one in arguments]
        if str(options.get("device")) == "mps":
            options["device"] = MPS
        return move(self, *named, **options)

    move_module: Callable[..., torch.nn.Module] = torch.nn.Module.to

    def to_like(self: torch.nn.Module, *arguments: object, **options: object) -> torch.nn.Module:
        # Of a tensor to be like, PyTorch reads the device below Python: the meta device.
        if arguments and isinstance(arguments[0], OnDevice):
            arguments = (MPS, arguments[0].dtype, *arguments[1:])
        return move_module(self, *arguments, **options)

    def run_in_mode(self: threading.Thread) -> None:
        with DeviceMode():  # a mode is its thread's alone
            run(self)

    def one_hot(targets: torch.Tensor, classes: int) -> torch.Tensor:
        # Of what is a meta tensor to PyTorch, its own asks for a range on the meta device.
        zeros = targets.new_zeros(*targets.shape, classes)
        return zeros.scatter_(-1, targets[..., None], 1)

    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    monkeypatch.setattr(torch.backends.mps, "is_available", cache(lambda: True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.get_rng_state())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: torch.set_rng_state(state))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.nn.Module, "to", to_like)
    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(threading.Thread, "run", run_in_mode)
    with DeviceMode():
        yield
