"""Makers of small sentence models, saved by sentence-transformers in each of its layouts."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertForMaskedLM, BertModel

from hub.families import (
    CONTEXT,
    TINY,
    WORDS,
    bert_config,
    llama_generator,
    word_piece_tokenizer,
    write_json,
)

# Numbers in a token's vector, and in a text's.
HIDDEN, WIDTH = TINY["hidden_size"], 16
# A model's modules, and how it uses them.
Parts = tuple[list[Any], dict[str, Any]]


def make(folder: Path, kind: str) -> None:
    """Make the model of one of KINDS, in a folder that contains its card."""
    from sentence_transformers import SentenceTransformer, SparseEncoder  # noqa: PLC0415 - seconds

    model_class = SparseEncoder if kind.startswith("sparse") else SentenceTransformer
    with tempfile.TemporaryDirectory() as beside:
        modules, settings = KINDS[kind](beside)
        model = model_class(modules=modules, device="cpu", **settings)
        model.save_pretrained(str(folder), create_model_card=False)


def bert(folder: str, kind: type[Any] = BertModel) -> str:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    kind(bert_config(len(tokenizer))).save_pretrained(folder)
    return folder


def transformer(folder: str) -> Any:
    from sentence_transformers.models import Transformer  # noqa: PLC0415

    return Transformer(bert(folder), max_seq_length=CONTEXT)


def pooling(width: int = HIDDEN, **options: Any) -> Any:
    from sentence_transformers.models import Pooling  # noqa: PLC0415

    return Pooling(width, **options)


def dense(*widths: int, **options: Any) -> Any:
    from sentence_transformers.models import Dense  # noqa: PLC0415

    return Dense(*widths, **options)


def normalize() -> Any:
    from sentence_transformers.models import Normalize  # noqa: PLC0415

    return Normalize()


def table() -> Any:
    from sentence_transformers.models import StaticEmbedding  # noqa: PLC0415

    return StaticEmbedding(word_piece_tokenizer().backend_tokenizer, embedding_dim=WIDTH)


def router(routes: dict[str, list[Any]], **options: Any) -> Any:
    from sentence_transformers.models import Router  # noqa: PLC0415

    return Router(routes, **options)


def projected(folder: str) -> Parts:
    """Build two dense layers after pooling, and a default prompt."""
    plain = torch.nn.Identity()
    modules = [
        *(transformer(folder), pooling(pooling_mode="mean")),
        *(dense(HIDDEN, 32, bias=False, activation_function=plain), dense(32, WIDTH), normalize()),
    ]
    prompts = {"query": "question: ", "document": "answer: ", "clustering": "group: "}
    return modules, {"prompts": prompts, "default_prompt_name": "clustering"}


def residual(folder: str) -> Parts:
    """Build CLS pooling, a normalised vector and a projection added to it."""
    from sentence_transformers.models import Dropout, LayerNorm  # noqa: PLC0415

    modules = [
        *(transformer(folder), pooling(pooling_mode="cls"), Dropout(0.5), LayerNorm(HIDDEN)),
        dense(HIDDEN, WIDTH, use_residual=True),
    ]
    return modules, {"similarity_fn_name": "euclidean"}


def cut(folder: str) -> Parts:
    """Build truncated vectors (Matryoshka) of the last token, without the prompt's tokens."""
    modules = [
        transformer(folder),
        pooling(pooling_mode="lasttoken", include_prompt=False),
        normalize(),
    ]
    prompts = {"query": "question: ", "passage": "answer: "}
    return modules, {"prompts": prompts, "truncate_dim": 8, "similarity_fn_name": "dot"}


def convolved(folder: str) -> Parts:
    """Build a convolution, whose config file has its own name, before pooling."""
    from sentence_transformers.models import CNN  # noqa: PLC0415

    return [transformer(folder), CNN(HIDDEN, 8), pooling(24)], {}


def static(folder: str) -> Parts:
    """Build static token vectors, without a transformer."""
    return [table(), dense(WIDTH, 8), normalize()], {"similarity_fn_name": "manhattan"}


def routed(folder: str) -> Parts:
    """Build a router without a default: static vectors for queries, a transformer for documents."""
    documents = [transformer(folder), pooling(), dense(HIDDEN, WIDTH)]
    return [router({"query": [table()], "document": documents}), normalize()], {}


def parted(folder: str) -> Parts:
    """Build one transformer with separate projections for queries and other texts."""
    routes = {role: [dense(HIDDEN, WIDTH)] for role in ("query", "document")}
    modules = [transformer(folder), pooling(), router(routes, default_route="document")]
    return modules, {"prompts": {"query": "question: "}}


def sparse_routed(folder: str) -> Parts:
    """Build a sparse router: a weight per token for queries, a transformer for documents."""
    from sentence_transformers.sparse_encoder.modules import (  # noqa: PLC0415
        MLMTransformer,
        SparseStaticEmbedding,
        SpladePooling,
    )

    document = MLMTransformer(bert(folder, BertForMaskedLM), max_seq_length=CONTEXT)
    weights = torch.rand(len(document.tokenizer))
    query = SparseStaticEmbedding(tokenizer=document.tokenizer, weight=weights, frozen=True)
    return [router({"query": [query], "document": [document, SpladePooling()]})], {}


def sparse_coded(folder: str) -> Parts:
    """Build an autoencoder that makes a dense vector sparse."""
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder  # noqa: PLC0415

    return [transformer(folder), pooling(), SparseAutoEncoder(HIDDEN, hidden_dim=128, k=8)], {}


def by_words(folder: str) -> Parts:
    """Build weighted vectors of whole words, without a transformer."""
    from sentence_transformers.models import WordEmbeddings, WordWeights  # noqa: PLC0415
    from sentence_transformers.sentence_transformer.modules.tokenizer import (  # noqa: PLC0415
        WhitespaceTokenizer,
    )

    words = ["PADDING_TOKEN", *WORDS]
    vectors = np.random.default_rng(7).normal(size=(len(words), WIDTH)).astype(np.float32)
    weights = {word: 1 + place / 10 for place, word in enumerate(WORDS)}
    # The default stop words would be saved in an order that differs between processes.
    tokenizer = WhitespaceTokenizer(words, stop_words=[], do_lower_case=True)
    return [WordEmbeddings(tokenizer, vectors), WordWeights(words, weights), pooling(WIDTH)], {}


def judging(folder: Path) -> None:
    """Make a generative ranker, which scores by the log-odds of two tokens."""
    from sentence_transformers import CrossEncoder  # noqa: PLC0415
    from sentence_transformers.cross_encoder.modules import LogitScore  # noqa: PLC0415
    from sentence_transformers.models import Transformer  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as beside:
        llama_generator(Path(beside))
        writer = Transformer(beside, transformer_task="text-generation")
        words = [writer.tokenizer.encode(word)[-1] for word in ("good", "bad")]
        model = CrossEncoder(
            modules=[writer, LogitScore(*words)],
            device="cpu",
            prompts={"relevance": "is it the answer"},
            default_prompt_name="relevance",
        )
        model.save_pretrained(str(folder), create_model_card=False)


def setfit(folder: Path, kind: str = "main") -> None:
    """Make a SetFit model in its own format: a sentence model, and a classifier of its vectors."""
    import joblib  # noqa: PLC0415
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.multiclass import OneVsRestClassifier  # noqa: PLC0415

    make(folder, "residual" if kind == "main" else "projected")
    classes: list[Any] = [0, 1, 2] if kind == "main" else ["good", "sad"]
    texts = [f"{one} {other}" for one in WORDS[:8] for other in WORDS[:3]]
    vectors = SentenceTransformer(str(folder), device="cpu").encode(texts)
    head = LogisticRegression()
    if kind == "one-vs-rest":
        head = OneVsRestClassifier(head)
    head.fit(vectors, [classes[place % len(classes)] for place in range(len(texts))])
    joblib.dump(head, folder / "model_head.pkl")
    if kind == "main":
        settings = {"normalize_embeddings": True, "labels": ["no", "maybe", "yes"]}
        write_json(folder / "config_setfit.json", settings)


KINDS: dict[str, Callable[[str], Parts]] = {
    "projected": projected,
    "residual": residual,
    "cut": cut,
    "convolved": convolved,
    "static": static,
    "routed": routed,
    "parted": parted,
    "sparse-routed": sparse_routed,
    "sparse-coded": sparse_coded,
    "by-words": by_words,
}
