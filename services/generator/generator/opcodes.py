"""Tensors that a pickle of torch's describes, found by following its opcodes.

A pickle is a program: `pickle.load` calls whatever it names. Here its opcodes are only followed, on
plain values; the few names of torch's own that build tensors are recognised, and anything else is
refused.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from common.errors import ModelRefused
from generator.reasons import refuse
from generator.weights import MAX_ELEMENTS, MAX_TENSORS
from models.dtypes import STORED_BYTES

# Opcodes: about 25 per tensor.
MAX_OPCODES = 2_000_000
MAX_DIMENSIONS = 16
# The dtypes (safetensors' names) of the storages that torch pickles by name.
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
HELP = "a copy saved with save_pretrained() of today, which writes safetensors"
NEVER_RUN = "which could be anyone's code and is never run"


@dataclass(frozen=True)
class Storage:
    dtype: str
    key: str
    numel: int

    @property
    def bytes(self) -> int:
        return self.numel * STORED_BYTES[self.dtype]


@dataclass(frozen=True)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """The value that MARK pushes."""


@dataclass(frozen=True)
class _Name:
    """A name of torch's own that a pickle may have: a function, or a storage's class."""

    name: str


NAMES = {
    "collections OrderedDict": _Name("OrderedDict"),
    "torch._utils _rebuild_tensor": _Name("tensor"),
    "torch._utils _rebuild_tensor_v2": _Name("tensor"),
    "torch._utils _rebuild_parameter": _Name("parameter"),
    **{f"torch {name}": _Name(name) for name in STORAGES},
}


def follow(pickle: BinaryIO) -> Any:
    """Follow a pickle's opcodes up to its end, and return the value that it describes."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
            if count > MAX_OPCODES:
                raise broken(f"it has more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                break
            _step(opcode.name, argument, stack, memo)
        (found,) = stack
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OverflowError):
        raise broken("its pickle cannot be read") from None
    return found


def tensors_of(pickle: BinaryIO) -> dict[str, Tensor]:
    """Follow a pickle's opcodes; return its tensors by name."""
    found = follow(pickle)
    if not isinstance(found, dict) or not found or len(found) > MAX_TENSORS:
        raise _foreign("it is not a dict of tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _foreign("it has more than tensors")
        if not name.isascii():  # it may even be half a character, which no JSON can hold
            raise broken("a tensor's name has characters beyond ASCII")
    return found


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in CONSTANTS:
        stack.append(CONSTANTS[name]())
    elif name in VALUES:
        stack.append(argument)
    elif name in ("PROTO", "FRAME"):
        pass
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "GLOBAL":
        if argument not in NAMES:
            raise _foreign("it names a function that builds no tensor")
        stack.append(NAMES[argument])
    elif name in OPERATIONS:
        OPERATIONS[name](stack)
    else:
        raise _foreign("it has an opcode that torch.save does not write")


def _pop_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while not isinstance(item := stack.pop(), _Mark):
        items.append(item)
    return items[::-1]


def _tuple(size: int | None) -> Callable[[list[Any]], None]:
    def build(stack: list[Any]) -> None:
        items = _pop_mark(stack) if size is None else [stack.pop() for _ in range(size)][::-1]
        stack.append(tuple(items))

    return build


def _append(stack: list[Any]) -> None:
    _extend(stack, [stack.pop()])


def _extend(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is not list:
        raise _foreign("it has more than tensors")
    stack[-1].extend(items)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _fill(stack[-1], [key, value])


def _set_items(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    _fill(stack[-1], items)


def _fill(target: Any, items: list[Any]) -> None:
    if type(target) is not dict:
        raise _foreign("it has more than tensors")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, int)):
            raise _foreign("it has more than tensors")
        target[key] = value


def _build(stack: list[Any]) -> None:
    """Drop the state of a dict: torch keeps the versions of a module's parts there."""
    stack.pop()
    if type(stack[-1]) is not dict:
        raise _foreign("it has more than tensors")


def _storage(stack: list[Any]) -> None:
    # torch's first format has a sixth field, for parts of other storages; it is None.
    kind, name, key, _, numel, *part = stack.pop()
    dtype = STORAGES.get(name.name if isinstance(name, _Name) else "")
    is_plain = kind == "storage" and part in ([], [None])
    if not is_plain or dtype is None or type(key) is not str or not _is_size(numel):
        raise _foreign("it has a storage that torch does not write")
    stack.append(Storage(dtype, key, numel))


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    called = function.name if isinstance(function, _Name) else ""
    if called == "OrderedDict" and arguments == ():
        stack.append({})
    elif called == "OrderedDict":  # as Python 2 writes it: a list of its items
        (items,) = arguments
        stack.append({})
        _fill(stack[-1], [part for key, value in items for part in (key, value)])
    elif called == "parameter" and isinstance(arguments[0], Tensor):
        stack.append(arguments[0])
    elif called == "tensor":
        storage, offset, shape, stride, *_ = arguments
        sizes = (offset, *shape, *stride)
        if (
            not isinstance(storage, Storage)
            or not all(map(_is_size, sizes))
            or not len(shape) == len(stride) <= MAX_DIMENSIONS
        ):
            raise broken("it has a tensor that torch does not write")
        stack.append(Tensor(storage, offset, tuple(shape), tuple(stride)))
    else:
        raise _foreign("it calls what builds no tensor")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ELEMENTS


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "MARK": _Mark,
}
VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING")
)
OPERATIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _tuple(None),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _append,
    "APPENDS": lambda stack: _extend(stack, _pop_mark(stack)),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "BUILD": _build,
    "BINPERSID": _storage,
    "REDUCE": _reduce,
}


def _foreign(why: str) -> ModelRefused:
    return refuse(
        f"the model has pickled weights only, and a file does more than hold tensors ({why}), "
        f"{NEVER_RUN}",
        "pickle-only",
        HELP,
    )


def broken(why: str) -> ModelRefused:
    return refuse(
        f"the model has pickled weights only, and a file of them cannot be read: {why}",
        "pickle-only",
        HELP,
    )
