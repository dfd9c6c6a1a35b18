"""Headers of GGUF files without their data, for tests."""

import struct
from collections.abc import Mapping
from typing import Any

from generator import gguf

SIZES: dict[str, Any] = {
    "context_length": 4096,
    "embedding_length": 4096,
    "block_count": 32,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


def header(
    architecture: str = "llama",
    shape: tuple[int, ...] = (4096, 4096),
    kind: int = 12,
    others: Mapping[str, str | int] | None = None,
    empty: bool = False,
    named: str = "output.weight",
    **more: int,
) -> tuple[bytes, int]:
    """Return the header of a file with one tensor of that name, or none, and the size of the file.

    `more` are numbers of the architecture, `others` fields by their whole keys.
    """
    others = others or {}

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = {f"{architecture}.{key}": value for key, value in (SIZES | more).items()}
    content = b"GGUF" + struct.pack("<IQQ", 3, not empty, len(numbers) + 2 + len(others))
    content += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    content += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    for key, value in numbers.items():
        content += text(key) + struct.pack("<II", 4, value)
    for key, other in others.items():
        content += text(key)
        if isinstance(other, str):
            content += struct.pack("<I", 8) + text(other)
        else:
            content += struct.pack("<Iq", 11, other)
    if empty:
        return content, len(content) + 32
    content += text(named) + struct.pack("<I", len(shape))
    content += struct.pack(f"<{len(shape)}QIQ", *shape, kind, 0)
    _, block, width = gguf.TYPES.get(kind, ("", 1, 1))
    total = width
    for length in shape:
        total *= length
    return content, len(content) + 32 + total // block
