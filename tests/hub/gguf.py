"""A writer and a reader of tiny GGUF files (version 3)."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

UINT32, STRING, F32 = 4, 8, 0
ALIGNMENT = 32  # bytes, the format's default


def write_gguf(
    path: Path, fields: Mapping[str, str | int], shapes: Mapping[str, list[int]]
) -> None:
    """Write float tensors of zeros with these shapes, each a multiple of 8 values long."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(fields))
    for name, value in fields.items():
        typed = struct.pack("<I", UINT32 if isinstance(value, int) else STRING)
        out += string(name) + typed
        out += struct.pack("<I", value) if isinstance(value, int) else string(value)
    offset = 0
    for name, shape in shapes.items():
        out += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, F32, offset)
        offset += 4 * math.prod(shape)
    out += bytes(-len(out) % ALIGNMENT)
    path.write_bytes(out + bytes(offset))


def read_gguf(path: Path) -> dict[str, str | int]:
    """Return the metadata and the parameter `total`, as the real Hub shows them."""
    with path.open("rb") as file:
        _, _, tensors, fields = struct.unpack("<4sIQQ", file.read(24))
        read: dict[str, str | int] = {}
        for _ in range(fields):
            name = text(file)
            (kind,) = struct.unpack("<I", file.read(4))
            read[name] = text(file) if kind == STRING else struct.unpack("<I", file.read(4))[0]
        total = 0
        for _ in range(tensors):
            text(file)
            (dimensions,) = struct.unpack("<I", file.read(4))
            total += math.prod(struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions)))
            file.seek(12, 1)  # type and offset
    return {
        "total": total,
        "architecture": read["general.architecture"],
        "context_length": read["llama.context_length"],
    }


def string(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode()
