"""Models with pickled weights, served from the Hub's own conversion to safetensors."""

import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from common.contracts.generation import GenerateRequest, Module
from common.errors import ModelRefused
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

MAIN, CONVERTED = "c" * 40, "e" * 40
# Files that sentence-transformers loads too; the last folder is not one that a module names.
DENSE = [f"{number}_Dense/config.json" for number in range(1, 8)]
ALSO = (*DENSE, "sentence_bert_config.json", "<b>/config.json")
REQUEST: dict[str, Any] = {
    "num": 8,
    "title": "Adding `safetensors` variant of this model",
    "author": {"name": "SFconvertbot"},
    "status": "open",
    "isPullRequest": True,
}


async def generate(
    requests: Any, pickle: str = "a" * 64, name: str = "pytorch_model.bin", *, newer: bool = False
) -> Module:
    """Generate a module whose pull request converts pickled weights of digest `pickle`.

    If `newer`, the branch has got an ONNX file since then, and other configs.
    """
    config = json.dumps(fake_hub.CONFIG).encode()
    header, size = fake_hub.weights([64, 64], more=tuple(fake_hub.body(fake_hub.CONFIG)))

    def describe(
        sha: str, digest: str, *more: dict[str, Any], blob: str = fake_hub.BLOB
    ) -> dict[str, Any]:
        lfs = {"sha256": digest, "size": 1000}
        siblings = [
            {"rfilename": "config.json", "size": len(config), "blobId": blob},
            {"rfilename": "tokenizer.json", "size": 1, "blobId": fake_hub.BLOB},
            *({"rfilename": path, "size": 1, "blobId": blob} for path in ALSO),
            {"rfilename": name, "blobId": fake_hub.BLOB, "lfs": lfs},
            *more,
        ]
        card = {"license": "mit"}
        task = {"pipeline_tag": "text-classification", "library_name": "transformers"}
        return {"id": "acme/frog", "sha": sha, "siblings": siblings, "cardData": card, **task}

    lfs = {"sha256": "d" * 64, "size": size}
    weights = {"rfilename": "model.safetensors", "blobId": fake_hub.BLOB, "lfs": lfs}

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.endswith("/discussions"):
            return fake_hub.respond(json.dumps(requests).encode())
        if "refs" in path:
            document = describe(CONVERTED, pickle, weights)
            return fake_hub.respond(json.dumps(document).encode())
        if path.startswith("/api/models/"):
            added = {"rfilename": "onnx/model.onnx", "blobId": fake_hub.BLOB, "lfs": lfs}
            more = {"blob": "9" * 40} if newer else {}
            document = describe(MAIN, "a" * 64, *([added] if newer else []), **more)
            return fake_hub.respond(json.dumps(document).encode())
        if path.endswith("model.safetensors"):
            return fake_hub.respond(header, 206)
        return fake_hub.respond(config if path.endswith("config.json") else b"{}")

    hub = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    return await Handlers(hub, Settings()).generate(GenerateRequest(model_url="acme/frog"))


async def test_the_hubs_own_conversion_is_pinned_with_a_warning() -> None:
    module = await generate({"discussions": [REQUEST]})
    assert module.model.commit == CONVERTED
    assert any("refs/pr/8" in message for message in module.validation.errors)


async def test_a_conversion_is_used_although_files_of_the_branch_have_changed_since() -> None:
    module = await generate({"discussions": [REQUEST]}, newer=True)
    assert module.model.commit == CONVERTED
    differing = ", ".join(["config.json", "sentence_bert_config.json", *DENSE[:4]]) + " and 3 more"
    assert any(
        f"where {differing} differ from the branch's" in text for text in module.validation.errors
    )


async def test_a_conversion_of_a_pickle_with_an_unknown_file_name_is_ignored() -> None:
    with pytest.raises(ModelRefused, match="pickled"):
        await generate({"discussions": [REQUEST]}, name="epoch_3.pt")


@pytest.mark.parametrize(
    "requests",
    [
        {"discussions": []},
        {"discussions": [{**REQUEST, "author": {"name": "mallory"}}]},
        {"discussions": [{**REQUEST, "status": "closed"}]},
        {"discussions": [{**REQUEST, "isPullRequest": False}]},
        {"discussions": [{**REQUEST, "num": "../../main"}]},
        {"discussions": "none"},
        {},
    ],
)
async def test_anything_but_an_open_pull_request_of_the_converter_is_ignored(requests: Any) -> None:
    with pytest.raises(ModelRefused, match="pickled") as caught:
        await generate(requests)
    assert caught.value.details["reason"] == "pickle-only"


async def test_a_conversion_of_outdated_weights_is_ignored() -> None:
    with pytest.raises(ModelRefused, match="pickled"):
        await generate({"discussions": [REQUEST]}, pickle="f" * 64)
