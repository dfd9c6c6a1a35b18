"""Tensors of a file that torch.save wrote, read without running anything.

A pickle is a program: `pickle.load` calls whatever it names. Here its opcodes are only followed, on
plain values; the few names of torch's own that build tensors are recognised, and anything else is
refused. The file is a zip: its directory is at the end, and `data.pkl`, which describes the
tensors, is small beside their numbers.
"""

import io
import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.errors import ModelRefused
from generator.reasons import refuse
from generator.weights import MAX_ELEMENTS, MAX_TENSORS, Header, outline, parts_of
from models.dtypes import KIB, MIB, STORED_BYTES, is_floating

# The directory's end, with room for zip64's; torch writes no comment after it.
END_BYTES = 98
# Two entries of about 120 bytes per tensor, of as many tensors as one file may have.
MAX_DIRECTORY_BYTES = 8 * MIB
# About 150 bytes per tensor.
MAX_PICKLE_BYTES = 8 * MIB
# Of a local header, with the padding by which torch aligns the entry to 64 bytes.
MAX_LOCAL_BYTES = 4 * KIB
# Opcodes: about 25 per tensor.
MAX_OPCODES = 2_000_000
MAX_DIMENSIONS = 16
# Names that all tensors share on average: T5's embedding, the most of its smallest, has four.
MAX_SHARING = 4
PICKLE = "data.pkl"
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
class Entry:
    """An uncompressed file in the zip: where its local header begins, and its size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Directory:
    """The pickle of a file, and the sizes of its storages by their keys."""

    pickle: Entry
    storages: dict[str, int]


@dataclass(frozen=True)
class Pickled:
    """The tensors of a file as in Header, and the size that they take in safetensors, in bytes."""

    header: Header
    bytes: int


def directory_range(end: bytes, file_size: int) -> tuple[int, int]:
    """Return where a zip's directory begins, and its length; `end` are the file's last bytes."""
    if not end:
        raise _broken("it is empty")
    found = end.rfind(b"PK\5\6")
    if found < 0 or found + 22 != len(end):
        raise refuse(
            "the model has pickled weights only, in a form from before 2020",
            "pickle-only",
            HELP,
        )
    length, begin = struct.unpack_from("<II", end, found + 12)
    if begin == 0xFFFFFFFF or length == 0xFFFFFFFF or end[found + 10 : found + 12] == b"\xff\xff":
        zip64 = end.rfind(b"PK\6\6", 0, found)
        if zip64 < 0 or zip64 + 56 > len(end):
            raise _broken("its directory is incomplete")
        length, begin = struct.unpack_from("<QQ", end, zip64 + 40)
    if length > MAX_DIRECTORY_BYTES:
        raise _broken(f"its directory is longer than {MAX_DIRECTORY_BYTES // MIB} MiB")
    if begin + length > file_size:
        raise _broken("its directory is outside of it")
    return begin, length


def read_directory(content: bytes) -> Directory:
    """Parse a zip's directory. Raises ModelRefused unless it is as torch.save writes it."""
    storages: dict[str, int] = {}
    place, pickle = 0, None
    try:
        while place < len(content):
            entry = struct.unpack_from("<4s4xHH8xIIHHH8xI", content, place)
            signature, flags, method, packed, size, name_size, more, comment, offset = entry
            if signature != b"PK\1\2" or len(storages) > MAX_TENSORS:
                raise _broken("its directory cannot be read")
            begin = place + 46
            name = content[begin : begin + name_size].decode("ascii")
            extra = content[begin + name_size : begin + name_size + more]
            size, packed, offset = _wide(extra, size, packed, offset)
            place = begin + name_size + more + comment
            if method or flags & 1 or size != packed:
                raise _broken("it is compressed or encrypted")
            _, _, inner = name.partition("/")
            if inner == PICKLE:
                if pickle is not None:
                    raise _broken("it has two pickles")
                pickle = Entry(offset, size)
            elif inner.startswith("data/"):
                storages[inner.removeprefix("data/")] = size
    except (struct.error, UnicodeDecodeError):
        raise _broken("its directory cannot be read") from None
    if pickle is None or pickle.size > MAX_PICKLE_BYTES:
        raise _broken(f"it has no {PICKLE} of at most {MAX_PICKLE_BYTES // MIB} MiB")
    return Directory(pickle, storages)


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the fields that are too large for 32 bits by those of the zip64 field."""
    values = [size, packed, offset]
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            at = place + 4
            for number, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    (values[number],) = struct.unpack_from("<Q", extra, at)
                    at += 8
            break
        place += 4 + length
    return values[0], values[1], values[2]


def read_pickle(content: bytes, storages: dict[str, int], pickle_size: int) -> Pickled:
    """Read the tensors that a file's pickle describes.

    Args:
        content: from the pickle's local header on.
        storages: the sizes in bytes of the file's storages, by their keys.
        pickle_size: in bytes.

    Raises:
        ModelRefused: it is anything else than a dict of tensors, or does not fit its storages.
    """
    try:
        signature, name_size, extra_size = struct.unpack_from("<4s22xHH", content)
    except struct.error:
        raise _broken("it ends too early") from None
    begin = 30 + name_size + extra_size
    pickle = content[begin : begin + pickle_size]
    if signature != b"PK\3\4" or len(pickle) != pickle_size:
        raise _broken("its pickle is not where its directory says")
    tensors = _tensors(pickle)
    for tensor in tensors.values():
        _check(tensor, storages)
    elements: dict[str, int] = {}
    kept: dict[str, int] = {}
    # Of tied weights, each name has the same numbers: the model has them once.
    for tensor, name in {tensor: name for name, tensor in tensors.items()}.items():
        count = math.prod(tensor.shape)
        elements[tensor.storage.dtype] = elements.get(tensor.storage.dtype, 0) + count
        for part in parts_of(name) if is_floating(tensor.storage.dtype) else ():
            kept[part] = kept.get(part, 0) + count
    written = sum(
        math.prod(tensor.shape) * STORED_BYTES[tensor.storage.dtype] for tensor in tensors.values()
    )
    if written > MAX_SHARING * sum(storages.values()):
        raise _broken("its tensors are larger than its storages")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Pickled(outline(shapes, elements, kept), written)


@dataclass(frozen=True)
class Storage:
    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _check(tensor: Tensor, storages: dict[str, int]) -> None:
    """Raise ModelRefused unless a tensor lies within its storage."""
    storage = tensor.storage
    last = tensor.offset + sum(
        (length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True)
    )
    empty = 0 in tensor.shape
    if (
        storages.get(storage.key) != storage.numel * STORED_BYTES[storage.dtype]
        or math.prod(tensor.shape) > MAX_ELEMENTS
        or not (empty or 0 <= last < storage.numel)
    ):
        raise _broken("its tensors do not fit their storages")


class _Mark:
    """The value that MARK pushes."""


@dataclass(frozen=True)
class _Name:
    """A name of torch's own that a pickle may have: a function, or a storage's class."""

    name: str


NAMES = {
    "collections OrderedDict": _Name("OrderedDict"),
    "torch._utils _rebuild_tensor_v2": _Name("tensor"),
    "torch._utils _rebuild_parameter": _Name("parameter"),
    **{f"torch {name}": _Name(name) for name in STORAGES},
}


def _tensors(pickle: bytes) -> dict[str, Tensor]:
    """Follow a pickle's opcodes; return its tensors by name."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(pickle))):
            if count > MAX_OPCODES:
                raise _broken(f"it has more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                break
            _step(opcode.name, argument, stack, memo)
        (found,) = stack
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OverflowError):
        raise _broken("its pickle cannot be read") from None
    if not isinstance(found, dict) or not found or len(found) > MAX_TENSORS:
        raise _foreign("it is not a dict of tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _foreign("it has more than tensors")
        if not name.isascii():  # it may even be half a character, which no JSON can hold
            raise _broken("a tensor's name has characters beyond ASCII")
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
    kind, name, key, _, numel = stack.pop()
    dtype = STORAGES.get(name.name if isinstance(name, _Name) else "")
    if kind != "storage" or dtype is None or type(key) is not str or not _is_size(numel):
        raise _foreign("it has a storage that torch does not write")
    stack.append(Storage(dtype, key, numel))


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    called = function.name if isinstance(function, _Name) else ""
    if called == "OrderedDict" and arguments == ():
        stack.append({})
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
            raise _broken("it has a tensor that torch does not write")
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
    "MARK": _Mark,
}
VALUES = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"))
OPERATIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _tuple(None),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
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


def _broken(why: str) -> ModelRefused:
    return refuse(
        f"the model has pickled weights only, and a file of them cannot be read: {why}",
        "pickle-only",
        HELP,
    )
