"""Modules of pickled weights as older libraries left them."""

import io
import json
import os
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from common.contracts.generation import GenerateRequest, Module
from common.errors import ModelRefused
from generator import pickles
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

NAMES = (*fake_hub.body(fake_hub.CONFIG), "classifier.weight", "classifier.bias")
TENSORS = {name: torch.zeros(2, 3) for name in NAMES}


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def described(files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    listed = [
        {"rfilename": name, "size": len(content), "blobId": fake_hub.BLOB}
        for name, content in files.items()
    ]
    card = {"license": "mit"}
    named = {"pipeline_tag": "text-classification", "library_name": "transformers"}
    return {
        "id": "acme/frog",
        "sha": fake_hub.COMMIT,
        "cardData": card,
        "siblings": listed,
        **named,
        **more,
    }


async def generate(files: dict[str, bytes]) -> Module:
    """Generate a module from a repository with these files beside a config and a tokenizer."""
    config = json.dumps(fake_hub.CONFIG).encode()
    files = {"config.json": config, "tokenizer.json": b"{}", **files}

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.endswith("/discussions") or path == "/api/models":
            return fake_hub.respond(b"{}")
        if path.startswith("/api/models/"):
            return fake_hub.respond(json.dumps(described(files)).encode())
        content = files[path.rpartition("/")[2]]
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            return fake_hub.respond(content[int(asked[1]) : int(asked[2]) + 1], 206)
        return fake_hub.respond(content)

    hub = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    return await Handlers(hub, Settings()).generate(GenerateRequest(model_url="acme/frog"))


def converted_of(module: Module) -> list[str]:
    return re.findall(r"becomes: (\S+)", module.files["module.yaml"])


@pytest.mark.parametrize("shards", [0, 2])
async def test_an_index_of_safetensors_left_beside_pickles_is_ignored(shards: int) -> None:
    stale = {"weight_map": dict.fromkeys(NAMES, "model-00001-of-00002.safetensors")}
    files = {"model.safetensors.index.json": json.dumps(stale).encode()}
    if not shards:
        files["pytorch_model.bin"] = saved(TENSORS)
    else:
        places = {}
        for number in range(shards):
            name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
            part = dict(list(TENSORS.items())[number::shards])
            files[name] = saved(part)
            places |= dict.fromkeys(part, name)
        files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": places}).encode()
    converted = converted_of(await generate(files))
    assert len([name for name in converted if name.endswith(".safetensors")]) == max(shards, 1)


def first_format(value: Any) -> bytes:
    return saved(value, _use_new_zipfile_serialization=False)


async def test_pickles_of_torch_before_1_6_are_converted() -> None:
    # Names so long that the pickles end beyond the first bytes that are read.
    more = {f"frog.{number}.{'g' * 200}": torch.zeros(1) for number in range(500)}
    module = await generate({"pytorch_model.bin": first_format(TENSORS | more)})
    assert converted_of(module) == ["model.safetensors"]
    assert module.model.parameters == 6 * len(NAMES) + 500


def test_tensors_of_the_first_format_are_read_as_torch_loads_them() -> None:
    weight = torch.randn(3, 4)
    tensors = OrderedDict(
        torch.nn.BatchNorm1d(2).state_dict(),
        weight=weight,
        tied=weight,
        half=torch.ones(2, dtype=torch.bfloat16),
        parameter=torch.nn.Parameter(torch.zeros(5)),
        part=torch.arange(10)[3:5],
    )
    content = first_format(tensors)
    found = pickles.read_series(content, len(content))
    assert found
    assert found.header.names == frozenset(tensors)
    assert found.header.elements == {"F32": 3 * 2 + 12 + 5, "I64": 1 + 2, "BF16": 2}
    assert found.bytes == sum(tensor.nbytes for tensor in tensors.values())
    # Its first bytes are enough, once the pickles are whole.
    begin = content.index(b"\x80\x02]")
    assert pickles.read_series(content[: begin + 20], len(content)) is None
    assert pickles.read_series(content[: content.index(b"e.", begin) + 2], len(content)) == found


def python2(content: bytes) -> bytes:
    """Return a file with the strings and the dict of tensors that Python 2 wrote."""
    short = re.sub(rb"X(.)\0\0\0", rb"U\1", content, flags=re.DOTALL)
    whole = b"ccollections\nOrderedDict\nq\x00)Rq\x01(U\x01a"
    assert whole in short
    one = short.replace(whole, b"ccollections\nOrderedDict\nq\x00](](U\x01a")
    return one.replace(b"u.\x80\x02]", b"ee\x85R.\x80\x02]")


def test_a_file_of_python_2_is_read_as_torch_loads_it() -> None:
    tensors = OrderedDict(a=torch.zeros(2, 3))
    content = first_format(tensors).replace(b"q\rs.\x80\x02]", b"q\ru.\x80\x02]")
    content = python2(content.replace(b")Rq\x01X\x01\0\0\0a", b")Rq\x01(X\x01\0\0\0a"))
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    assert loaded.keys() == {"a"}
    found = pickles.read_series(content, len(content))
    assert found
    assert (found.header.names, found.bytes) == ({"a"}, 24)


class Payload:
    """A value whose pickle runs a command."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.place}",)


def test_a_program_in_the_first_format_is_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    good = first_format({"weight": torch.ones(2)})
    program = pickle.dumps(Payload(trap), protocol=2)
    hostile = [
        first_format({"weight": torch.ones(2), "more": Payload(trap)}),
        first_format(torch.nn.Linear(2, 2)),
        pickles.FIRST_FORMAT + program + good,
        good[: good.index(b"\x80\x02]")] + program,
    ]
    for content in hostile:
        with pytest.raises(ModelRefused, match="does more than hold tensors"):
            pickles.read_series(content, len(content))
    assert not trap.exists()


def test_a_broken_file_of_the_first_format_is_refused() -> None:
    good = first_format({"weight": torch.ones(2)})
    key = re.search(rb"X.\0\0\0(\d+)q", good, re.DOTALL)
    assert key
    shape = b"K\x02\x85"
    assert shape in good
    broken = [
        b"",
        b"\x80\x02}q\0.",
        good[:-1],
        good + b"\0",
        good[: len(pickles.FIRST_FORMAT)],
        good.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        good.replace(shape, b"K\x03\x85", 1),
        good.replace(key[1], b"7" * len(key[1]), 1),
        pickles.FIRST_FORMAT + b"\x80\x02" + b"(" * 1000 + b"." + good,
    ]
    for content in broken:
        with pytest.raises(ModelRefused, match="pickled weights only, and a file of them cannot"):
            pickles.read_series(content, len(content))


async def test_a_pointer_of_git_lfs_in_place_of_a_pickle_is_named() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    with pytest.raises(ModelRefused, match="Git LFS pointer"):
        await generate({"pytorch_model.bin": pointer})
