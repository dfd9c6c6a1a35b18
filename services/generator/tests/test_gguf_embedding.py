"""Modules of GGUF files that compute vectors, compared with the models they were converted from."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from common.contracts.generation import GenerateRequest
from generator import gguf, gguf_models, gguf_reading
from generator.handlers import Handlers
from generator.templates.inference import gguf_embedding, gguf_vectors
from generator.templates.inference.inputs import InvalidInput
from hub import gguf_encoders
from hub.families import byte_pair_tokenizer, word_piece_tokenizer
from hub.testing import RunningHub
from models import gguf as sizes

sys.path.insert(0, str(Path(__file__).parent))
from gguf_headers import header
from modules import builder
from test_gguf import SPARE_BYTES, handlers_of, refusal

TEXTS = ["the frog is on the lily pad", "who is happy?", "Hello, wonderful world"]
# llama.cpp computes with float32 and a float16 mask and cache: of numbers up to 0.4 in a vector.
NEAR, NEAR_WITH_CACHE = 2e-5, 5e-3
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = tmp_path_factory.mktemp("original")
    gguf_encoders.original(folder)
    return SentenceTransformer(str(folder), device="cpu")


async def test_a_gguf_module_gives_the_vectors_of_the_sentence_model_without_a_network(
    handlers: Handlers, hub: RunningHub, tmp_path: Path, original: SentenceTransformer
) -> None:
    make: Callable[..., Any] = builder(handlers, hub, tmp_path)
    module = await make("lilypad/tiny-gguf-similarity")
    assert "torch" not in module.files["requirements.txt"] + module.files["run_inference.py"]
    query = "where is a frog?"
    request = {"inputs": TEXTS, "parameters": {"query": query}}
    code, result = module.run(request=request)
    assert (code, result["status"]) == (0, "success"), result
    vectors = original.encode(TEXTS)
    given = torch.tensor([answer["embedding"] for answer in result["outputs"]])
    assert (given - torch.tensor(vectors)).abs().max() < NEAR
    near = original.similarity(original.encode([query]), vectors)[0].tolist()
    similar = [answer["similarity"] for answer in result["outputs"]]
    assert similar == pytest.approx(near, abs=NEAR)
    for inputs, named in (({"query": "frog " * 200}, "query"), ({}, "inputs")):
        texts = TEXTS if inputs else ["frog " * 127]
        code, result = module.run_here({"inputs": texts, "parameters": inputs})
        assert (code, result["error"]["type"]) == (2, "InvalidInput")
        message = f"{named}: longer than the 128 tokens that the model reads; cut it"
        assert result["error"]["message"] == message
    module = await make("lilypad/tiny-gguf-features")
    _, result = module.run_here({"inputs": ["frog " * 126]})
    [vector] = result["outputs"]
    [expected] = original.encode(["frog " * 126])
    assert torch.nn.functional.cosine_similarity(
        torch.tensor(vector), torch.tensor(expected), dim=0
    ) == pytest.approx(1, abs=1e-3)  # its numbers are packed into eight bits


def run_of(path: Path) -> dict[str, Any]:
    """Return the fields of module.yaml that follow from the file's header."""
    content = path.read_bytes()
    found = gguf.read(content, len(content))
    assert found
    facts = gguf_reading.facts_of([found])
    tokens = sizes.tokens_of(facts)
    batch = sizes.batch_of(facts, tokens)
    run = {"file": path.name, "maxTokens": tokens, "batchTokens": batch}
    return {"run": run, "resources": {"cpu": 2}, "facts": facts}


def embedded(path: Path, texts: list[str]) -> torch.Tensor:
    manifest = run_of(path)
    server = gguf_vectors.load(manifest, str(path.parent), "cpu", None)
    return torch.tensor(gguf_embedding.answer(server, manifest, texts, {}))


def bert(tokens: int, width: int, layers: int = 2) -> Any:
    return BertModel(
        BertConfig(
            vocab_size=len(word_piece_tokenizer()),
            max_position_embeddings=tokens,
            hidden_size=width,
            intermediate_size=4 * width,
            **(SIZES | {"num_hidden_layers": layers}),
        ),
        add_pooling_layer=False,
    ).eval()


def qwen3(tokens: int, width: int, words: int = 0) -> Any:
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(byte_pair_tokenizer()) + words,
            max_position_embeddings=tokens,
            hidden_size=width,
            intermediate_size=4 * width,
            num_key_value_heads=2,
            head_dim=width // 4,
            **SIZES,
        )
    ).eval()


def test_the_pooling_of_a_gguf_embedder_comes_from_its_header(tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = bert(64, 64)
    tokenizer = word_piece_tokenizer()
    given = tokenizer(TEXTS[0], return_tensors="pt")
    states = encoder(**given).last_hidden_state[0]
    for pooling, expected in (("cls", states[0]), ("last", states[-1]), ("mean", states.mean(0))):
        gguf_encoders.bert(tmp_path / "m.gguf", encoder, pooling)
        [vector] = embedded(tmp_path / "m.gguf", TEXTS[:1])
        unit = torch.nn.functional.normalize(expected, dim=0)
        assert (vector - unit).abs().max() < NEAR, pooling


def test_a_decoder_that_is_an_embedder_reads_a_long_text_in_parts(tmp_path: Path) -> None:
    torch.manual_seed(3)
    decoder, tokenizer = qwen3(1024, 64), byte_pair_tokenizer()
    path = tmp_path / "m.gguf"
    gguf_encoders.qwen3(path, decoder)
    assert run_of(path)["run"]["batchTokens"] == 512
    texts = [*TEXTS, "frog" + " frog" * 1021]  # and a token that ends it
    vectors = embedded(path, texts)
    for vector, text in zip(vectors, texts, strict=True):
        ids = tokenizer(text + "</s>", return_tensors="pt")["input_ids"]
        states = decoder(input_ids=ids).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states[-1], dim=0)
        assert (vector - expected).abs().max() < NEAR_WITH_CACHE
    assert ids.shape[1] == 1023
    for words in (1022, 2000):
        with pytest.raises(InvalidInput, match="longer than the 1023 tokens"):
            embedded(path, ["frog" + " frog" * words])


async def test_an_embedder_is_served_as_one_whatever_its_card_says() -> None:
    for architecture, tag, task in (
        ("nomic-bert", None, "sentence-similarity"),
        ("bert", "feature-extraction", "feature-extraction"),
        ("qwen3", "text-generation", "sentence-similarity"),
        ("qwen3", None, "sentence-similarity"),
    ):
        found = header(architecture, pooling_type=1)
        handlers = handlers_of(*found, pipeline_tag=tag)
        module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
        assert (module.model.task, module.model.library) == (task, "llama.cpp")
        [prompts] = [one for one in module.validation.checks if one.name == "prompts"]
        assert "put them before the texts" in prompts.message


@pytest.mark.parametrize(
    ("architecture", "pooling", "tag", "message"),
    [
        ("bert", {}, None, "does not say how the vectors of a text's tokens become one"),
        ("qwen3", {"pooling_type": 0}, "feature-extraction", "does not say how the vectors"),
        ("bert", {"pooling_type": 4}, "sentence-similarity", "is a ranker by its header"),
        ("bert", {"pooling_type": 4}, None, "is a ranker by its header"),
        ("t5encoder", {}, "sentence-similarity", "this one is for something else"),
        ("qwen3", {}, "text-ranking", "does not say that it is a ranker (pooling_type 4)"),
    ],
)
async def test_a_gguf_file_without_a_supported_pooling_is_refused(
    architecture: str, pooling: dict[str, int], tag: str | None, message: str
) -> None:
    error = await refusal(handlers_of(*header(architecture, **pooling), pipeline_tag=tag))
    assert error.details["reason"] == "gguf-only"
    assert message in error.message
    assert "with safetensors weights" in error.message


PEAK = """
import json, sys
import xllamacpp
from generator.templates.inference.gguf_embedding import answer, load

def peak():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024


manifest, text = json.loads(sys.argv[1]), sys.argv[2]
before = peak()
answer(load(manifest, sys.argv[3], "cpu", None), manifest, [text], {})
print(before, peak())
"""


@pytest.mark.parametrize(
    ("kind", "model", "pooling"),
    [
        ("bert", lambda: bert(512, 384, layers=3), "mean"),
        ("bert", lambda: bert(4096, 256, layers=3), "mean"),
        ("qwen3", lambda: qwen3(2048, 128, words=20_000), "last"),
        ("qwen3", lambda: qwen3(1024, 128, words=20_000), "mean"),
    ],
)
def test_a_gguf_embedder_takes_no_more_memory_than_it_requests(
    kind: str, model: Callable[[], Any], pooling: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    getattr(gguf_encoders, kind)(path, model(), pooling)
    manifest = run_of(path)
    facts, tokens = manifest.pop("facts"), manifest["run"]["maxTokens"]
    formula = facts["loaded"] + sizes.embedding_footprint(facts, tokens).total
    text = "a" + " a" * (tokens - 3)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(manifest), text, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    before, peak = map(int, done.stdout.split()[-2:])
    assert facts["loaded"] < peak - before < formula + SPARE_BYTES
    assert before < gguf_models.BASE_MIB * 2**20
