"""Texts as vectors, by llama.cpp."""

from typing import Any

from generator.templates.inference.gguf_vectors import load as load
from generator.templates.inference.gguf_vectors import vectors_of
from generator.templates.inference.texts import check_texts


def answer(
    server: Any,
    manifest: dict[str, Any],
    inputs: list[Any],
    parameters: dict[str, Any],  # noqa: ARG001  (as all families)
) -> list[Any]:
    """Return one vector per text."""
    check_texts(inputs)
    return vectors_of(server, manifest, inputs)
