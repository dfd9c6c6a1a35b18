"""The labels of a text, or of a pair of texts, by onnxruntime."""

from typing import Any

from generator.templates.inference.graphs import load_graph
from generator.templates.inference.piping import load_pipeline
from generator.templates.inference.text_classification import answer as answer


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the model from the files in `directory`, with its graph in place of weights."""
    return load_graph(
        manifest,
        directory,
        lambda: load_pipeline(manifest, directory, device, dtype),
    )
