"""Large files, parsed in a bounded process with the same results as small ones."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.errors import ModelRefused, Unavailable
from generator import weights
from generator.reading import READERS, Reader
from models.config import SIZES

# On a busy machine any step may take many seconds.
PATIENCE_S = 100.0
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADER = json.dumps({"layer.0.wo.weight": TENSOR}).encode()
FILES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "config": (
        b'{"model_type": "bert", "hidden_size": Infinity, "num_heads": %d, "auto_map": {"a": "b"}}'
        % 10**30,
        {"name": "config.json"},
    ),
    "layout": (
        b'{"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}',
        {"name": "model_index.json"},
    ),
    "index": (b'{"weight_map": {"a.0.b": "model-1.safetensors"}}', {}),
    "header": (HEADER, {"file_size": 16 + len(HEADER)}),
}


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    reader = Reader(max_wait=PATIENCE_S)
    yield reader
    await reader.close()


async def test_the_parsing_process_returns_the_same_as_its_functions(reader: Reader) -> None:
    for kind, (content, arguments) in FILES.items():
        read, _ = READERS[kind]
        assert await reader.read(kind, content, **arguments) == read(content=content, **arguments)
    with pytest.raises(ModelRefused, match="is not a JSON object") as caught:
        await reader.read("config", b"[]", name="config.json")
    assert caught.value.details["reason"] == "config"


async def test_a_file_that_exceeds_its_memory_is_refused_and_the_next_is_read() -> None:
    reader = Reader(max_memory=2**25, max_wait=PATIENCE_S)
    content, arguments = FILES["header"]
    try:
        with pytest.raises(ModelRefused, match="more than 5 s or 32 MiB"):
            await reader.read("header", b" " * 64 * 2**20, file_size=1)
        header = await reader.read("header", content, **arguments)
    finally:
        await reader.close()
    assert header.elements == {"F32": 2}


async def test_a_file_that_exceeds_its_cpu_time_is_refused() -> None:
    reader = Reader(max_memory=2**32, max_cpu=0, max_wait=PATIENCE_S)
    name = "layer.1" * 200
    tensors = dict.fromkeys((f"{name}.{number}" for number in range(49_000)), TENSOR)
    try:
        with pytest.raises(ModelRefused, match="more than 0 s") as caught:
            await reader.read("header", json.dumps(tensors).encode(), file_size=1)
    finally:
        await reader.close()
    assert caught.value.details["reason"] == "config"


async def test_a_file_whose_parsed_result_is_too_long_is_refused(reader: Reader) -> None:
    names = ["\U0001f438" * 128] * 16
    config = dict.fromkeys(("architectures", "model_type", *SIZES), names)
    with pytest.raises(ModelRefused, match="more than 5 s or 512 MiB"):
        await reader.read("config", json.dumps(config).encode(), name="config.json")
    await read_one(reader)


async def test_a_file_is_read_after_the_death_of_an_idle_process(reader: Reader) -> None:
    await read_one(reader)
    os.kill(process_of(reader), signal.SIGKILL)
    await read_one(reader)


async def test_a_file_whose_processes_die_gives_unavailable_and_the_next_is_read(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process knows no such reader, and dies of the exception.
    monkeypatch.setitem(READERS, "unknown", READERS["config"])
    with pytest.raises(Unavailable, match="cannot be read now"):
        await reader.read("unknown", b"{}", name="config.json")
    await read_one(reader)


async def test_a_process_that_does_not_answer_is_killed_and_replaced(reader: Reader) -> None:
    await read_one(reader)
    stopped = process_of(reader)
    os.kill(stopped, signal.SIGSTOP)
    reader.max_wait = 0.2
    with pytest.raises(Unavailable, match="cannot be read now"):
        await asyncio.wait_for(read_one(reader), PATIENCE_S / 2)
    reader.max_wait = PATIENCE_S
    await read_one(reader)
    assert process_of(reader) != stopped


async def test_a_slow_start_of_the_process_does_not_count_against_the_read_timeout(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec

    async def late(*command: str, **options: Any) -> asyncio.subprocess.Process:
        return await start("sh", "-c", 'sleep 6 && exec "$0" "$@"', *command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", late)
    reader.max_wait = 5.0
    await read_one(reader)


async def test_closing_does_not_wait_for_a_stopped_process(reader: Reader) -> None:
    await read_one(reader)
    os.kill(process_of(reader), signal.SIGSTOP)
    asking = asyncio.ensure_future(read_one(reader))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(reader.close(), PATIENCE_S / 2)
    with pytest.raises(Unavailable):
        await asking


async def test_a_caller_cancelled_in_the_queue_is_never_served(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    ask = reader._ask

    async def counting(kind: str, content: bytes, arguments: dict[str, Any]) -> bytes:
        asked.append(content)
        return await ask(kind, content, arguments)

    monkeypatch.setattr(reader, "_ask", counting)
    await read_one(reader)
    process = process_of(reader)
    os.kill(process, signal.SIGSTOP)
    callers = [asyncio.ensure_future(read_one(reader)) for _ in range(4)]
    await asyncio.sleep(0.1)
    # The first is being read for, and its answer must not become that of the next caller.
    for caller in callers[:3]:
        caller.cancel()
    await asyncio.sleep(0.1)
    os.kill(process, signal.SIGCONT)
    await asyncio.wait_for(callers[3], PATIENCE_S / 2)
    assert len(asked) == 3


async def read_one(reader: Reader) -> None:
    content, arguments = FILES["header"]
    header = await reader.read("header", content, **arguments)
    assert header.elements == {"F32": 2}


def process_of(reader: Reader) -> int:
    assert reader._process
    return reader._process.pid


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("header", b"{" * (weights.MAX_TENSORS + 1)),
        ("index", b":" * (weights.MAX_INDEXED + 1)),
        ("config", b"," * 100_001),
    ],
)
def test_a_file_with_too_many_entries_is_refused_before_it_is_parsed(
    kind: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("weights.orjson", "configs.parse"):
        monkeypatch.setattr(f"generator.{module}", None)
    arguments = {"name": "config.json"} if kind == "config" else {}
    arguments |= {"file_size": 1} if kind == "header" else {}
    with pytest.raises(ModelRefused, match="more than"):
        READERS[kind][0](content=content, **arguments)
