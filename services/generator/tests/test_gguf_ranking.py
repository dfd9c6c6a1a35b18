"""Modules of GGUF files that rank, compared with the models they were converted from."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from common.contracts.generation import GenerateRequest
from generator.handlers import Handlers
from generator.templates.inference import gguf_ranking
from hub import gguf_rankers
from hub.families import byte_pair_tokenizer
from hub.testing import RunningHub
from models import gguf as sizes

sys.path.insert(0, str(Path(__file__).parent))
from gguf_headers import header
from modules import builder
from test_gguf import handlers_of, refusal
from test_gguf_embedding import run_of

TEXTS = ["the frog is on the lily pad", "who is happy?", "Hello, wonderful world"]
QUERY = "where is a frog?"
# llama.cpp reads GELU from a table of float16, and has a cache of float16 for decoders.
NEAR = 1e-2


async def test_a_gguf_ranker_scores_as_transformers_does_without_a_network(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    make: Callable[..., Any] = builder(handlers, hub, tmp_path)
    module = await make("lilypad/tiny-gguf-ranking")
    assert "torch" not in module.files["requirements.txt"] + module.files["run_inference.py"]
    request = {"inputs": TEXTS, "parameters": {"query": QUERY}}
    code, result = module.run(request=request)
    assert (code, result["status"]) == (0, "success"), result
    folder = tmp_path / "original"
    folder.mkdir()
    gguf_rankers.original(folder)
    library = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer([QUERY] * 3, TEXTS, return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = library(**encoded).logits[:, 0].tolist()
    assert [answer["score"] for answer in result["outputs"]] == pytest.approx(expected, abs=NEAR)
    assert max(expected) - min(expected) > 20 * NEAR
    for inputs, query, message in (
        (["frog " * 200], QUERY, "longer than the 128 tokens that the model reads together"),
        (TEXTS, "", "query: must be a non-empty string"),
        ([7], QUERY, "inputs: each must be a non-empty string"),
    ):
        code, result = module.run_here({"inputs": inputs, "parameters": {"query": query}})
        assert (code, message in result["error"]["message"]) == (2, True), result


def test_a_qwen3_ranker_answers_the_probability_of_yes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    tokenizer = byte_pair_tokenizer()
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.3,
    )
    library = transformers.Qwen3ForCausalLM(config).eval()
    answers = [tokenizer.encode("a")[0], tokenizer.encode("o")[0]]
    path = tmp_path / "m.gguf"
    gguf_rankers.qwen3(path, library, answers)
    manifest = run_of(path)
    assert sizes.ranks(manifest["facts"])
    # All tokens of a pair are read at once, and each has its logits.
    assert (manifest["run"]["maxTokens"], manifest["run"]["batchTokens"]) == (2048, 2048)
    server = gguf_ranking.load(manifest, str(tmp_path), "cpu", None)
    scores = gguf_ranking.answer(server, manifest, TEXTS, {"query": QUERY})
    for text, score in zip(TEXTS, scores, strict=True):
        pair = gguf_rankers.TEMPLATE.replace("{query}", QUERY).replace("{document}", text)
        with torch.inference_mode():
            logits = library(**tokenizer(pair, return_tensors="pt")).logits[0, -1, answers]
        assert score["score"] == pytest.approx(float(logits.softmax(-1)[0]), abs=NEAR)


MARKS = {f"tokenizer.ggml.add_{mark}_token": 1 for mark in ("bos", "eos", "sep")}
XLM_ROBERTA = {"tokenizer.ggml.model": "t5", "tokenizer.ggml.token_type_count": 1, **MARKS}


@pytest.mark.parametrize(
    ("architecture", "others", "served"),
    [
        ("bert", XLM_ROBERTA, True),
        ("qwen3", {"tokenizer.chat_template.rerank": "{query}{document}"}, True),
        ("bert", XLM_ROBERTA | {"tokenizer.ggml.add_sep_token": 0}, False),
        ("bert", XLM_ROBERTA | {"tokenizer.ggml.token_type_count": 2}, False),
        ("bert", XLM_ROBERTA | {"tokenizer.ggml.model": "bert"}, False),
        ("jina-bert-v2", XLM_ROBERTA, False),
        ("qwen3", {}, False),
        ("llama", {"tokenizer.chat_template.rerank": "{query}{document}"}, False),
    ],
)
async def test_a_gguf_ranker_is_served_if_llama_cpp_scores_as_its_library_does(
    architecture: str, others: dict[str, Any], served: bool
) -> None:
    found = header(architecture, others=others, named="cls.output.weight", pooling_type=4)
    handlers = handlers_of(*found, pipeline_tag="text-classification")
    if served:
        module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
        assert (module.model.task, module.model.library) == ("text-ranking", "llama.cpp")
    else:
        error = await refusal(handlers)
        assert error.details["reason"] == "gguf-only"
        assert "is a ranker by its header, and not of those" in error.message
    # Without the tensor that makes the score, llama.cpp ends the process.
    found = header(architecture, others=others, pooling_type=4)
    assert "is a ranker by its header" in (await refusal(handlers_of(*found))).message
