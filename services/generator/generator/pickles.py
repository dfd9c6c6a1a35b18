"""Tensors of a file that torch.save wrote, read without running anything (`opcodes`).

Since torch 1.6 the file is a zip: its directory is at the end, and `data.pkl`, which describes the
tensors, is small beside their numbers. Before that it is a series of pickles, followed by the
storages: each its number of elements in eight bytes, then the elements.
"""

import io
import math
import struct
from dataclasses import dataclass

from common.errors import ModelRefused
from generator.opcodes import Tensor, broken, follow, tensors_of
from generator.weights import (
    MAX_ELEMENTS,
    MAX_TENSORS,
    Header,
    check_pointer,
    outline,
    parts_of,
)
from models.dtypes import KIB, MIB, STORED_BYTES, is_floating

# The directory's end, with room for zip64's; torch writes no comment after it.
END_BYTES = 98
# Two entries of about 120 bytes per tensor, of as many tensors as one file may have.
MAX_DIRECTORY_BYTES = 8 * MIB
# About 150 bytes per tensor.
MAX_PICKLE_BYTES = 8 * MIB
# Of a local header, with the padding by which torch aligns the entry to 64 bytes.
MAX_LOCAL_BYTES = 4 * KIB
# Names that all tensors share on average: T5's embedding, the most of its smallest, has four.
MAX_SHARING = 4
PICKLE = "data.pkl"
# The magic number and the version of torch's first format, each a pickle.
FIRST_FORMAT = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e 80024de9032e")


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


def directory_range(end: bytes, file_size: int) -> tuple[int, int] | None:
    """Return where a zip's directory begins, and its length; None for a file that is no zip.

    `end` are the file's last bytes.
    """
    if not end:
        raise broken("it is empty")
    found = end.rfind(b"PK\5\6")
    if found < 0 or found + 22 != len(end):
        return None
    length, begin = struct.unpack_from("<II", end, found + 12)
    if begin == 0xFFFFFFFF or length == 0xFFFFFFFF or end[found + 10 : found + 12] == b"\xff\xff":
        zip64 = end.rfind(b"PK\6\6", 0, found)
        if zip64 < 0 or zip64 + 56 > len(end):
            raise broken("its directory is incomplete")
        length, begin = struct.unpack_from("<QQ", end, zip64 + 40)
    if length > MAX_DIRECTORY_BYTES:
        raise broken(f"its directory is longer than {MAX_DIRECTORY_BYTES // MIB} MiB")
    if begin + length > file_size:
        raise broken("its directory is outside of it")
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
                raise broken("its directory cannot be read")
            begin = place + 46
            name = content[begin : begin + name_size].decode("ascii")
            extra = content[begin + name_size : begin + name_size + more]
            size, packed, offset = _wide(extra, size, packed, offset)
            place = begin + name_size + more + comment
            if method or flags & 1 or size != packed:
                raise broken("it is compressed or encrypted")
            _, _, inner = name.partition("/")
            if inner == PICKLE:
                if pickle is not None:
                    raise broken("it has two pickles")
                pickle = Entry(offset, size)
            elif inner.startswith("data/"):
                storages[inner.removeprefix("data/")] = size
    except (struct.error, UnicodeDecodeError):
        raise broken("its directory cannot be read") from None
    if pickle is None or pickle.size > MAX_PICKLE_BYTES:
        raise broken(f"it has no {PICKLE} of at most {MAX_PICKLE_BYTES // MIB} MiB")
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
        raise broken("it ends too early") from None
    begin = 30 + name_size + extra_size
    pickle = content[begin : begin + pickle_size]
    if signature != b"PK\3\4" or len(pickle) != pickle_size:
        raise broken("its pickle is not where its directory says")
    return _measured(tensors_of(io.BytesIO(pickle)), storages)


def read_series(content: bytes, file_size: int) -> Pickled | None:
    """Read the tensors of a file in torch's first format from its first bytes.

    Returns None if `content` ends before the pickles do.

    Raises:
        ModelRefused: as `read_pickle` does.
    """
    check_pointer(content)
    if not content.startswith(FIRST_FORMAT):
        raise broken("torch.save did not write it")
    series = io.BytesIO(content)
    try:
        _, _, machine = follow(series), follow(series), follow(series)
        tensors, keys = tensors_of(series), follow(series)
    except ModelRefused:
        if series.tell() == len(content) < min(file_size, MAX_PICKLE_BYTES):
            return None
        raise
    sizes = {tensor.storage.key: tensor.storage.bytes for tensor in tensors.values()}
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise broken("a machine of another byte order wrote it")
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(sizes):
        raise broken("its storages are not those of its tensors")
    if series.tell() + sum(8 + size for size in sizes.values()) != file_size:
        raise broken("its storages do not fill it")
    return _measured(tensors, sizes)


def _measured(tensors: dict[str, Tensor], storages: dict[str, int]) -> Pickled:
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
        raise broken("its tensors are larger than its storages")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Pickled(outline(shapes, elements, kept), written)


def _check(tensor: Tensor, storages: dict[str, int]) -> None:
    """Raise ModelRefused unless a tensor lies within its storage."""
    storage = tensor.storage
    last = tensor.offset + sum(
        (length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True)
    )
    empty = 0 in tensor.shape
    if (
        storages.get(storage.key) != storage.bytes
        or math.prod(tensor.shape) > MAX_ELEMENTS
        or not (empty or 0 <= last < storage.numel)
    ):
        raise broken("its tensors do not fit their storages")
