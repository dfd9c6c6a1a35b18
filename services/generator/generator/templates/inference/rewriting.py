"""Text from text: a summary, or another task that the model was trained for."""

from typing import Any

from generator.templates.inference.models import load as load
from generator.templates.inference.seq2seq import prefix_of, rewrite, settings_of


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one object per text, with the field that module.yaml names."""
    model, task = loaded[0], manifest["model"]["task"]
    prefix, settings = prefix_of(model, task), settings_of(model, task)
    return rewrite(loaded, manifest, inputs, parameters, prefix, **settings)
