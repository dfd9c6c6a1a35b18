"""Modules answer like sentence-transformers itself for sentence models of every composition.

The library reads the whole repository, so that a file which the module leaves out is missed.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding

from common.contracts.generation import GenerateRequest
from common.errors import ModelRefused
from generator import layout
from generator.description import Description
from generator.handlers import Handlers
from generator.refusals import check_encoder
from generator.snapshot import Snapshot
from generator.templates.inference import embedding, sentence_similarity
from generator.templates.inference.inputs import InvalidInput
from hub import sentences
from hub.catalogue import MODELS
from hub.families import word_piece_tokenizer
from hub.making import make_missing
from hub.testing import RunningHub, default_models_dir
from models.tasks import LIBRARIES

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build

TEXTS = ["a frog on the pond", "the film was terrible and sad", "never"]
QUERY = "what is on the pond"
MODEL = next(model for model in MODELS if model.id == "lilypad/sentences")
REFUSED = ("by-words",)
SPARSE = tuple(kind for kind in sentences.KINDS if kind.startswith("sparse"))
DENSE = tuple(kind for kind in sentences.KINDS if kind not in (*SPARSE, *REFUSED))


def near(values: Any) -> Any:
    return pytest.approx(values, rel=1e-4, abs=1e-5)


def published(kind: str) -> str:
    """Return the folder of the whole repository, as its author pushed it."""
    return str(make_missing([MODEL], default_models_dir())[MODEL.id] / branch(kind))


def branch(kind: str) -> str:
    return next(name for name, made in MODEL.branches.items() if made["kind"] == kind)


async def module_of(kind: str, handlers: Handlers, hub: RunningHub, folder: Path) -> Built:
    generated = await handlers.generate(GenerateRequest(model_url=MODEL.id, revision=branch(kind)))
    module = build(generated.files, folder / "module", fetched=False)
    module.fetch_here(hub.url)
    return module


def outputs(module: Built, **parameters: Any) -> Any:
    code, result = module.run_here({"inputs": TEXTS, "parameters": parameters})
    assert code == 0, result
    return result["outputs"]


@pytest.mark.parametrize("kind", DENSE)
async def test_a_sentence_model_answers_like_the_library(
    kind: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    module = await module_of(kind, handlers, hub, tmp_path)
    library = SentenceTransformer(published(kind), device="cpu")
    weights = sum(weight.numel() for weight in library.state_dict().values())
    assert module.manifest["model"]["parameters"] == weights
    # Without a route for `encode`, a text is a document.
    usual = library.encode_document if kind == "routed" else library.encode
    for role, encode in (
        (None, usual),
        ("query", library.encode_query),
        ("document", library.encode_document),
    ):
        for answer, vector in zip(outputs(module, role=role), encode(TEXTS), strict=True):
            assert answer == near(vector.tolist())
    cut = outputs(module, role="query", dimensions=4)
    for answer, vector in zip(cut, library.encode_query(TEXTS, truncate_dim=4), strict=True):
        assert answer == near(vector.tolist())
    code, result = module.run_here({"inputs": TEXTS, "parameters": {"dimensions": 65}})
    assert (code, result["error"]["type"]) == (2, "InvalidInput"), result


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sentence_model_compares_like_the_library(kind: str, dtype: torch.dtype) -> None:
    settings = {"attention": "sdpa", "compile": False, "batchSize": 8}
    manifest = {"run": {**settings, "class": "SentenceTransformer"}}
    model = sentence_similarity.load(manifest, published(kind), "cpu", dtype)
    library = SentenceTransformer(published(kind), device="cpu")
    for dimensions in (None, 4):
        answers = sentence_similarity.answer(
            model, manifest, TEXTS, {"query": QUERY, "dimensions": dimensions}
        )
        documents = library.encode_document(TEXTS, truncate_dim=dimensions)
        query = library.encode_query([QUERY], truncate_dim=dimensions)
        expected = library.similarity(query, documents)[0].tolist()
        actual = [answer["similarity"] for answer in answers]
        if dtype == torch.float32:
            assert actual == near(expected)
        else:  # as on a GPU, where the modules after a transformer have its dtype too
            assert actual == pytest.approx(expected, rel=0.1, abs=0.1)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_router_encodes_a_text_by_its_default_route_unless_it_maps_documents_to_another(
    mapped: bool, tmp_path: Path
) -> None:
    tokenizer = word_piece_tokenizer().backend_tokenizer
    routes = {name: [StaticEmbedding(tokenizer, embedding_dim=8)] for name in ("query", "doc")}
    mappings = {("document", None): "query"} if mapped else None
    router = Router(routes, default_route="doc", route_mappings=mappings)
    library = SentenceTransformer(modules=[router], device="cpu")
    library.save_pretrained(str(tmp_path), create_model_card=False)
    settings = {"attention": "sdpa", "compile": False, "batchSize": 8}
    manifest = {"run": {**settings, "class": "SentenceTransformer"}}
    model = embedding.load(manifest, str(tmp_path), "cpu", torch.float32)
    expected = (library.encode_document if mapped else library.encode)(TEXTS)
    answers = embedding.answer(model, manifest, TEXTS, {"role": None, "dimensions": None})
    assert [near(vector.tolist()) for vector in expected] == answers
    if mapped:
        assert answers[0] != near(library.encode(TEXTS)[0].tolist())
        return
    with pytest.raises(ValueError, match="No route found for task type 'document'"):
        library.encode_document(TEXTS)
    with pytest.raises(InvalidInput, match="no route for a document"):
        embedding.answer(model, manifest, TEXTS, {"role": "document", "dimensions": None})


@pytest.mark.parametrize(
    ("mappings", "unrouted"),
    [
        (None, ("document",)),
        ({("document", None): "query"}, ()),
        ({(None, "text"): "doc"}, ()),
        ({("document", "image"): "doc"}, ("document",)),
    ],
)
def test_a_router_without_a_route_for_documents_is_refused_where_texts_are_compared(
    mappings: Any, unrouted: tuple[str, ...], tmp_path: Path
) -> None:
    tokenizer = word_piece_tokenizer().backend_tokenizer
    routes = {name: [StaticEmbedding(tokenizer, embedding_dim=8)] for name in ("query", "doc")}
    router = Router(routes, default_route="doc", route_mappings=mappings)
    library = SentenceTransformer(modules=[router], device="cpu")
    library.save_pretrained(str(tmp_path), create_model_card=False)
    laid_out = layout.read("modules.json", (tmp_path / "modules.json").read_bytes())
    read = layout.read_routes((tmp_path / "router_config.json").read_bytes())
    laid_out = layout.with_routes(laid_out, "", read)
    assert laid_out.unrouted == unrouted
    described = Description(id="acme/frog", sha="c" * 40)
    snapshot = Snapshot(described, (), frozenset(), {}, None, laid_out)
    for task in ("sentence-similarity", "feature-extraction"):
        row = LIBRARIES["sentence-transformers"][task]
        if unrouted and task == "sentence-similarity":
            with pytest.raises(ValueError, match="No route found"):
                library.encode_document(TEXTS)
            with pytest.raises(ModelRefused, match="no route for a document, and sentence-simil"):
                check_encoder(snapshot, row)
        else:
            check_encoder(snapshot, row)


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_router_without_a_route_for_one_kind_of_text_is_refused(role: str) -> None:
    kind = "sentence_transformers.models.StaticEmbedding"
    index = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Router"}]
    laid_out = layout.read("modules.json", json.dumps(index).encode())
    routes = {name: ["0_Static"] for name in ("query", "document") if name != role}
    router = {"types": {"0_Static": kind}, "structure": routes}
    complete = {**router, "structure": {**routes, role: ["0_Static"]}}
    described = Description(id="acme/frog", sha="c" * 40)
    row = LIBRARIES["sentence-transformers"]["sentence-similarity"]
    whole, partial = (layout.read_routes(json.dumps(one).encode()) for one in (complete, router))
    laid_out = layout.with_routes(laid_out, "", whole)
    check_encoder(Snapshot(described, (), frozenset(), {}, None, laid_out), row)
    # A router that has both routes does not make up for one without.
    laid_out = layout.with_routes(layout.with_routes(laid_out, "", partial), "", whole)
    with pytest.raises(ModelRefused, match=f"no route for a {role}, and sentence-simil"):
        check_encoder(Snapshot(described, (), frozenset(), {}, None, laid_out), row)


# torch warns on first use of sparse tensors that they are in beta.
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", SPARSE)
async def test_a_sparse_model_answers_like_the_library(
    kind: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    module = await module_of(kind, handlers, hub, tmp_path)
    library = SparseEncoder(published(kind), device="cpu")
    documents = library.encode_document(TEXTS)
    scores = library.similarity(library.encode_query([QUERY]), documents)[0].tolist()
    assert [answer["score"] for answer in outputs(module, query=QUERY)] == near(scores)


async def test_a_generative_ranker_answers_like_the_library(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    name = "lilypad/causal-ranker"
    generated = await handlers.generate(GenerateRequest(model_url=name))
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    model = next(model for model in MODELS if model.id == name)
    published = make_missing([model], default_models_dir())[name] / "main"
    library = CrossEncoder(str(published), device="cpu")
    pairs = [(QUERY, text) for text in TEXTS]
    expected = library.predict(pairs).tolist()
    assert [answer["score"] for answer in outputs(module, query=QUERY)] == near(expected)
    assert expected != near(library.predict(pairs, prompt="").tolist())


async def test_a_model_that_splits_texts_into_words_is_refused(handlers: Handlers) -> None:
    request = GenerateRequest(model_url=MODEL.id, revision="by-words")
    with pytest.raises(ModelRefused, match=r"splits texts into words by itself \(WordEmbeddings\)"):
        await handlers.generate(request)
