"""Rows of llama.cpp, which runs GGUF files."""

from dataclasses import replace

from models.tasks.text import TEXT

LIBRARY = "llama.cpp"
WRITES = "text-generation"
# Tags of models that also read images: their modules write about texts alone.
SEES = frozenset(("image-text-to-text", "any-to-any"))

LLAMA = tuple(
    replace(
        row,
        library=LIBRARY,
        family="gguf_generation",
        classes=(),
        auto_classes=(),
        measured=False,
    )
    for row in TEXT
    if row.tag == WRITES
)
