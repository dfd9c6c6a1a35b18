"""The longest sound that a model processes at once."""

from typing import Any


def samples_at_once(pipeline: Any, manifest: dict[str, Any]) -> int | None:
    """Return how many samples fit into memory at once; None unless the model reads raw samples.

    What it takes grows with the square of that. None for models that hear otherwise: the library
    cannot put their parts together.
    """
    ratio: int | None = getattr(pipeline.model.config, "inputs_to_logits_ratio", None)
    if ratio is None or "input_values" not in pipeline.feature_extractor.model_input_names:
        return None
    return int(manifest["run"]["maxTokens"]) * ratio
