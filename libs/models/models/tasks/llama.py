"""Rows of llama.cpp, which runs GGUF files."""

from dataclasses import replace

from models.tasks.text import TEXT

LIBRARY = "llama.cpp"
WRITES = "text-generation"

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
