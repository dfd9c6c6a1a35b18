"""Modules of adapters: the base and the adapter are pinned, judged and merged."""

import asyncio
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx2
import peft
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from common.contracts.generation import GENERATE, GenerateRequest, Module
from common.errors import HubUnavailable, ModelRefused
from generator import adapters, snapshots
from generator.adapting import read
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from generator.templates.inference.adapted_generation import load
from generator.templates.inference.checkpoint import IncompleteModel
from hub.adapters import lora
from hub.families import llama_generator
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub
from modules import build

TEXTS = ["the frog is on the lily pad", "who is happy?"]
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "acme/toad",
    "target_modules": ["q_proj"],
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000}


# The pinned PEFT reads an attribute that the pinned transformers has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
async def test_a_module_of_an_adapter_answers_like_the_library(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    generated = await handlers.generate(GenerateRequest(model_url="lilypad/tiny-adapter"))
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    manifest = module.manifest
    base = manifest["model"]["base"]
    assert (manifest["run"]["stack"], base["id"]) == (
        "words-adapter",
        "lilypad/tiny-text-generation",
    )
    assert manifest["model"]["weightBytes"] > sum(
        file["size"] for file in base["files"] if file["path"].endswith(".safetensors")
    )
    request = {"inputs": TEXTS, "parameters": {"max_new_tokens": 8, "raw": True}}
    code, result = module.run_here(request)
    assert (code, result["status"]) == (0, "success"), result
    folder = module.app / "model"
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def write(model: Any) -> list[Any]:
        answers = []
        for text in TEXTS:
            tokens = tokenizer(text, return_tensors="pt")
            written = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0]
            after = written[tokens["input_ids"].shape[1] :]
            answers.append({"generated_text": tokenizer.decode(after, skip_special_tokens=True)})
        return answers

    without = write(plain)
    assert result["outputs"] != without
    assert result["outputs"] == write(peft.PeftModel.from_pretrained(plain, folder / "adapter"))
    # Every file of both is checked at each start.
    weights = folder / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    code, result = module.run_here(request)
    assert (code, "adapter_model.safetensors" in result["error"]["message"]) == (1, True)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        # Another model's names, a layer of another model, a layer fewer and one more.
        ({"layers.": ["blocks."]}, "does not fit its base: 16 of its weights"),
        ({"layers.1": ["layers.2"]}, "does not fit its base: 8 of its weights"),
        ({"layers.1": []}, "does not fit its base: 4 of its weights"),
        ({"layers.1": ["layers.1", "layers.2"]}, "does not fit its base: 4 of its weights"),
        ({}, None),
    ],
)
def test_an_adapter_whose_weights_do_not_fit_its_base_fails_to_load(
    layers: dict[str, list[str]], message: str | None, tmp_path: Path
) -> None:
    llama_generator(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/README.md").touch()
    lora(tmp_path / "adapter", base=str(tmp_path))
    path = tmp_path / "adapter/adapter_model.safetensors"
    weights = load_file(path)
    for layer, others in layers.items():
        weights = {
            name.replace(layer, other): value.clone()
            for name, value in weights.items()
            for other in (others if layer in name else [layer])
        }
    save_file(weights, path)
    run = {"class": "AutoModelForCausalLM", "attention": "sdpa", "compile": False}
    manifest = {"run": run, "model": {"task": "text-generation"}}
    expected = pytest.raises(IncompleteModel, match=message) if message else nullcontext()
    with expected:
        load(manifest, str(tmp_path), "cpu", torch.float32)


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("elsewhere", "base lilypad/no-such-model is not on the Hub"),
        ("packed", "base lilypad/packed-fp8 is quantized; "),
        ("twice", "base lilypad/tiny-adapter is an adapter itself; "),
    ],
)
async def test_an_adapter_whose_base_cannot_be_used_is_refused_with_its_name(
    handlers: Handlers, revision: str, message: str
) -> None:
    request = GenerateRequest(model_url="lilypad/tiny-adapter", revision=revision)
    with pytest.raises(ModelRefused, match=message) as caught:
        await handlers.generate(request)
    assert caught.value.details["reason"] == "adapter"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "another kind than LoRA"),
        ({"megatron_config": {}, "megatron_core": "os"}, None),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "another kind than LoRA"),
        ({"task_type": "SEQ_CLS"}, "another task"),
        ({"base_model_name_or_path": "/home/me/toad"}, "does not name a model"),
        ({"base_model_name_or_path": "../../toad"}, "does not name a model"),
        ({"base_model_name_or_path": None}, "does not name a model"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code of the model's author"),
        ({"revision": ["main"]}, None),
        ({"revision": "../../toad"}, "no branch, tag or commit"),
        ({"revision": "\ud800"}, "no branch, tag or commit"),
        ({"revision": "a" * 100_000}, "no branch, tag or commit"),
    ],
)
def test_an_adapters_config_gives_its_base_or_a_refusal(
    fields: dict[str, Any], message: str | None
) -> None:
    content = json.dumps(CONFIG | fields).encode()
    if message is None:
        assert read(content) == {"base": "acme/toad", "revision": None}
        return
    with pytest.raises(ModelRefused, match=message):
        read(content)


async def generate(
    licenses: dict[str, str], tensor: str = "model.layers.0.lora_A.weight", **request: Any
) -> Module:
    """Generate the module of an adapter, acme/frog, of acme/toad.

    The Hub never answers for a model that `licenses` does not name.
    """
    config = fake_hub.CONFIG | LLAMA
    base = json.dumps(config).encode()
    weights, size = fake_hub.weights([64, 64], "BF16", tuple(fake_hub.body(config)))
    own, own_size = fake_hub.weights([8, 8], "BF16", (f"base_model.model.{tensor}",))
    files = {
        "acme/toad": {"config.json": (base, len(base)), "model.safetensors": (weights, size)},
        "acme/frog": {
            "adapter_config.json": (json.dumps(CONFIG).encode(), 200),
            "adapter_model.safetensors": (own, own_size),
        },
    }
    files["acme/toad"]["tokenizer.json"] = (b"{}", 2)

    async def answer(asked: httpx2.Request) -> httpx2.Response:
        path = asked.url.path.strip("/")
        name = "acme/toad" if "acme/toad" in path else "acme/frog"
        if name not in licenses:
            await asyncio.Event().wait()
        if path.startswith("api/models/"):
            siblings = [
                {
                    "rfilename": file,
                    "size": length,
                    "blobId": fake_hub.BLOB,
                    "lfs": {"sha256": "d" * 64, "size": length},
                }
                for file, (_, length) in files[name].items()
            ]
            card = {"license": licenses[name]}
            described = {"id": name, "sha": fake_hub.COMMIT, "cardData": card}
            described |= {"siblings": siblings, "pipeline_tag": "text-generation"}
            return fake_hub.respond(json.dumps(described).encode())
        content = files[name][path.rpartition("/")[2]][0]
        return fake_hub.respond(content, 206 if "range" in asked.headers else 200)

    hub = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    return await Handlers(hub, Settings()).generate(
        GenerateRequest(model_url="acme/frog", **request)
    )


@pytest.mark.parametrize("closed", ["acme/toad", "acme/frog"])
async def test_the_licences_of_adapter_and_base_are_both_judged(closed: str) -> None:
    licenses = {"acme/toad": "mit", "acme/frog": "mit"} | {closed: "cc-by-nc-4.0"}
    whose = r" of the adapter's base acme/toad" if closed == "acme/toad" else ""
    with pytest.raises(ModelRefused, match=f"cc-by-nc-4.0{whose} forbids commercial use"):
        await generate(licenses)
    module = await generate(licenses, accept=["license"])
    assert module.model.id == "acme/frog"
    described = yaml.safe_load(module.files["module.yaml"])["model"]
    assert (described["license"], described["base"]["license"]) == (
        licenses["acme/frog"],
        licenses["acme/toad"],
    )
    readme = module.files["README.md"]
    assert f"| licence of the model | `{licenses['acme/frog']}` |" in readme
    assert f"| licence of its base | `{licenses['acme/toad']}` |" in readme


async def test_adapter_and_base_share_one_timeout_shorter_than_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert snapshots.READ_TIMEOUT_S < adapters.READ_TIMEOUT_S <= 15 < GENERATE.timeout
    monkeypatch.setattr(adapters, "READ_TIMEOUT_S", 0.2)
    with pytest.raises(HubUnavailable, match=r"took longer than 0\.2 s"):
        await generate({"acme/frog": "mit"})


async def test_an_adapter_that_replaces_whole_parts_of_its_base_is_refused() -> None:
    licenses = {"acme/toad": "mit", "acme/frog": "mit"}
    with pytest.raises(ModelRefused, match="replaces whole parts"):
        await generate(licenses, "lm_head.weight")
