"""Safe unpickler: an interpreter of pickle opcodes that imports and executes nothing.

A pickle is a program; `pickle` would import and call whatever it names. Here tensors, containers
and NumPy values are rebuilt by functions of this file, from a fixed table, and every object of
another class becomes an inert `Placeholder`.

Source: the opcodes as documented in Python's `pickletools`.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

Loader = Callable[[str, int], Tensor]  # (key of a storage, bytes of it) -> its bytes, uint8


class UnreadablePickleError(Exception):
    """A pickle that is damaged or truncated, or not a pickle."""


@dataclass(frozen=True)
class Reference:
    """The name of a class or function in a pickle, which is never imported."""

    name: str


@dataclass(eq=False)
class Placeholder:
    """An inert object of a class that is not rebuilt, with its arguments and state."""

    name: str
    """Module and class, `yacs.config.CfgNode`."""
    args: tuple[Any, ...] = ()
    state: Any = None
    """The state that the pickle sets, mostly a dict of attributes."""
    entries: dict[Any, Any] = field(default_factory=dict)
    """Items of a dict subclass."""
    elements: list[Any] = field(default_factory=list)
    """Items of a list subclass."""


@dataclass(frozen=True)
class Storage:
    """The memory of tensors: a flat tensor of one type."""

    flat: Tensor


def interpret(stream: IO[bytes], persistent: Callable[[Any], Any]) -> Any:
    """Read one pickle from a stream, up to and including its end.

    Args:
        stream: Positioned at the start of the pickle.
        persistent: Resolves persistent ids, which torch uses to refer to storages.

    Raises:
        UnreadablePickleError: If it is not a pickle, or damaged.
    """
    machine = _Machine(persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UnreadablePickleError(str(error) or type(error).__name__) from error
    except (RecursionError, OverflowError, MemoryError, EOFError, AssertionError) as error:
        raise UnreadablePickleError(type(error).__name__) from error
    raise UnreadablePickleError("it has no end")


def storage_of(persistent_id: Any, load: Loader) -> Storage:
    """Return the storage of one of torch's persistent ids.

    Args:
        persistent_id: ("storage", its class, key, device, number of values, ...).
        load: Reads its bytes.

    Raises:
        ValueError: If the id is not torch's, or the number of bytes is wrong.
    """
    kind, storage_class, key, _, count, *_ = persistent_id
    if kind != "storage" or not isinstance(storage_class, Reference) or type(count) is not int:
        raise ValueError("a persistent id that is not torch's")
    name = storage_class.name.rpartition(".")[2].removesuffix("Storage")
    dtype = _STORAGES.get(name)
    if dtype is None or count < 0:
        raise ValueError(f"a storage of class {storage_class.name}")
    size = count * dtype.itemsize
    raw = load(str(key), size)
    if raw.numel() < size:
        raise ValueError(f"storage {key} has {raw.numel():,} of {size:,} bytes")
    return Storage(raw[:size].view(dtype))


_STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_MARK = object()


class _Machine:
    """State of the interpreter: a stack, and a memo of objects."""

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._persistent = persistent

    def step(self, name: str, argument: Any) -> None:
        """Execute one opcode; those without an effect are ignored."""
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _VALUES:
            self.stack.append(_VALUES[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self._memo[int(argument)])
        elif name not in ("PROTO", "FRAME"):
            method = getattr(self, f"_do_{name.lower()}", None)
            if method is None:
                raise ValueError(f"the opcode {name}")
            method(argument)

    def _marked(self) -> list[Any]:
        """Pop the values above the topmost mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("a mark is missing")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _do_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _do_pop(self, _: Any) -> None:
        self.stack.pop()

    def _do_pop_mark(self, _: Any) -> None:
        self._marked()

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _do_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _do_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _do_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _do_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _do_frozenset(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _do_dict(self, _: Any) -> None:
        pairs = self._marked()
        self.stack.append({})
        _set_items(self.stack[-1], pairs)

    def _do_append(self, _: Any) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _do_appends(self, _: Any) -> None:
        values = self._marked()
        _extend(self.stack[-1], values)

    _do_additems = _do_appends

    def _do_setitem(self, _: Any) -> None:
        pair = self.stack[-2:]
        del self.stack[-2:]
        _set_items(self.stack[-1], pair)

    def _do_setitems(self, _: Any) -> None:
        pairs = self._marked()
        _set_items(self.stack[-1], pairs)

    def _do_global(self, argument: str) -> None:
        self.stack.append(Reference(argument.replace(" ", ".")))

    def _do_stack_global(self, _: Any) -> None:
        module, name = self.stack[-2:]
        self.stack[-2:] = [Reference(f"{module}.{name}")]

    def _do_inst(self, argument: str) -> None:
        self.stack.append(Placeholder(argument.replace(" ", "."), tuple(self._marked())))

    def _do_obj(self, _: Any) -> None:
        made, *args = self._marked()
        self.stack.append(_rebuild(made, tuple(args)))

    def _do_newobj(self, _: Any) -> None:
        made, args = self.stack[-2:]
        self.stack[-2:] = [_rebuild(made, args)]

    _do_reduce = _do_newobj

    def _do_newobj_ex(self, _: Any) -> None:
        made, args, _named = self.stack[-3:]
        self.stack[-3:] = [_rebuild(made, args)]

    def _do_build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].state = state

    def _do_binpersid(self, _: Any) -> None:
        self.stack[-1] = self._persistent(self.stack[-1])

    def _do_persid(self, argument: str) -> None:
        self.stack.append(self._persistent(argument))

    def _do_ext1(self, argument: int) -> None:
        self.stack.append(Reference(f"extension {argument}"))

    _do_ext2 = _do_ext4 = _do_ext1


_CONSTANTS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}


def _set_items(container: Any, pairs: list[Any]) -> None:
    """Put alternating keys and values into a dict or a placeholder of a dict."""
    if isinstance(container, Placeholder):
        container = container.entries
    if isinstance(container, dict):
        container.update(zip(pairs[::2], pairs[1::2], strict=True))


def _extend(container: Any, values: list[Any]) -> None:
    """Append values to a list or a placeholder of a list."""
    if isinstance(container, Placeholder):
        container = container.elements
    if isinstance(container, list):
        container.extend(values)


def _rebuild(made: Any, args: Any) -> Any:
    """Return the result of a call in a pickle: by the table of this file, or inert."""
    name = made.name if isinstance(made, Reference) else "an object"
    args = args if isinstance(args, tuple) else ()
    rebuild = _REBUILDERS.get(name)
    if rebuild is not None:
        try:
            return rebuild(*args)
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError, RuntimeError):
            return Placeholder(name, args)
    return Placeholder(name, args)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a tensor over a part of a storage; torch checks the bounds."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    numbers = (*size, *stride, offset)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("sizes that are not counts")
    return torch.as_strided(storage.flat, tuple(size), tuple(stride), offset)


def _parameter(value: Any, *_: Any) -> Any:
    return value


def _of_type(function: Any, _type: Any, args: Any, *_: Any) -> Any:
    """Return a tensor of a subclass as a plain tensor."""
    return _rebuild(function, args)


def _ordered_dict(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    return {key: value for key, value in pairs}  # noqa: C416 - pairs may be lists


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _listed(values: Any = (), *_: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else []


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Return bytes encoded as in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(encoding)
    return text.encode("latin1")


def _reconstructed(made: Any, _base: Any = None, state: Any = None) -> Placeholder:
    """Return an object as encoded in protocols 0 and 1."""
    name = made.name if isinstance(made, Reference) else "an object"
    placeholder = Placeholder(name)
    if isinstance(state, dict):
        placeholder.entries = state
    return placeholder


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """Convert a NumPy scalar to a Python number."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, numpy_type(dtype))[0].item()


def numpy_type(dtype: Any) -> np.dtype[Any]:
    """Return the plain numeric type of a pickled `numpy.dtype`.

    Raises:
        ValueError: If it is not numeric.
    """
    code = dtype.args[0] if isinstance(dtype, Placeholder) and dtype.args else None
    if not isinstance(code, str) or not re.fullmatch(r"[fiub][1248]", code):
        raise ValueError("an array that is not numeric")
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype((">" if order == ">" else "<") + code)


def array_of(placeholder: Placeholder) -> np.ndarray | None:
    """Return the numeric NumPy array of a placeholder, or None if it is not one."""
    state = placeholder.state
    is_array = placeholder.name.endswith("multiarray._reconstruct")
    if not is_array or not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, dtype, is_fortran, raw = state
    try:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, numpy_type(dtype))
        array = flat.reshape(tuple(shape), order="F" if is_fortran else "C")
        return np.array(array, dtype=array.dtype.newbyteorder("="))
    except (ValueError, TypeError, AttributeError):
        return None


_REBUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "builtins.set": _listed,
    "__builtin__.set": _listed,
    "builtins.frozenset": _listed,
    "builtins.list": _listed,
    "torch.Size": _listed,
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
