"""Classification of a sound."""

from typing import Any

from generator.templates.inference.audio import read_audio
from generator.templates.inference.hearing import samples_at_once
from generator.templates.inference.loading import load as load


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {label, score} per sound, best first."""
    rate = pipeline.feature_extractor.sampling_rate
    sounds = [read_audio(value, rate) for value in inputs]
    # Other models truncate longer audio themselves.
    max_samples = samples_at_once(pipeline, manifest)
    labels = parameters["top_k"] or pipeline.model.config.num_labels
    return [
        pipeline({"raw": sound[:max_samples], "sampling_rate": rate}, top_k=labels)
        for sound in sounds
    ]
