"""Texts as vectors, by onnxruntime."""

from typing import Any

from generator.templates.inference.embedding import answer as answer
from generator.templates.inference.graphs import load_graph
from generator.templates.inference.sentences import load_as


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the model from the files in `directory`, with its graph in place of weights."""
    return load_graph(
        manifest,
        directory,
        lambda: load_as(manifest["run"]["class"], manifest, directory, device, dtype),
    )
