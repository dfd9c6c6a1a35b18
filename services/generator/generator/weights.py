"""What a model's weights are, from the headers of its safetensors files: no download.

The format: 8 bytes of length, little-endian, then so much JSON that names each
tensor with its dtype, shape and place.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import orjson
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from common.errors import ModelRefused

# 97 % of headers fit (huggingface_hub's own figure), so one request is mostly enough.
FIRST = 100_000
# The longest header met among models of one card's size is about 3 MB; the format allows 100 MB.
LONGEST = 8 * 2**20

BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}

Size = Annotated[int, Field(ge=0, lt=2**63)]


Dtype = Annotated[str, Field(max_length=16)]


class Tensor(BaseModel):
    dtype: Dtype
    shape: Annotated[list[Size], Field(max_length=16)]
    data_offsets: tuple[Size, Size]


HEADER = TypeAdapter(dict[str, Tensor])
PLACES = TypeAdapter(dict[str, Annotated[str, Field(max_length=256)]])
# The number of a layer or of an expert: what differs between tensors of one kind.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
# More kinds of tensors than any model has; they are kept for as long as the model is remembered.
MOST_NAMES = 1000
LONGEST_NAME = 200
# More dtypes than the format has, and more elements of one than any model has.
MOST_DTYPES, MOST_ELEMENTS = 32, 2**50
# How tensors are called, or end, that hold numbers packed into others: GPTQ's and AWQ's,
# bitsandbytes', compressed-tensors', MLX's, DeepSeek's.
PACKED = (
    *(".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".SCB", ".weight_packed"),
    *(".weight_scale", ".weight_scale_inv", ".scales"),
)


@dataclass(frozen=True)
class Header:
    """Of one file or of several: numbers of elements by dtype, and the kinds of tensors.

    A kind is a tensor's name with `*` in place of numbers; None where there are too many.
    """

    elements: dict[str, int]
    names: frozenset[str] | None


@dataclass(frozen=True)
class Index:
    """The files that a model's weights are in, and the kinds of its tensors, as in Header."""

    shards: frozenset[str]
    names: frozenset[str] | None


@dataclass(frozen=True)
class Weights:
    """Numbers of elements by dtype (safetensors' names), and the files' size in bytes.

    `names` are the tensors' kinds, as in Header.
    """

    elements: dict[str, int]
    bytes: int
    names: frozenset[str] | None

    @property
    def parameters(self) -> int:
        return sum(self.elements.values())

    @property
    def is_half(self) -> bool:
        """Whether most of it is stored in bfloat16."""
        return self.elements.get("BF16", 0) * 2 > self.parameters

    @property
    def is_packed(self) -> bool:
        """Whether they are stored in fewer bits than anything computes in."""
        small = any(dtype.startswith(("F8_", "F6_", "F4")) for dtype in self.elements)
        return small or any(name.endswith(PACKED) for name in self.names or ())


def header_length(beginning: bytes, file_size: int) -> int:
    """The length of the JSON after the first 8 bytes."""
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or not 2 <= length <= min(LONGEST, file_size - 8):
        raise _broken("the header of a weights file has an impossible length")
    return length


def read_header(header: bytes, file_size: int) -> Header:
    """What one file has. Raises ModelRefused where it contradicts itself."""
    try:
        content = orjson.loads(header)
        content.pop("__metadata__", None)
        tensors = HEADER.validate_python(content)
    except (ValueError, AttributeError, TypeError, ValidationError):
        raise _broken("the header of a weights file cannot be read") from None
    elements: dict[str, int] = {}
    for tensor in tensors.values():
        count = math.prod(tensor.shape)
        begin, end = tensor.data_offsets
        if count > MOST_ELEMENTS or (
            tensor.dtype in BYTES and count * BYTES[tensor.dtype] != end - begin
        ):
            raise _broken("the header of a weights file contradicts itself")
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + count
    if len(elements) > MOST_DTYPES:
        raise _broken("the header of a weights file names dtypes that there are not")
    if 8 + len(header) + max((t.data_offsets[1] for t in tensors.values()), default=0) != file_size:
        raise _broken("a weights file is not as long as its header says")
    return Header(elements, kinds(tensors))


def read_index(content: bytes) -> Index:
    """Raises ModelRefused: it does not say which file each tensor is in."""
    try:
        places = PLACES.validate_python(orjson.loads(content)["weight_map"])
    except (ValueError, KeyError, TypeError, ValidationError):
        raise _broken("the index of the weights cannot be read") from None
    return Index(frozenset(places.values()), kinds(places))


def kinds(names: Iterable[str]) -> frozenset[str] | None:
    found = frozenset(NUMBER.sub("*", name) for name in names)
    small = len(found) <= MOST_NAMES and all(len(name) <= LONGEST_NAME for name in found)
    return found if small else None


def together(named: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """The kinds of several files."""
    found: set[str] = set()
    for names in named:
        if names is None:
            return None
        found |= names
    return kinds(found)


def total(files: Iterable[Header], size: int) -> Weights:
    elements: dict[str, int] = {}
    files = list(files)
    for file in files:
        for dtype, count in file.elements.items():
            elements[dtype] = elements.get(dtype, 0) + count
    return Weights(dict(sorted(elements.items())), size, together(file.names for file in files))


def _broken(message: str) -> ModelRefused:
    return ModelRefused(message, reason="weights")
