"""Rows of llama.cpp, which runs GGUF files."""

from dataclasses import replace

from models.tasks.row import ASKED, CHOSEN, QUERY, Returns, Task
from models.tasks.text import TEXT

LIBRARY = "llama.cpp"
WRITES = "text-generation"
# Tags of models that turn a text into one vector, the second if a card names none.
VECTORS = ("sentence-similarity", "feature-extraction")
UNCUT = (
    "Vectors have length 1. No prompt is added, since the file has none. A text longer than the "
    "model's context is rejected."
)
CHOSEN_BY_LLAMA = (
    "Without `temperature`, tokens are sampled as the file's header says, or else llama.cpp's "
    "defaults; with the same `seed` the answer is the same."
)
RANKS = "text-ranking"
# Tags of models that also read images: their modules write about texts alone.
SEES = frozenset(("image-text-to-text", "any-to-any"))

LLAMA = (
    *(
        replace(
            row,
            library=LIBRARY,
            family="gguf_generation",
            classes=(),
            auto_classes=(),
            measured=False,
            returns=replace(
                row.returns, note=str(row.returns.note).replace(CHOSEN, CHOSEN_BY_LLAMA)
            ),
        )
        for row in TEXT
        if row.tag == WRITES
    ),
    Task(
        VECTORS[0],
        LIBRARY,
        "gguf_similarity",
        "text",
        Returns(
            {"embedding": "vector", "similarity": "number"},
            note="`similarity` is the cosine to `query`, null without one. " + UNCUT,
        ),
        parameters=(QUERY,),
        example={"query": "Good day"},
        optional=("query",),
    ),
    Task(
        VECTORS[1],
        LIBRARY,
        "gguf_embedding",
        "text",
        Returns(bare="its embedding: one vector", note=UNCUT),
    ),
    Task(
        RANKS,
        LIBRARY,
        "gguf_ranking",
        "text",
        Returns(
            {"score": "number"},
            note="`score`: how well it answers `query`: the number that the model gives, or the "
            "probability of yes (Qwen3-Reranker). A query and a text longer than the model reads "
            "are refused.",
        ),
        parameters=(QUERY,),
        example=ASKED,
    ),
)
