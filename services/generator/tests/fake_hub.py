"""A fake Hub without a network, whose responses each test defines."""

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from models.tables import table

COMMIT = "c" * 40
BLOB = "b" * 40
CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
# Preprocessing files of text, image and audio models; their content is never read.
PREPARES = ("tokenizer.json", "preprocessor_config.json")


def weights(shape: list[int], dtype: str = "F32", more: tuple[str, ...] = ()) -> tuple[bytes, int]:
    """Return the header of a weights file with one tensor of this shape, and the file's size.

    `more` are names of further tensors, beside those of the heads that models here may have.
    """
    width = {"F32": 4, "BF16": 2, "F16": 2}[dtype]
    size = width
    for length in shape:
        size *= length
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    empty = {"dtype": dtype, "shape": [0], "data_offsets": [size, size]}
    heads = ("classifier.weight", "classifier.dense.weight", "classifier.out_proj.weight")
    others = dict.fromkeys((*heads, *more), empty)
    tensors = {"__metadata__": {"format": "pt"}, "frog.weight": tensor, **others}
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header, 8 + len(header) + size


def body(config: dict[str, Any]) -> list[str]:
    """Return the names of the tensors that a model of this config has, except its head's."""
    kind, count = str(config.get("model_type")), config.get("num_hidden_layers")
    known = table()["bodies"].get(kind, {"prefix": "", "reads": []})
    names = [f"{known['prefix']}.{name}" for name in known["reads"]]
    if "layers" in known and isinstance(count, int) and count < 1000:
        names += [f"{known['prefix']}.{known['layers']}.{n}.weight" for n in range(count)]
    return names + [ends["writes"] for ends in [table()["outputs"].get(kind)] if ends]


def respond(content: bytes, status: int = 200) -> httpx2.Response:
    async def stream() -> AsyncIterator[bytes]:
        yield content

    return httpx2.Response(status, content=stream())


def handlers(
    config: dict[str, Any] | None = None,
    shape: list[int] | None = None,
    dtype: str = "F32",
    names: tuple[str, ...] = (),
    tensors: tuple[str, ...] = (),
    listed: list[Any] | None = None,
    **description: Any,
) -> Handlers:
    """Return handlers whose Hub has one model, under any id, with these fields and files.

    `listed` is what the Hub answers to a search.
    """
    fields = {**CONFIG, **(config or {})}
    content = json.dumps(fields).encode()
    header, size = weights(shape or [64, 64], dtype, (*body(fields), *tensors))
    lfs = {"sha256": "d" * 64, "size": size, "pointerSize": 130}
    document = {
        "id": "acme/frog",
        "sha": COMMIT,
        "pipeline_tag": "text-classification",
        "library_name": "transformers",
        "cardData": {"license": "mit"},
        "siblings": [
            {"rfilename": "config.json", "size": len(content), "blobId": BLOB},
            {"rfilename": "model.safetensors", "size": size, "blobId": BLOB, "lfs": lfs},
            *({"rfilename": name, "size": 1, "blobId": BLOB} for name in (*PREPARES, *names)),
        ],
        **description,
    }

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/api/models":
            return respond(json.dumps(listed or []).encode())
        if path.startswith("/api/models/"):
            return respond(json.dumps(document).encode())
        if path.endswith("/config.json"):
            return respond(content)
        if path.endswith("/model.safetensors"):
            return respond(header, 206)
        return respond(b"{}")

    hub = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    return Handlers(hub, Settings())
