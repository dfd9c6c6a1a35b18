"""Sizes of pickled weights, read from the end and the beginning of their files."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from common.errors import ModelRefused
from generator import pickles, weights
from generator.description import Description
from generator.hub import Hub
from generator.opcodes import broken
from generator.pickles import Directory, Pickled
from generator.selection import File
from generator.weights import Weights

# Bytes of a file's end that mostly hold its directory, of 500 tensors.
FIRST_READ_BYTES = 64_000
# More files than any model has that people use, and few enough to read each.
MAX_FILES = 64
MAX_CONCURRENT = 4


Part = Callable[[int, int], Awaitable[bytes]]
Parse = Callable[..., Awaitable[Any]]


async def measure(hub: Hub, description: Description, files: list[File]) -> Weights | None:
    """Measure weights that torch.save wrote; None if there are none. Raises ModelRefused.

    The size is that of the files in safetensors, which the image has.
    """
    if not files:
        return None
    if len(files) > MAX_FILES:
        raise ModelRefused(f"the weights are in more than {MAX_FILES} files", reason="weights")
    free = asyncio.Semaphore(MAX_CONCURRENT)

    async def read(file: File) -> Pickled:
        async with free, hub.large.slot():
            return await _read(hub, description, file)

    read_files = await asyncio.gather(*map(read, files))
    size = sum(file.bytes for file in read_files)
    return weights.total([file.header for file in read_files], size)


async def _read(hub: Hub, description: Description, file: File) -> Pickled:
    async def part(begin: int, length: int) -> bytes:
        return await hub.part(description.id, description.sha, file.path, begin, length)

    async def parse(kind: str, content: bytes, **arguments: Any) -> Any:
        return await hub.reader.read(kind, content, **arguments)

    length = min(FIRST_READ_BYTES, file.size)
    end = await part(file.size - length, length)
    place = pickles.directory_range(end, file.size)
    if place is None:
        return await _read_series(part, parse, file.size)
    begin, size = place
    content = end[begin - (file.size - length) :][:size]
    if begin < file.size - length:
        content = await part(begin, size)
    directory: Directory = await parse("directory", content)
    wanted = pickles.MAX_LOCAL_BYTES + directory.pickle.size
    content = await part(directory.pickle.offset, min(wanted, file.size - directory.pickle.offset))
    found: Pickled = await parse(
        "pickle", content, storages=directory.storages, pickle_size=directory.pickle.size
    )
    return found


async def _read_series(part: Part, parse: Parse, file_size: int) -> Pickled:
    """Read a file in torch's first format, which begins with its pickles."""
    for length in (FIRST_READ_BYTES, pickles.MAX_PICKLE_BYTES):
        content = await part(0, min(length, file_size))
        found: Pickled | None = await parse("series", content, file_size=file_size)
        if found:
            return found
    raise broken("it ends too early")
