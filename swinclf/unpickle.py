r"""Safe unpickler: an interpreter of pickle opcodes that imports and executes nothing.

A pickle is a program; `pickle` would import and call whatever it names. Here tensors, containers
and NumPy values are rebuilt by functions of this file, from a fixed table, and every object of
another class becomes an inert `Placeholder`. A `pickle.Unpickler` that imports nothing does not
replace it: it allocates what a file asks for. This one of nine bytes takes 1.5 GB:
`python -c 'import pickle; pickle.loads(b"\x80\x02Nr\x00\xe1\xf5\x05.")'`.
`torch.load(weights_only=True)` reads protocol 2 only, and refuses files with other classes.

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

    name: str  # module and class, `yacs.config.CfgNode`
    args: tuple[Any, ...] = ()
    state: Any = None  # the state that the pickle sets, mostly a dict of attributes
    entries: dict[Any, Any] = field(default_factory=dict)  # items of a dict subclass
    elements: list[Any] = field(default_factory=list)  # items of a list subclass


@dataclass(frozen=True)
class Storage:
    """The memory of tensors: a flat tensor of one type."""

    flat: Tensor


def interpret(stream: IO[bytes], persistent: Callable[[Any], Any]) -> Any:
    """Read one pickle from a stream, up to and including its end.

    `persistent` resolves persistent ids, which torch uses to refer to storages.

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
    """Return the storage of a persistent id; ValueError if it is not torch's, or damaged.

    The id is ("storage", its class, key, device, number of values, ...).
    """
    kind, storage_class, key, _, count, *_ = persistent_id
    kinds = (type(storage_class), type(key), type(count))
    if kind != "storage" or kinds != (Reference, str, int):
        raise ValueError("a persistent id that is not torch's")
    name = storage_class.name.rpartition(".")[2].removesuffix("Storage")
    dtype = _STORAGES.get(name)
    if dtype is None or count < 0:
        raise ValueError(f"a storage of class {storage_class.name}")
    size = count * dtype.itemsize
    raw = load(key, size)
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
_KEYS = (str, bytes, int, float, type(None), Reference)  # types of keys of a dict


class _Machine:
    """State of the interpreter: a stack, and a memo of objects."""

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._persistent = persistent

    def step(self, name: str, argument: Any) -> None:
        """Execute one opcode; those without an effect are ignored."""
        stack = self.stack
        match name:
            case _ if name in _CONSTANTS:
                stack.append(argument)
            case _ if name in _VALUES:
                stack.append(_VALUES[name]())
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self._memo[int(argument)])
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "LIST":
                stack.append(self._marked())
            case "DICT":
                stack.append(_with_items({}, self._marked()))
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                _extend(stack[-1], values)
            case "SETITEM":
                pair = stack[-2:]
                del stack[-2:]
                _with_items(stack[-1], pair)
            case "SETITEMS":
                pairs = self._marked()
                _with_items(stack[-1], pairs)
            case "PROTO" | "FRAME":
                pass
            case _:
                self._make_object(name, argument)

    def _make_object(self, name: str, argument: Any) -> None:
        """Execute an opcode that names, calls or changes something of Python."""
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(Reference(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                module, named = stack[-2:]
                if not isinstance(module, str) or not isinstance(named, str):
                    raise ValueError("a name that is no text")
                stack[-2:] = [Reference(f"{module}.{named}")]
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Reference(f"extension {argument}"))
            case "INST":
                stack.append(Placeholder(argument.replace(" ", "."), tuple(self._marked())))
            case "OBJ":
                made, *args = self._marked()
                stack.append(_rebuild(made, tuple(args)))
            case "NEWOBJ" | "REDUCE":
                made, args = stack[-2:]
                stack[-2:] = [_rebuild(made, args)]
            case "NEWOBJ_EX":
                made, args, _named = stack[-3:]
                stack[-3:] = [_rebuild(made, args)]
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Placeholder):
                    stack[-1].state = state
            case "BINPERSID":
                stack[-1] = self._persistent(stack[-1])
            case "PERSID":
                stack.append(self._persistent(argument))
            case _:
                raise ValueError(f"the opcode {name}")

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


def _with_items(container: Any, pairs: list[Any]) -> Any:
    """Put alternating keys and values into a dict or a placeholder of a dict; return it.

    Leaves out keys of other types: the time to hash nested tuples may double with each byte.
    """
    items = container.entries if isinstance(container, Placeholder) else container
    if isinstance(items, dict):
        entries = zip(pairs[::2], pairs[1::2], strict=True)
        items.update((key, value) for key, value in entries if isinstance(key, _KEYS))
    return container


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


def _of_type(function: Any, _type: Any, args: Any, *_: Any) -> Any:
    """Return a tensor of a subclass as a plain tensor."""
    return _rebuild(function, args)


def _ordered_dict(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    return {key: value for key, value in pairs if isinstance(key, _KEYS)}


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
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, numpy_type(dtype))[0].item()


def numpy_type(dtype: Any) -> np.dtype[Any]:
    """Return the plain numeric type of a pickled `numpy.dtype`; ValueError if it is not numeric."""
    code = dtype.args[0] if isinstance(dtype, Placeholder) and dtype.args else None
    if not isinstance(code, str) or not re.fullmatch(r"[fiub][1248]", code):
        raise ValueError("an array that is not numeric")
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype((">" if order == ">" else "<") + code)


def array_of(placeholder: Placeholder) -> np.ndarray | None:
    """Return the numeric NumPy array of a placeholder, or None if it is not one."""
    order: Any
    axes: Any = None
    try:
        if placeholder.name.endswith("multiarray._reconstruct"):
            _, shape, dtype, is_fortran, raw = placeholder.state
            order = "F" if is_fortran else "C"
        elif placeholder.name.endswith("numeric._frombuffer"):  # in protocol 5
            raw, dtype, shape, order, *more = placeholder.args
            axes = more[0] if more and order == "K" else None  # the order of axes in memory
        else:
            return None
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, numpy_type(dtype))
        array = flat.reshape(shape, order=order if axes is None else "C")
        array = array if axes is None else array.transpose(axes)
        return np.array(array, dtype=array.dtype.newbyteorder("="))
    except (ValueError, TypeError, AttributeError):
        return None


_REBUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
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
    "torch._utils._rebuild_parameter": lambda value, *_: value,
    "torch._utils._rebuild_parameter_with_state": lambda value, *_: value,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
