"""Modules of pickled weights as older libraries left them."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from common.contracts.generation import GenerateRequest, Module
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
        if path.endswith("/discussions"):
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
