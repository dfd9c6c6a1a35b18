"""Parser of the header of a GGUF file, the format of llama.cpp's models.

The format, little-endian: `GGUF`, a version, the numbers of tensors and of fields; each field's
key, type and value; each tensor's name, shape, type and offset; then the tensors' data. A header
has the tokenizer's whole vocabulary, so that it takes megabytes; what is kept of it is small.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.errors import ModelRefused
from generator.reasons import refuse
from generator.weights import POINTER

# Numbers of bytes to read of a file, one after the other, until the header ends within them. The
# largest vocabularies known take 15 MB.
READS = (256 * 1024, 4 * 2**20, 16 * 2**20, 48 * 2**20)
VERSIONS = (2, 3)
# A header of the largest models has 60 fields and 4,000 tensors; a vocabulary 300,000 entries.
MAX_FIELDS, MAX_TENSORS, MAX_ITEMS = 4096, 50_000, 2_000_000
# Characters of a key and of a tensor's name (llama.cpp's own bound), and dimensions of a tensor.
MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_DIMENSIONS = 256, 128, 4
# Longest text that is kept, and longest list of numbers: one for each layer.
MAX_TEXT_BYTES, MAX_NUMBERS = 128, 1024
# Larger than any size of a model, and elements of any tensor.
MAX_NUMBER, MAX_ELEMENTS = 2**40, 2**50
MAX_ALIGNMENT = 2**16
# Formats of the fixed-size types of a field, by their numbers; 8 is a string, 9 an array.
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9
# The tensor that makes the score of a ranker from a vector.
SCORE = "cls.output.weight"
# The types of tensors: name, elements in a block, and bytes of a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip


class Cut(Exception):
    """The content ends within the header."""


@dataclass(frozen=True)
class Header:
    """The kept parts of a header.

    `fields` are short texts, numbers and lists of a number per layer; `lengths` are the numbers of
    bytes of all texts and of entries of all lists. `elements` are numbers of elements by the
    tensors' type, `bytes` the size of their data and `largest` that of the largest tensor.
    `scores`: whether there is a tensor that makes a ranker's score.
    """

    fields: dict[str, str | int | float | list[int]]
    lengths: dict[str, int]
    elements: dict[str, int]
    bytes: int
    largest: int
    scores: bool = False


def read(content: bytes, file_size: int) -> Header | None:
    """Parse the beginning of a file; return None if the header is longer than that.

    Raises ModelRefused if it is malformed, or describes more than the file has.
    """
    if content.startswith(POINTER):
        raise refuse(
            "the GGUF file is a Git LFS pointer, not the weights themselves",
            "incomplete",
            "a revision whose weights were pushed with git-lfs installed",
        )
    try:
        return _read(Cursor(content), file_size)
    except Cut:
        if len(content) >= file_size:
            raise _broken("ends within its header") from None
        return None


class Cursor:
    """A position in the content. Its methods raise Cut where the content ends too early."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def skip(self, length: int) -> int:
        """Move by a number of bytes; return the position before."""
        if length > READS[-1]:
            raise _broken("has a value that is longer than any header")
        begin, self.at = self.at, self.at + length
        if self.at > len(self.content):
            raise Cut
        return begin

    def take(self, layout: str) -> Any:
        """Read values of a fixed size; return a tuple, or the value itself if there is only one."""
        layout = "<" + layout
        values = struct.unpack_from(layout, self.content, self.skip(struct.calcsize(layout)))
        return values[0] if len(values) == 1 else values

    def text(self, max_bytes: int, fault: str) -> str:
        """Read a string. Raises ModelRefused with `fault` if it is longer, or not UTF-8."""
        length = self.take("Q")
        if length > max_bytes:
            raise _broken(fault)
        begin = self.skip(length)
        try:
            return self.content[begin : self.at].decode()
        except UnicodeDecodeError:
            raise _broken(fault) from None


def _read(cursor: Cursor, file_size: int) -> Header:
    magic, version, tensors, count = cursor.take("4sIQQ")
    if magic != b"GGUF":
        raise _broken("does not begin like one")
    if version not in VERSIONS:
        swapped = int.from_bytes(struct.pack("<I", version), "big")
        kind = "is big-endian" if swapped in VERSIONS else "has a version other than 2 and 3"
        raise _broken(kind)
    if count > MAX_FIELDS or tensors > MAX_TENSORS:
        raise _broken("has more fields or tensors than any model")
    fields: dict[str, str | int | float | list[int]] = {}
    lengths: dict[str, int] = {}
    for _ in range(count):
        key = cursor.text(MAX_KEY_BYTES, "has a key that is too long or no text")
        if key in fields or key in lengths:
            raise _broken("has the same field twice")
        _field(cursor, key, fields, lengths)
    elements, size, largest, scores = _tensors(cursor, tensors)
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment % 8:
        raise _broken("has an impossible alignment")
    if -(-cursor.at // alignment) * alignment + size(alignment) > file_size:
        raise refuse(
            "the GGUF file is shorter than its header says",
            "incomplete",
            "a revision with the whole file",
        )
    return Header(fields, lengths, dict(sorted(elements.items())), size(1), largest, scores)


def _field(cursor: Cursor, key: str, fields: dict[str, Any], lengths: dict[str, int]) -> None:
    """Read a field's value; keep it if it is small."""
    kind = cursor.take("I")
    if kind in SCALARS:
        value = cursor.take(SCALARS[kind])
        if isinstance(value, int) and abs(value) <= MAX_NUMBER:
            fields[key] = int(value)
        elif isinstance(value, float) and math.isfinite(value):
            fields[key] = value
    elif kind == STRING:
        length = cursor.take("Q")
        begin = cursor.skip(length)
        lengths[key] = length
        if length <= MAX_TEXT_BYTES:
            fields[key] = cursor.content[begin : cursor.at].decode(errors="replace")
    elif kind == ARRAY:
        _array(cursor, key, fields, lengths)
    else:
        raise _broken("has a field of a type that the format does not have")


def _array(cursor: Cursor, key: str, fields: dict[str, Any], lengths: dict[str, int]) -> None:
    kind, count = cursor.take("IQ")
    if count > MAX_ITEMS:
        raise _broken("has a longer list than any model")
    lengths[key] = count
    if kind == STRING:
        content, at, end = cursor.content, cursor.at, len(cursor.content)
        length = struct.Struct("<Q").unpack_from  # a vocabulary has 300,000: no call for each
        for _ in range(count):
            if at + 8 > end:
                raise Cut
            at += 8 + length(content, at)[0]
        cursor.at = at
        cursor.skip(0)
    elif kind in SCALARS:
        layout = SCALARS[kind]
        begin = cursor.skip(struct.calcsize("<" + layout) * count)
        if count <= MAX_NUMBERS and layout not in "fd":
            values = struct.unpack_from(f"<{count}{layout}", cursor.content, begin)
            if all(abs(value) <= MAX_NUMBER for value in values):
                fields[key] = [int(value) for value in values]
    else:
        raise _broken("has a list of lists, or of a type that the format does not have")


def _tensors(cursor: Cursor, count: int) -> tuple[dict[str, int], Callable[[int], int], int, bool]:
    """Read the tensors; return elements by type, their size when aligned, and the largest's.

    Also return whether one is a ranker's head.
    """
    scores = False
    elements: dict[str, int] = {}
    sizes: list[int] = []
    for _ in range(count):
        name = cursor.text(MAX_NAME_BYTES, "has a tensor whose name is too long or no text")
        scores = scores or name == SCORE
        dimensions = cursor.take("I")
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise _broken("has a tensor with an impossible number of dimensions")
        shape = [cursor.take("Q") for _ in range(dimensions)]
        kind, _ = cursor.take("IQ")
        total = math.prod(shape)
        if kind not in TYPES:
            raise refuse(
                "the GGUF file has tensors of a type that the pinned llama.cpp does not compute",
                "quantized",
                "options.file with another file of the model",
            )
        packing, block, width = TYPES[kind]
        if not 0 < total <= MAX_ELEMENTS or shape[0] % block:
            raise _broken("has a tensor of an impossible shape")
        elements[packing] = elements.get(packing, 0) + total
        sizes.append(total // block * width)

    def aligned(step: int) -> int:
        return sum(-(-size // step) * step for size in sizes[:-1]) + sum(sizes[-1:])

    return elements, aligned, max(sizes, default=0), scores


def _broken(fault: str) -> ModelRefused:
    return ModelRefused(f"the GGUF file {fault}", reason="weights")
