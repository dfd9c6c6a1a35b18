"""Large files of repositories are parsed in a bounded process, as small ones are here."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.errors import ModelRefused
from generator import weights
from generator.reading import READERS, Reader

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
    reader = Reader()
    yield reader
    await reader.close()


async def test_another_process_reads_what_this_one_reads(reader: Reader) -> None:
    for kind, (content, arguments) in FILES.items():
        read, _ = READERS[kind]
        assert await reader.read(kind, content, **arguments) == read(content=content, **arguments)
    with pytest.raises(ModelRefused, match="is not a JSON object") as caught:
        await reader.read("config", b"[]", name="config.json")
    assert caught.value.details["reason"] == "config"


async def test_a_file_that_takes_more_than_its_share_ends_the_process_and_no_more() -> None:
    reader = Reader(max_memory=2**20)
    content, arguments = FILES["header"]
    try:
        with pytest.raises(ModelRefused, match="more than 5 s or 1 MiB"):
            await reader.read("header", b" " * 64 * 2**20, file_size=1)
        header = await reader.read("header", content, **arguments)
    finally:
        await reader.close()
    assert header.elements == {"F32": 2}


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
