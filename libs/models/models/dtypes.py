"""Number formats and memory units: widths of dtypes, MiB, and parsing of memory sizes."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from models.tables import table

KIB = 2**10
MIB = 2**20
GIB = 2**30

# Bytes of one number, by torch's name: the dtypes in which models are loaded and computed.
WIDTH_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# The dtype of a model where none is requested, by the class of worker or its device.
DEFAULT_DTYPE = {"cpu": "float32", "gpu": "bfloat16", "cuda": "bfloat16"}
# The 16-bit formats, the only ones that kernels such as flash attention support.
HALF = frozenset(("float16", "bfloat16"))

# Architectures whose activations overflow in float16, so that they answer NaN or nonsense: trained
# in bfloat16 with residuals beyond 65,504. Gemma: its model cards and its own warning in
# transformers (modeling_gemma2); T5 and its kin: transformers' `_keep_in_fp32_modules` ("wo") and
# issue 9295 of its repository; GPT-OSS: the report of its authors, section 2.
OVERFLOW_IN_FLOAT16 = frozenset(
    ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text")
) | {
    "gpt_oss",
    "longt5",
    "mt5",
    "paligemma",
    "switch_transformers",
    "t5",
    "t5gemma",
    "udop",
    "umt5",
}

# Bytes of one element, by safetensors' name (the format's own list).
STORED_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
# Bytes of each unit that a memory size may be written in.
UNIT_BYTES = {
    "MB": 10**6,
    "GB": 10**9,
    "Mi": MIB,
    "MiB": MIB,
    "Gi": GIB,
    "GiB": GIB,
}
MEMORY = re.compile(r"(\d+)(MB|GB|MiB?|GiB?)")


def kept_in_float32(kinds: Iterable[Any], dtype: str) -> frozenset[str]:
    """Return the parts that models of these kinds keep in float32 when loaded in a dtype."""
    table_by_kind = table()["float32"]
    names: set[str] = set()
    for kept in (table_by_kind[kind] for kind in kinds if kind in table_by_kind):
        if dtype in HALF:
            names |= {*kept["half"]}
        if dtype == "float16":
            names |= {*kept["float16"]}
    return frozenset(names)


@cache
def ever_in_float32() -> frozenset[str]:
    """Return the names of all parts that some model keeps in float32."""
    kinds = table()["float32"]
    return kept_in_float32(kinds, "float16")


def is_floating(dtype: str) -> bool:
    """Whether a dtype of safetensors holds fractions, so that loading casts it."""
    return dtype.startswith(("F", "BF"))


def to_mib(memory: str) -> int:
    """Convert a memory size (8GB, 16Gi) to MiB, rounded down, at least 1. Raises ValueError."""
    match = MEMORY.fullmatch(memory)
    if match is None:
        raise ValueError(f"not a memory size: {memory[:32]!r}")
    return max(int(match[1]) * UNIT_BYTES[match[2]] // MIB, 1)
