"""Task rows of sentence-transformers. Their `classes` are the library's own."""

from dataclasses import replace

from models.tasks.row import (
    ASKED,
    CUT,
    QUERY,
    RANK,
    RANKED_LABELS,
    TOP_K,
    Parameter,
    Returns,
    Task,
)

# The tag of models that turn a text into one vector, if their card names none.
EMBEDS = "sentence-similarity"
# The tag of sparse encoders, and the tags that the library writes into their cards.
SPARSE = "text-retrieval"
# The tag of rankers, and the one that many of their cards have.
RANKINGS = ("text-ranking",)
CLASSIFIES = ("text-classification",)
# The tag of what a ranker is that judges by the next token.
WRITES = "text-generation"
# The library of classifiers on top of a sentence model, and the files that it adds to one.
SETFIT = "setfit"
HEAD, SETTINGS = "model_head.pkl", "config_setfit.json"
DENSE_TAGS = frozenset((EMBEDS, "feature-extraction"))

DIMENSIONS = Parameter(
    "dimensions",
    "integer",
    "Leading dimensions of each vector to keep, for models trained for it (Matryoshka).",
    minimum=1,
    maximum=100_000,
)

SENTENCES = (
    Task(
        "sentence-similarity",
        "sentence-transformers",
        "sentence_similarity",
        "text",
        Returns(
            {"embedding": "vector", "similarity": "number"},
            note="`similarity` is to `query`, null without one. " + CUT,
        ),
        ("SentenceTransformer",),
        ("SentenceTransformer",),
        parameters=(QUERY, DIMENSIONS),
        example={"query": "Good day"},
        optional=("query",),
        measured=True,
    ),
    Task(
        "feature-extraction",
        "sentence-transformers",
        "embedding",
        "text",
        Returns(bare="its embedding: one vector", note=CUT),
        ("SentenceTransformer",),
        ("SentenceTransformer",),
        parameters=(
            Parameter(
                "role",
                "string",
                "query or document: which of the model's prompts goes before each text. A model "
                "with separate modules for documents treats a text as a document.",
            ),
            DIMENSIONS,
        ),
        measured=True,
    ),
    Task(
        "text-ranking",
        "sentence-transformers",
        "reranking",
        "text",
        RANK,
        ("CrossEncoder",),
        ("CrossEncoder",),
        head="text-classification",
        parameters=(QUERY,),
        example=ASKED,
        measured=True,
    ),
    Task(
        "text-retrieval",
        "sentence-transformers",
        "sparse_retrieval",
        "text",
        Returns(
            {"tokens": "list", "score": "number"},
            note="`tokens` are its heaviest, each {token, weight}; `score` is that for `query`. "
            + CUT,
        ),
        ("SparseEncoder",),
        ("SparseEncoder",),
        parameters=(
            QUERY,
            Parameter("top_k", "integer", "Maximum number of tokens to return.", 64, 1, 10_000),
        ),
        example=ASKED,
        optional=("query",),
    ),
    Task(
        "text-classification",
        SETFIT,
        "setfit",
        "text",
        replace(RANKED_LABELS, note=CUT),
        ("SentenceTransformer",),
        ("SentenceTransformer",),
        parameters=(TOP_K,),
    ),
)
