"""Size and dtypes of a model's weights, read from their safetensors headers alone.

The format: 8 bytes of length, little-endian, then JSON of that length with each
tensor's name, dtype, shape and offsets.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import orjson
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from common.errors import ModelRefused
from generator.reasons import refuse
from models.dtypes import MIB, STORED_BYTES, ever_in_float32, is_floating

# 97 % of headers fit (huggingface_hub's own figure), so one request is mostly enough.
FIRST_READ_BYTES = 100_000
# The longest header met among models of one card's size is about 3 MB; the format allows 100 MB.
MAX_HEADER_BYTES = 4 * MIB
# Twice as many tensors as in one file, and in an index, of the largest models known; counted in the
# text, before it is parsed.
MAX_TENSORS, MAX_INDEXED = 50_000, 200_000

# First bytes of a Git LFS pointer that was committed in place of the file.
POINTER = b"version https://git-lfs"
MAX_POINTER_BYTES = 1024

Size = Annotated[int, Field(ge=0, lt=2**63)]


Dtype = Annotated[str, Field(max_length=16)]


class Tensor(BaseModel):
    dtype: Dtype
    shape: Annotated[list[Size], Field(max_length=16)]
    data_offsets: tuple[Size, Size]


HEADER = TypeAdapter(dict[str, Tensor])
PLACES = TypeAdapter(dict[str, Annotated[str, Field(max_length=256)]])
# The number of a layer or expert, by which tensors of one kind differ.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
# The beginning of a layer's tensors: the list's name, and the layer's number.
LAYER = re.compile(r"(.*?)\.(\d{1,4})\.")
# More kinds of tensors than any model has; they stay in memory as long as the snapshot.
MAX_NAMES = 1000
# More lists of layers, layers of a list, and matrices outside of lists than any model has.
MAX_LISTS, MAX_LAYERS, MAX_MATRICES = 64, 1000, 64
MAX_NAME_CHARACTERS = 200
# More dtypes than the format has, and more elements of one than any model has.
MAX_DTYPES, MAX_ELEMENTS = 32, 2**50
# Name endings of packed tensors: GPTQ's and AWQ's, bitsandbytes', compressed-tensors', MLX's,
# DeepSeek's, Quanto's, EXL3's.
PACKED = (
    *(".weight._data", ".weight._scale", ".q_weight", ".q_scale", ".trellis"),
    *(".Qidxs", ".SU", ".SV", ".W_q", ".codes"),  # QuIP#, HQQ, AQLM
    *(".suh", ".svh", ".weight_bits"),  # EXL3's signs; the bits of a packed weight
    *(".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".SCB", ".weight_packed"),
    *(".weight_scale", ".weight_scale_inv", ".scales"),
)


# Prefixes of DataParallel, torch.compile, DeepSpeed, FSDP and PEFT. No architecture has a part of
# these names at its root, and the libraries do not strip them: all weights would be missing.
WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "base_model.")


@dataclass(frozen=True)
class Header:
    """Elements by dtype, and kinds of tensors, of one or several weights files.

    A kind is a tensor's name with `*` in place of numbers; `names` is None if there are too many.
    `kept` are the elements of parts that some model keeps in float32, by the part's name. `layers`
    are the numbers in each list of layers, and `rows` those of each matrix outside of lists; both
    are empty if they are unknown.
    """

    elements: dict[str, int]
    names: frozenset[str] | None
    kept: dict[str, int] = field(default_factory=dict)
    layers: dict[str, set[int]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """The names of a model's weights files, and the kinds of its tensors, as in Header."""

    shards: frozenset[str]
    names: frozenset[str] | None


@dataclass(frozen=True)
class Weights:
    """Numbers of elements by dtype (safetensors' names), and the files' size in bytes.

    `names` are the tensors' kinds, `kept` the parts in float32, `layers` the numbers in each list
    of layers, `rows` those of the matrices outside, as in Header.
    """

    elements: dict[str, int]
    bytes: int
    names: frozenset[str] | None
    kept: dict[str, int] = field(default_factory=dict)
    layers: dict[str, set[int]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(self.elements.values())

    @property
    def is_half(self) -> bool:
        """Whether most of the weights are stored in bfloat16."""
        return self.elements.get("BF16", 0) * 2 > self.parameters

    @property
    def wrapper(self) -> str | None:
        """The prefix that a training wrapper left on every tensor's name; None without one."""
        names = self.names or ()
        return next(
            (prefix for prefix in WRAPPERS if names and all(n.startswith(prefix) for n in names)),
            None,
        )

    @property
    def is_packed(self) -> bool:
        """Whether the weights are stored in fewer bits than modules compute in."""
        small = any(dtype.startswith(("F8_", "F6_", "F4")) for dtype in self.elements)
        return small or any(name.endswith(PACKED) for name in self.names or ())


def check_pointer(beginning: bytes) -> None:
    """Raise ModelRefused if a file is what Git has in place of a file in LFS."""
    if beginning.startswith(POINTER):
        raise refuse(
            "a weights file is a Git LFS pointer, not the weights themselves",
            "incomplete",
            "a revision whose weights were pushed with git-lfs installed",
        )


def header_length(beginning: bytes, file_size: int) -> int:
    """Return the length of the JSON after the first 8 bytes."""
    check_pointer(beginning)
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, file_size - 8):
        raise _broken("the header of a weights file has an impossible length")
    return length


def read_header(content: bytes, file_size: int) -> Header:
    """Parse the header of one file. Raises ModelRefused if it contradicts itself."""
    if content.count(b"{") > MAX_TENSORS:
        raise _broken(f"the header of a weights file names more than {MAX_TENSORS:,} tensors")
    try:
        header = orjson.loads(content)
        header.pop("__metadata__", None)
        tensors = HEADER.validate_python(header)
    except (ValueError, AttributeError, TypeError, ValidationError):
        raise _broken("the header of a weights file cannot be read") from None
    elements: dict[str, int] = {}
    kept: dict[str, int] = {}
    for name, tensor in tensors.items():
        count = math.prod(tensor.shape)
        begin, end = tensor.data_offsets
        if count > MAX_ELEMENTS or (
            tensor.dtype in STORED_BYTES and count * STORED_BYTES[tensor.dtype] != end - begin
        ):
            raise _broken("the header of a weights file contradicts itself")
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + count
        for part in parts_of(name) if is_floating(tensor.dtype) else ():
            kept[part] = kept.get(part, 0) + count
    if len(elements) > MAX_DTYPES:
        raise _broken("the header of a weights file names dtypes that do not exist")
    if (
        8 + len(content) + max((t.data_offsets[1] for t in tensors.values()), default=0)
        != file_size
    ):
        raise _broken("a weights file is not as long as its header says")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return outline(shapes, elements, kept)


def outline(
    shapes: Mapping[str, Sequence[int]], elements: dict[str, int], kept: dict[str, int]
) -> Header:
    """Return the header of a file with tensors of these shapes, reduced to the fields used."""
    return Header(elements, kinds(shapes), kept, layers_of(shapes), rows_of(shapes))


def layers_of(names: Iterable[str]) -> dict[str, set[int]]:
    """Return the numbers of the layers in each list of them; none if there are too many."""
    layers: dict[str, set[int]] = {}
    for name in names:
        if match := LAYER.match(name):
            layers.setdefault(match[1], set()).add(int(match[2]))
    return _bounded(layers)


def rows_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the rows of each matrix outside of lists of layers; none if there are too many."""
    rows = {
        name: shape[0]
        for name, shape in shapes.items()
        if len(shape) == 2 and not NUMBER.search(name) and len(name) <= MAX_NAME_CHARACTERS
    }
    return rows if len(rows) <= MAX_MATRICES else {}


def _bounded(layers: dict[str, set[int]]) -> dict[str, set[int]]:
    small = len(layers) <= MAX_LISTS and all(
        len(numbers) <= MAX_LAYERS and len(name) <= MAX_NAME_CHARACTERS
        for name, numbers in layers.items()
    )
    return layers if small else {}


def parts_of(name: str) -> set[str]:
    """Return the parts that contain a tensor and that some model keeps in float32."""
    dotted = {part for part in ever_in_float32() if "." in part and f".{part}." in f".{name}."}
    return dotted | (ever_in_float32() & {*name.split(".")})


def read_index(content: bytes) -> Index:
    """Parse an index. Raises ModelRefused unless it names the file of each tensor."""
    if content.count(b":") > MAX_INDEXED:
        raise _broken(f"the index of the weights names more than {MAX_INDEXED:,} tensors")
    try:
        places = PLACES.validate_python(orjson.loads(content)["weight_map"])
    except (ValueError, KeyError, TypeError, ValidationError):
        raise _broken("the index of the weights cannot be read") from None
    return Index(frozenset(places.values()), kinds(places))


def kinds(names: Iterable[str]) -> frozenset[str] | None:
    names_by_kind = frozenset(NUMBER.sub("*", name) for name in names)
    small = len(names_by_kind) <= MAX_NAMES and all(
        len(name) <= MAX_NAME_CHARACTERS for name in names_by_kind
    )
    return names_by_kind if small else None


def together(named: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """Merge the kinds of several files; None if there are too many."""
    merged: set[str] = set()
    for names in named:
        if names is None:
            return None
        merged |= names
    return kinds(merged)


def total(files: Iterable[Header], size: int) -> Weights:
    files = list(files)
    elements, kept = Counter[str](), Counter[str]()
    layers: dict[str, set[int]] = {}
    rows: dict[str, int] = {}
    unlike: set[str] = set()
    for file in files:
        elements.update(file.elements)
        kept.update(file.kept)
        unlike |= {name for name, count in file.rows.items() if rows.get(name, count) != count}
        rows |= file.rows
        for name, numbers in file.layers.items():
            layers.setdefault(name, set()).update(numbers)
    # Models of several folders, such as the two of a router, have matrices of the same name.
    rows = {name: count for name, count in rows.items() if name not in unlike}
    names = together(file.names for file in files)
    return Weights(
        dict(sorted(elements.items())),
        size,
        names,
        dict(sorted(kept.items())),
        _bounded(layers),
        rows if len(rows) <= MAX_MATRICES else {},
    )


def combine(first: Weights | None, second: Weights | None) -> Weights | None:
    """Add the weights of two kinds of files."""
    if first is None or second is None:
        return first or second
    headers = (
        Header(one.elements, one.names, one.kept, one.layers, one.rows) for one in (first, second)
    )
    return total(headers, first.bytes + second.bytes)


def _broken(message: str) -> ModelRefused:
    return ModelRefused(message, reason="weights")
