"""Modules of GGUF files, compared with llama.cpp itself."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import xllamacpp
import yaml

from common.contracts.generation import GenerateOptions, GenerateRequest
from common.errors import InvalidRequest, ModelRefused
from generator import gguf, gguf_models, gguf_reading
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub import gguf as written
from hub.testing import RunningHub
from models import gguf as sizes

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub
from gguf_headers import header
from modules import Built, builder

Make = Callable[..., Any]
GREEDY = {"max_new_tokens": 8, "temperature": 0}
TEXTS = ["the frog is on the lily pad", "who is happy?"]


@pytest.fixture
def make(handlers: Handlers, hub: RunningHub, tmp_path: Path) -> Make:
    return builder(handlers, hub, tmp_path)


def reference(module: Built) -> Any:
    """Load the module's file with llama.cpp, as its own documentation does."""
    params = xllamacpp.CommonParams()
    params.model.path = str(module.app / "model" / module.manifest["run"]["file"])
    params.n_ctx, params.n_parallel = written.CONTEXT, 1
    return xllamacpp.Server(params)


def complete(server: Any, chat: bool, text: Any, options: dict[str, Any] | None = None) -> str:
    """Return llama.cpp's own answer to a text, a chat or one turn of a chat."""
    request = {"max_tokens": 8, "temperature": 0, **(options or {})}
    request = {name: value for name, value in request.items() if value is not None}
    if not chat:
        return str(server.handle_completions({"prompt": text, **request})["choices"][0]["text"])
    turns = text if isinstance(text, list) else [{"role": "user", "content": text}]
    answer = server.handle_chat_completions({"messages": turns, **request})
    return str(answer["choices"][0]["message"]["content"])


async def test_a_module_of_a_gguf_file_answers_like_llama_cpp_without_a_network(make: Make) -> None:
    module = await make("lilypad/tiny-gguf")
    run = module.manifest["run"]
    assert (run["file"], run["stack"], run["maxTokens"]) == ("tiny-Q4_0.gguf", "llama", 1024)
    assert [file["path"] for file in module.manifest["model"]["files"]] == [run["file"]]
    assert "torch" not in module.files["requirements.txt"] + module.files["run_inference.py"]
    assert "`tiny-Q4_0.gguf`, by llama.cpp" in module.files["README.md"]
    server = reference(module)
    code, result = module.run(request={"inputs": TEXTS, "parameters": GREEDY})
    assert (code, result["status"]) == (0, "success"), result
    expected = [complete(server, True, text) for text in TEXTS]
    assert [answer["generated_text"] for answer in result["outputs"]] == expected
    raw = {**GREEDY, "raw": True}
    _, result = module.run_here({"inputs": TEXTS, "parameters": raw})
    plain = [complete(server, False, text) for text in TEXTS]
    assert [answer["generated_text"] for answer in result["outputs"]] == plain != expected
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    _, result = module.run_here({"inputs": [chat], "parameters": GREEDY})
    assert result["outputs"][0]["generated_text"] == complete(server, True, chat)


async def test_a_gguf_module_repeats_its_sample_with_one_seed_and_varies_it_with_another(
    make: Make,
) -> None:
    module = await make("lilypad/tiny-gguf")

    def write(seed: int) -> Any:
        chosen = {"max_new_tokens": 8, "temperature": 2.0, "top_k": 0, "seed": seed}
        _, result = module.run_here({"inputs": TEXTS, "parameters": chosen})
        return result["outputs"]

    assert write(1) == write(1) != write(2)


async def test_a_gguf_module_chooses_tokens_as_llama_cpp_does_without_a_temperature(
    make: Make,
) -> None:
    module = await make("lilypad/tiny-gguf")
    chosen = {"max_new_tokens": 8, "seed": 7}
    _, result = module.run_here({"inputs": TEXTS, "parameters": chosen})
    draw, server = random.Random(7), reference(module)
    usual = [{"temperature": None, "seed": draw.getrandbits(32)} for _ in TEXTS]
    expected = [complete(server, True, *pair) for pair in zip(TEXTS, usual, strict=True)]
    assert [answer["generated_text"] for answer in result["outputs"]] == expected
    assert expected != [complete(server, True, text) for text in TEXTS]


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        (["a" * 1100], {}, "are more than the 1024 that the module has room for"),
        (["a" * 900], {"max_new_tokens": 200}, "are more than the 1024"),
        ([[{"role": "user"}]], {}, "each must be a non-empty string"),
        ([[]], {}, "a chat is a list of {role, content}"),
        ([7], {}, "each must be a non-empty string"),
    ],
)
async def test_a_gguf_module_refuses_inputs_that_it_cannot_answer(
    make: Make, inputs: list[Any], parameters: dict[str, Any], message: str
) -> None:
    module = await make("lilypad/tiny-gguf")
    code, result = module.run_here({"inputs": inputs, "parameters": parameters})
    assert (code, result["error"]["type"]) == (2, "InvalidInput")
    assert message in result["error"]["message"]


async def test_the_option_file_selects_another_gguf_file_even_one_in_several_parts(
    make: Make, handlers: Handlers
) -> None:
    first = "split/tiny-F16-00001-of-00003.gguf"
    module = await make("lilypad/tiny-gguf", file=first)
    parts = [file["path"] for file in module.manifest["model"]["files"]]
    assert parts == [first, first.replace("00001", "00002", 1), first.replace("00001", "00003", 1)]
    server = reference(module)
    _, result = module.run_here({"inputs": TEXTS, "parameters": GREEDY})
    expected = [complete(server, True, text) for text in TEXTS]
    assert [answer["generated_text"] for answer in result["outputs"]] == expected
    # The choice of one request is not that of the next.
    other = await handlers.generate(GenerateRequest(model_url="lilypad/tiny-gguf"))
    assert "file: tiny-Q4_0.gguf" in other.files["module.yaml"]
    options = GenerateOptions(file=first)
    for chosen, name in ((options, "split-tiny-f16-00001-of-00003"), (None, "tiny-q4-0")):
        request = GenerateRequest(model_url="lilypad/tiny-gguf", options=chosen or {})
        packed = await handlers.package(request)
        commit = packed.model.commit[:12]
        assert packed.filename == f"lilypad-tiny-gguf-{commit}-{name}.zip"
        readme = (await handlers.generate(request)).files["README.md"]
        assert f"image=docker.io/$account/lilypad-tiny-gguf:{commit}-{name}\n" in readme
    options = GenerateOptions(file="mmproj-tiny.gguf")
    with pytest.raises(ModelRefused, match=r"a part of a model.* leave options\.file out"):
        await handlers.generate(GenerateRequest(model_url="lilypad/tiny-gguf", options=options))


async def test_a_gguf_file_missing_from_the_repository_is_refused_with_the_files_it_has(
    handlers: Handlers, hub: RunningHub
) -> None:
    async def message(model: str, file: str) -> str:
        options = GenerateOptions(file=file)
        with pytest.raises(InvalidRequest) as caught:
            await handlers.generate(GenerateRequest(model_url=model, options=options))
        assert caught.value.details["fields"][0]["path"] == "options.file"
        return caught.value.message

    assert await message("lilypad/tiny-gguf", "tiny-Q9.gguf") == (
        "options.file: the repository has no such GGUF file; it has split/tiny-F16-00001-of-00003"
        ".gguf, tiny-F32.gguf, tiny-Q4_0.gguf, tiny-Q8_0.gguf"
    )
    assert "has no GGUF files" in await message("lilypad/tiny-text-generation", "a.gguf")


@pytest.mark.parametrize(
    ("tags", "instead"),
    [
        (["base_model:quantized:acme/toad"], "acme/toad, from which it was made"),
        ([], "the model that it was converted from"),
    ],
)
async def test_a_gguf_module_requests_no_gpu_and_names_a_model_that_can_use_one(
    tags: list[str], instead: str
) -> None:
    options = GenerateOptions(gpu=True)
    request = GenerateRequest(model_url="acme/frog", options=options)
    module = await handlers_of(*header(), tags=tags).generate(request)
    [check] = [check for check in module.validation.checks if check.name == "gpu"]
    assert check.outcome == "warning"
    assert f"request no GPU; for a GPU, use {instead}" in check.message
    needs = yaml.safe_load(module.files["module.yaml"])["resources"]
    assert (needs["gpu"], needs["vramMiB"]) == (0, 0)


async def test_a_header_without_a_number_of_parts_describes_a_single_file() -> None:
    handlers = handlers_of(*header(others={"split.count": 0}))
    await handlers.generate(GenerateRequest(model_url="acme/frog"))


async def test_an_empty_gguf_file_is_refused_without_a_range_request() -> None:
    assert "ends within its header" in (await refusal(handlers_of(b"", 0))).message


async def test_a_named_file_without_tensors_is_refused_as_a_part() -> None:
    handlers = handlers_of(*header(empty=True), name="ggml-vocab.gguf")
    options = GenerateOptions(file="ggml-vocab.gguf")
    with pytest.raises(ModelRefused, match="a part of a model"):
        await handlers.generate(GenerateRequest(model_url="acme/frog", options=options))


def handlers_of(content: bytes, size: int, name: str = "m-Q4_K_M.gguf", **fields: Any) -> Handlers:
    """Return handlers whose Hub has one model, with this GGUF file."""
    document = {
        "id": "acme/frog",
        "sha": fake_hub.COMMIT,
        "pipeline_tag": "text-generation",
        "cardData": {"license": "mit"},
        "siblings": [
            {
                "rfilename": name,
                "size": size,
                "blobId": fake_hub.BLOB,
                "lfs": {"sha256": "d" * 64, "size": size, "pointerSize": 130},
            }
        ],
        **fields,
    }

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/api/models":
            return fake_hub.respond(b"7")  # no list of models: nothing is named
        if request.url.path.startswith("/api/models/"):
            return fake_hub.respond(json.dumps(document).encode())
        begin, end = map(int, re.findall(r"[0-9]+", request.headers["range"]))
        return fake_hub.respond(content, 206 if begin <= end < size else 416)

    hub = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    return Handlers(hub, Settings())


async def refusal(handlers: Handlers) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    return caught.value


@pytest.mark.parametrize(
    ("changed", "fields", "reason", "help"),
    [
        ({"architecture": "nonsense"}, {}, "architecture", "of an architecture that it knows"),
        (
            {"architecture": "nonsense"},
            {"tags": ["base_model:quantized:acme/toad"]},
            "architecture",
            "acme/toad, from which it was made",
        ),
        ({"architecture": "bert"}, {}, "gguf-only", "with safetensors weights"),
        ({}, {"pipeline_tag": "sentence-similarity"}, "gguf-only", "with safetensors weights"),
        ({"kind": 77}, {}, "quantized", "options.file with another file"),
        ({"shape": (2**20, 2**20)}, {}, "too-large", "a smaller one with options.file"),
        ({"block_count": 0}, {}, "config", "lacks the model's sizes"),
        ({"block_count": 1025}, {}, "config", "more than 1,024 layers"),
        ({"attention.head_count": 2**31 + 1}, {}, "config", "beyond any model's"),
        ({"context_length": 31}, {}, "config", "a context of less than 32 tokens"),
    ],
)
async def test_a_gguf_file_that_no_module_runs_is_refused_with_an_alternative(
    changed: dict[str, Any], fields: dict[str, Any], reason: str, help: str
) -> None:
    error = await refusal(handlers_of(*header(**changed), **fields))
    assert error.details["reason"] == reason
    assert help in error.message


async def test_a_gguf_module_requests_memory_for_its_weights_cache_and_batch() -> None:
    content, size = header(shape=(4096, 1_000_000))
    module = await handlers_of(content, size).generate(GenerateRequest(model_url="acme/frog"))
    weights = 4096 * 1_000_000 * 144 // 256
    cache = 32 * 4096 * 8 * (128 + 128) * 2
    source = yaml.safe_load(module.files["module.yaml"])["resources"]["sources"]["memoryMiB"]
    assert source.startswith(f"weights {-(-weights // 2**20):,} MiB")
    assert f"cache {cache // 2**20:,} MiB" in source
    assert source.endswith("; by the formula of the reference")
    assert module.model.parameters == 4096 * 1_000_000
    assert (module.model.library, module.model.vram_mib, module.model.max_tokens) == (
        "llama.cpp",
        0,
        4096,
    )


async def test_a_gguf_file_accepted_as_too_large_is_served_with_a_warning() -> None:
    request = GenerateRequest(model_url="acme/frog", accept=["too-large"])
    module = await handlers_of(*header(shape=(2**20, 2**20))).generate(request)
    warned = [c.message for c in module.validation.checks if c.outcome == "warning"]
    assert any("more than the largest that a provider offers" in message for message in warned)


@pytest.mark.parametrize("tag", ["image-text-to-text", "any-to-any"])
async def test_a_gguf_model_that_also_reads_images_is_served_for_texts_with_a_warning(
    tag: str,
) -> None:
    tags = ["base_model:quantized:acme/toad"]
    handlers = handlers_of(*header("gemma4"), pipeline_tag=tag, tags=tags)
    module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
    assert module.model.task == "text-generation"
    [check] = [check for check in module.validation.checks if check.name == "images"]
    assert check.outcome == "warning"
    assert "for images, use acme/toad, from which it was made" in check.message


def test_the_cache_of_a_trillion_layers_is_computed_without_iterating_over_them() -> None:
    facts = {"block_count": 2**40, "embedding_length": 64, "attention.head_count": 2}
    assert sizes.cache_bytes(facts, 256) == 256 * 2**40 * 2 * (32 + 32) * 2
    window = {"attention.sliding_window": 512, "attention.sliding_window_pattern": [1, 1, 0]}
    full, held = 4096, 512 + 512
    by_number = {**facts, **window, "block_count": 4}
    assert sizes.cache_bytes(by_number, 4096) == (2 * held + 2 * full) * 2 * (32 + 32) * 2
    by_layer = {**by_number, "attention.head_count_kv": [1, 2, 0, 4, 8]}
    assert sizes.cache_bytes(by_layer, 4096) == (3 * held + 4 * full) * (32 + 32) * 2


@pytest.mark.parametrize("value", ["frog", -(2**40)])
def test_a_field_whose_name_ends_like_a_length_is_not_read_as_a_length(value: str | int) -> None:
    names = ("tokenizer.chat_template.length", "tokenizer.ggml.tokens.length")
    found = gguf.read(*header(others=dict.fromkeys(names, value)))
    assert found
    facts = gguf_reading.facts_of([found])
    assert (facts["chat"], facts["vocabulary"]) == (False, 2)


SPARE_BYTES = 16 * 2**20
PEAK = """
import json, sys
import xllamacpp
from generator.templates.inference.gguf_generation import answer, load

def peak():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024


manifest, text = json.loads(sys.argv[1]), sys.argv[2]
before = peak()
loaded = load(manifest, sys.argv[3], "cpu", None)
answer(loaded, manifest, [text], {"max_new_tokens": 4, "raw": True, "temperature": 0})
print(before, peak())
"""


@pytest.mark.parametrize("packing", ["F32", "Q4_0"])  # llama.cpp lays out the latter anew
def test_a_gguf_module_takes_no_more_memory_than_it_requests(packing: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    written.llama(path, packing, width=512, layers=6, context=2048)
    content = path.read_bytes()
    found = gguf.read(content, len(content))
    assert found
    facts = gguf_reading.facts_of([found])
    tokens = sizes.tokens_of(facts)
    formula = facts["loaded"] + sizes.footprint(facts, tokens).total
    manifest = {
        "run": {"file": path.name, "maxTokens": tokens, "chat": False},
        "resources": {"cpu": 2},
    }
    texts = ["a", "a" * (tokens - 8)]
    done = [
        subprocess.run(
            [sys.executable, "-c", PEAK, json.dumps(manifest), text, tmp_path],
            capture_output=True,
            text=True,
            check=True,
        )
        for text in texts
    ]
    for one in done:
        before, peak = map(int, one.stdout.split()[-2:])
        # What other machines' threads and allocators may take is part of the base.
        assert facts["loaded"] < peak - before < formula + SPARE_BYTES
        assert before < gguf_models.BASE_MIB * 2**20


LISTENS = """
import json, sys
import psutil
from generator.templates.inference.gguf_generation import load

loaded = load(json.loads(sys.argv[1]), sys.argv[2], "cpu", None)
kinds = ("inet", "unix")
print(*(len(psutil.Process().net_connections(kind)) for kind in kinds))
"""


def test_a_gguf_module_listens_on_no_network_address(tmp_path: Path) -> None:
    written.llama(tmp_path / "model.gguf")
    run = {"file": "model.gguf", "maxTokens": 256, "chat": False}
    manifest = json.dumps({"run": run, "resources": {"cpu": 2}})
    done = subprocess.run(
        [sys.executable, "-c", LISTENS, manifest, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    inet, unix = map(int, done.stdout.split()[-2:])
    assert (inet, unix) == (0, 1)  # a worker's sandbox refuses the former
