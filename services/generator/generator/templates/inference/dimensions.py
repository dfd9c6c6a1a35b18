"""Truncation of vectors to their leading dimensions."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.sentences import options


def cut(model: Any, manifest: dict[str, Any], dimensions: int | None) -> dict[str, Any]:
    """Return the encoding arguments that truncate vectors to `dimensions`."""
    if dimensions is None:
        return options(manifest)
    with model.truncate_embeddings(None):  # the model's own number, whatever it cuts them to
        width = model.get_embedding_dimension()
    if width is not None and dimensions > width:
        raise InvalidInput(f"dimensions: the model's vectors have {width}, got {dimensions}")
    return {**options(manifest), "truncate_dim": dimensions}
