"""Modules of GGUF files, compared with llama.cpp itself."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import xllamacpp
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.generation import GenerateOptions, GenerateRequest
from common.errors import InvalidRequest, ModelRefused
from generator import gguf, gguf_files
from generator.description import Description
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub import gguf as written
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub
from modules import Built, builder

Make = Callable[..., Any]
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


def complete(server: Any, chat: bool, text: Any, **options: Any) -> str:
    """Return llama.cpp's own answer to a text, a chat or a turn of one."""
    request = {"max_tokens": 8, "temperature": 0, **options}
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
    code, result = module.run(request={"inputs": TEXTS, "parameters": {"max_new_tokens": 8}})
    assert (code, result["status"]) == (0, "success"), result
    expected = [complete(server, True, text) for text in TEXTS]
    assert [answer["generated_text"] for answer in result["outputs"]] == expected
    raw = {"max_new_tokens": 8, "raw": True}
    _, result = module.run_here({"inputs": TEXTS, "parameters": raw})
    plain = [complete(server, False, text) for text in TEXTS]
    assert [answer["generated_text"] for answer in result["outputs"]] == plain != expected
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    _, result = module.run_here({"inputs": [chat], "parameters": {"max_new_tokens": 8}})
    assert result["outputs"][0]["generated_text"] == complete(server, True, chat)


async def test_a_gguf_module_samples_alike_with_one_seed_and_otherwise_with_another(
    make: Make,
) -> None:
    module = await make("lilypad/tiny-gguf")

    def write(seed: int) -> Any:
        chosen = {"max_new_tokens": 8, "temperature": 2.0, "top_k": 0, "seed": seed}
        _, result = module.run_here({"inputs": TEXTS, "parameters": chosen})
        return result["outputs"]

    assert write(1) == write(1) != write(2)


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


async def test_options_file_chooses_another_gguf_file_also_one_in_several_parts(
    make: Make, handlers: Handlers
) -> None:
    first = "split/tiny-F16-00001-of-00003.gguf"
    module = await make("lilypad/tiny-gguf", file=first)
    parts = [file["path"] for file in module.manifest["model"]["files"]]
    assert parts == [first, first.replace("00001", "00002", 1), first.replace("00001", "00003", 1)]
    server = reference(module)
    _, result = module.run_here({"inputs": TEXTS, "parameters": {"max_new_tokens": 8}})
    expected = [complete(server, True, text) for text in TEXTS]
    assert [answer["generated_text"] for answer in result["outputs"]] == expected
    # The choice of one request is not that of the next.
    other = await handlers.generate(GenerateRequest(model_url="lilypad/tiny-gguf"))
    assert "file: tiny-Q4_0.gguf" in other.files["module.yaml"]


async def test_a_file_that_the_repository_lacks_is_refused_with_those_that_it_has(
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


LISTED = [
    (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "BF16/m-BF16-00001-of-00001.gguf"], 1),
    (["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf"], 1),
    (["m-f16.gguf", "m-Q8_0.gguf"], 1),
    (["m.fp16.gguf", "m.q5_k_m.gguf"], 1),
    (["mmproj-m-Q4_K_M.gguf", "m-imatrix-Q4_K_M.gguf", "m-Q2_K.gguf"], 2),
    (["odd-name.gguf", "m-IQ1_S.gguf"], 0),  # neither is preferred, so that the smaller is taken
    (["folder/m-Q4_K_M.gguf", "m-Q4_K_M.gguf"], 1),
]


@pytest.mark.parametrize(("names", "chosen"), LISTED)
def test_the_file_is_chosen_by_the_rule(names: list[str], chosen: int) -> None:
    files = [
        {"rfilename": name, "size": size, "blobId": fake_hub.BLOB}
        for size, name in enumerate(names, 100)
    ]
    found = gguf_files.choose(
        Description.model_validate({"id": "a/b", "sha": fake_hub.COMMIT, "siblings": files}), None
    )
    assert [sibling.rfilename for sibling in found] == [names[chosen]]


SIZES: dict[str, Any] = {
    "context_length": 4096,
    "embedding_length": 4096,
    "block_count": 32,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


def header(
    architecture: str = "llama", shape: tuple[int, ...] = (4096, 4096), kind: int = 12, **more: int
) -> tuple[bytes, int]:
    """Return the header of a file with one tensor, and the size of the file."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = {f"{architecture}.{key}": value for key, value in (SIZES | more).items()}
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, len(numbers) + 2)
    content += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    content += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    for key, value in numbers.items():
        content += text(key) + struct.pack("<II", 4, value)
    content += text("output.weight") + struct.pack("<I", len(shape))
    content += struct.pack(f"<{len(shape)}QIQ", *shape, kind, 0)
    _, block, width = gguf.TYPES.get(kind, ("", 1, 1))
    total = width
    for length in shape:
        total *= length
    return content, len(content) + 32 + total // block


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
        if request.url.path.startswith("/api/models/"):
            return fake_hub.respond(json.dumps(document).encode())
        return fake_hub.respond(content, 206)

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
    ],
)
async def test_a_gguf_file_that_no_module_runs_is_refused_with_what_would_help(
    changed: dict[str, Any], fields: dict[str, Any], reason: str, help: str
) -> None:
    error = await refusal(handlers_of(*header(**changed), **fields))
    assert error.details["reason"] == reason
    assert help in error.message


async def test_a_gguf_module_asks_for_its_weights_cache_and_batch() -> None:
    content, size = header(shape=(4096, 1_000_000))
    module = await handlers_of(content, size).generate(GenerateRequest(model_url="acme/frog"))
    weights = 4096 * 1_000_000 * 144 // 256
    cache = 32 * 4096 * 8 * (128 + 128) * 2
    check = next(check for check in module.validation.checks if check.name == "estimate")
    assert f"weights {-(-weights // 2**20):,} MiB" in check.message
    assert f"cache {cache // 2**20:,} MiB" in check.message
    assert module.model.parameters == 4096 * 1_000_000
    assert (module.model.library, module.model.vram_mib, module.model.max_tokens) == (
        "llama.cpp",
        0,
        4096,
    )


def altered() -> dict[str, bytes]:
    """Return hostile or broken headers by what is wrong with them."""
    good, _ = header()
    count = 8 + 8  # of the fields, behind the number of tensors
    return {
        "does not begin": b"GGML" + good[4:],
        "big-endian": good[:4] + struct.pack(">I", 3) + good[8:],
        "a version other": good[:4] + struct.pack("<I", 1) + good[8:],
        "more fields": good[:count] + struct.pack("<Q", 2**60) + good[count + 8 :],
        "more fields or tensors": good[:8] + struct.pack("<Q", 2**60) + good[16:],
        "a key that is too long": good[:24] + struct.pack("<Q", 2**50) + good[32:],
        "longer than any header": good.replace(
            struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 2**62) + b"llama", 1
        ),
        "longer list": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 8, 2**50)),
        "a list of lists": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 9, 2)),
        "of a type that": good.replace(struct.pack("<I", 4), struct.pack("<I", 99), 1),
        "the same field twice": good.replace(
            b"attention.head_count_kv", b"attention.head_count"
        ).replace(struct.pack("<Q", 29) + b"llama", struct.pack("<Q", 26) + b"llama"),
        "dimensions": good.replace(
            struct.pack("<IQQ", 2, 4096, 4096), struct.pack("<IQQ", 9, 4096, 4096)
        ),
        "an impossible shape": good.replace(
            struct.pack("<IQQ", 2, 4096, 4096), struct.pack("<IQQ", 2, 2**60, 2**60)
        ),
        "ends within": good[:-9],
        "shorter than its header says": good,
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1",
    }


@pytest.mark.parametrize("fault", altered())
def test_a_broken_or_hostile_header_is_refused_by_what_is_wrong_with_it(fault: str) -> None:
    content = altered()[fault]
    with pytest.raises(ModelRefused, match=fault):
        gguf.read(content, len(content))


@given(cut=st.integers(0, len(header()[0]) - 1))
def test_a_header_that_is_cut_anywhere_asks_for_more(cut: int) -> None:
    content, size = header()
    assert gguf.read(content[:cut], size) is None


@given(changes=st.lists(st.tuples(st.integers(0, len(header()[0]) - 1), st.integers(0, 255))))
def test_a_header_with_any_bytes_changed_is_read_refused_or_cut(
    changes: list[tuple[int, int]],
) -> None:
    content = bytearray(header()[0])
    for place, byte in changes:
        content[place] = byte
    try:
        found = gguf.read(bytes(content), 2**40)
    except ModelRefused:
        return
    assert found is None or all(count > 0 for count in found.elements.values())


@given(content=st.binary(max_size=200))
def test_bytes_behind_the_magic_never_break_the_parser(content: bytes) -> None:
    try:
        gguf.read(b"GGUF" + struct.pack("<I", 3) + content, 2**40)
    except ModelRefused:
        return


@pytest.mark.parametrize("packing", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_header_is_read_as_llama_cpps_own_package_reads_it(packing: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    written.llama(path, packing, words=3)
    content = path.read_bytes()
    found = gguf.read(content, len(content))
    assert found
    reader = GGUFReader(path)
    assert found.bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert sum(found.elements.values()) == sum(int(tensor.n_elements) for tensor in reader.tensors)
    context = reader.get_field("llama.context_length")
    assert context
    assert found.fields["llama.context_length"] == context.contents()
    assert found.fields["tokenizer.ggml.tokens.length"] == 256 + len(written.SPECIAL) + 3
    assert found.fields["tokenizer.chat_template.length"] == len(written.CHAT)
