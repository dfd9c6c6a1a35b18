"""Modules give the same answers as the library's recommended call on the same weights."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from jinja2 import TemplateError
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from generator.templates.inference import (
    embedding,
    multimodal,
    reranking,
    sentence_similarity,
    speech,
    text_classification,
    text_generation,
)
from generator.templates.inference.inputs import InvalidInput
from hub import families, lifelike, pipelines

sys.path.insert(0, str(Path(__file__).parent))
from test_vision import SOUND, as_wav

TEXTS = ["a frog on the pond", "the film was terrible and sad"]
PROMPTS = {"query": "question: ", "document": "answer: "}
TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}user: {{ m.content }}\n{% endfor %}model:"
)


def manifest(task: str, **run: Any) -> dict[str, Any]:
    usual = {"attention": "sdpa", "compile": False, "batchSize": 2, "maxTokens": 128}
    return {"model": {"task": task}, "run": {**usual, **run}, "inputs": []}


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., str]:
    """Return the folder that a maker of the test Hub fills."""

    def make(maker: Callable[..., None], **options: Any) -> str:
        torch.manual_seed(3)
        maker(tmp_path, **options)
        return str(tmp_path)

    return make


def near(values: Any) -> Any:
    return pytest.approx(values, rel=1e-4, abs=1e-5)


def prompted(folder: Path) -> None:
    families.sentence_transformer(folder)
    config = {"similarity_fn_name": "cosine", "prompts": PROMPTS}
    families.write_json(folder / "config_sentence_transformers.json", config)


def test_queries_and_documents_get_the_models_prompts(make_model: Callable[..., str]) -> None:
    folder = make_model(prompted)
    module_manifest = manifest("sentence-similarity", **{"class": "SentenceTransformer"})
    model = sentence_similarity.load(module_manifest, folder, "cpu", torch.float32)
    answers = sentence_similarity.answer(
        model, module_manifest, TEXTS, {"query": "a frog", "dimensions": None}
    )
    library = SentenceTransformer(folder, device="cpu")
    documents = library.encode_document(TEXTS)
    scores = library.similarity(library.encode_query(["a frog"]), documents)[0].tolist()
    assert [answer["similarity"] for answer in answers] == near(scores)
    plain = library.similarity(library.encode(["a frog"]), library.encode(TEXTS))[0].tolist()
    assert scores != near(plain)
    for role, encode in (
        (None, library.encode),
        ("query", library.encode_query),
        ("document", library.encode_document),
    ):
        vectors = embedding.answer(
            model, module_manifest, TEXTS, {"role": role, "dimensions": None}
        )
        for vector, expected in zip(vectors, encode(TEXTS).tolist(), strict=True):
            assert vector == near(expected)
    with pytest.raises(InvalidInput, match="must be query or document"):
        embedding.answer(model, module_manifest, TEXTS, {"role": "frog", "dimensions": None})


def test_a_ranker_saved_by_transformers_answers_like_a_cross_encoder(
    make_model: Callable[..., str],
) -> None:
    folder = make_model(pipelines.cross_encoder)
    module_manifest = manifest("text-ranking")
    model = reranking.load(module_manifest, folder, "cpu", torch.float32)
    answers = reranking.answer(model, module_manifest, TEXTS, {"query": "a frog"})
    expected = CrossEncoder(folder, device="cpu").predict([("a frog", text) for text in TEXTS])
    assert [answer["score"] for answer in answers] == near(expected.tolist())
    with pytest.raises(InvalidInput, match=r"^query: must be a non-empty string"):
        reranking.answer(model, module_manifest, TEXTS, {"query": ""})


def test_a_text_pair_classifier_accepts_two_texts(make_model: Callable[..., str]) -> None:
    labels = ("entailment", "neutral", "contradiction")
    folder = make_model(families.bert_classifier, labels=labels)
    module_manifest = manifest("text-classification")
    module_manifest["inputs"] = [{"name": "text_pair", "required": True}]
    pipeline = text_classification.load(module_manifest, folder, "cpu", torch.float32)
    parameters = {"top_k": None, "text_pair": "she is happy"}
    answers = text_classification.answer(pipeline, module_manifest, TEXTS, parameters)
    library = transformers.pipeline("text-classification", model=folder, device="cpu")
    for text, answer in zip(TEXTS, answers, strict=True):
        expected = library({"text": text, "text_pair": "she is happy"}, top_k=None)
        assert [labelled["label"] for labelled in answer] == [
            labelled["label"] for labelled in expected
        ]
        assert [labelled["score"] for labelled in answer] == near(
            [labelled["score"] for labelled in expected]
        )
    for pair, message in ((None, "is missing"), ("", "must be a non-empty string")):
        with pytest.raises(InvalidInput, match=rf"^text_pair: {message}"):
            text_classification.answer(
                pipeline, module_manifest, TEXTS, {"top_k": None, "text_pair": pair}
            )


def talker(folder: Path) -> None:
    families.llama_generator(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def test_a_text_becomes_a_chat_turn_unless_raw_is_set(make_model: Callable[..., str]) -> None:
    folder = make_model(talker)
    module_manifest = manifest("text-generation", maxTokens=200)
    pipeline = text_generation.load(module_manifest, folder, "cpu", torch.float32)
    library = transformers.pipeline("text-generation", model=folder, device="cpu")
    defaults = {"max_new_tokens": 6, "temperature": 0.0, "top_p": None, "top_k": None}

    def answer(value: Any, *, raw: bool = False) -> Any:
        parameters = {**defaults, "repetition_penalty": None, "raw": raw}
        return text_generation.answer(pipeline, module_manifest, [value], parameters)[0][
            "generated_text"
        ]

    def expected(value: Any) -> Any:
        reply = library(value, max_new_tokens=6, do_sample=False, return_full_text=False)
        return reply[0]["generated_text"]

    chat = [{"role": "user", "content": TEXTS[0]}]
    assert answer(TEXTS[0]) == answer(chat) == expected(chat)
    assert answer(TEXTS[0], raw=True) == expected(TEXTS[0])
    assert expected(TEXTS[0]) != expected(chat)
    with pytest.raises(InvalidInput, match="chat template refuses"):
        answer([{"role": "system", "content": "be brief"}])


def static(folder: Path) -> None:
    tokenizer = families.word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    table = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[table]).save(str(folder))


def test_a_table_of_word_vectors_gives_the_same_answers_as_the_library(
    make_model: Callable[..., str],
) -> None:
    folder = make_model(static)
    module_manifest = manifest("feature-extraction", **{"class": "SentenceTransformer"})
    model = embedding.load(module_manifest, folder, "cpu", torch.float32)
    vectors = embedding.answer(model, module_manifest, TEXTS, {"role": None, "dimensions": None})
    expected = SentenceTransformer(folder, device="cpu").encode(TEXTS).tolist()
    for vector, wanted in zip(vectors, expected, strict=True):
        assert vector == near(wanted)


def decoding_classifier(folder: Path, labels: int, pad_token: str | None = None) -> None:
    """Return a Llama classifier whose config names no pad token, as is common on the Hub."""
    families.llama_generator(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = pad_token
    tokenizer.save_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.pad_token_id, config.num_labels = None, labels
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)


@pytest.mark.parametrize("pad_token", [None, "<pad>"])
def test_a_decoder_without_a_pad_token_classifies_several_texts(
    make_model: Callable[..., str], pad_token: str | None
) -> None:
    folder = make_model(decoding_classifier, labels=3, pad_token=pad_token)
    module_manifest = manifest("text-classification", batchSize=4)
    pipeline = text_classification.load(module_manifest, folder, "cpu", torch.float32)
    texts = [*TEXTS, "x", TEXTS[1] * 3]
    parameters = {"top_k": None, "text_pair": None}
    answers = text_classification.answer(pipeline, module_manifest, texts, parameters)
    library = transformers.pipeline("text-classification", model=folder, device="cpu")
    for text, answer in zip(texts, answers, strict=True):
        expected = library(text, top_k=None)
        assert [item["score"] for item in answer] == near([item["score"] for item in expected])


def test_a_decoder_without_a_pad_token_ranks_several_texts(make_model: Callable[..., str]) -> None:
    folder = make_model(decoding_classifier, labels=1)
    module_manifest = manifest("text-ranking", batchSize=4)
    model = reranking.load(module_manifest, folder, "cpu", torch.float32)
    answers = reranking.answer(model, module_manifest, TEXTS, {"query": "a frog"})
    library = CrossEncoder(folder, device="cpu")
    library.tokenizer.pad_token = library.tokenizer.eos_token
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer["score"] == near(float(library.predict([("a frog", text)])[0]))


def timed_whisper(folder: Path) -> None:
    """Return a Whisper whose timestamp tokens only generation_config.json identifies."""
    lifelike.whisper(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<|{step / 50:.2f}|>" for step in range(1501)])
    tokenizer.save_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    settings = model.generation_config
    settings.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    model.save_pretrained(folder)


def test_a_whisper_without_generation_config_transcribes_over_30_seconds(
    make_model: Callable[..., str],
) -> None:
    folder = make_model(timed_whisper)
    module_manifest = manifest("automatic-speech-recognition")
    sound = np.resize(SOUND, 31 * 16_000)
    texts = []
    for _ in range(2):
        pipeline = speech.load(module_manifest, folder, "cpu", torch.float32)
        [answer] = speech.answer(
            pipeline, module_manifest, [as_wav(sound=sound)], {"timestamps": False}
        )
        texts.append(answer["text"])
        (Path(folder) / "generation_config.json").unlink(missing_ok=True)
    assert texts[0] == texts[1] != ""


def test_a_picture_that_the_chat_template_refuses_is_reported_as_invalid_input() -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TemplateError("this model takes one picture")

    processor = SimpleNamespace(chat_template="x", apply_chat_template=refuse)
    model = SimpleNamespace(device="cpu", dtype=torch.float32)
    with pytest.raises(InvalidInput, match="refuses them: this model takes one picture"):
        multimodal.encode(model, processor, {"text": "what is it?"})
