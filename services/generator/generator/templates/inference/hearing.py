"""What is said, or what is to be heard, in a sound."""

from typing import Any

from generator.templates.inference.audio import read_audio


def prepare(pipeline: Any, _: dict[str, Any]) -> None:
    pass


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One {text} per sound, or a list of {label, score}."""
    rate = pipeline.feature_extractor.sampling_rate
    given = {name: value for name, value in parameters.items() if value is not None}
    sounds = [read_audio(value, rate) for value in inputs]
    most = samples_at_once(pipeline, manifest)
    if manifest["model"]["task"] == "automatic-speech-recognition":
        spells = pipeline.type.startswith("ctc")  # such a model places every character it hears
        timed = "word" if spells else True
        # A longer sound than it can hear at once is read in parts, which only times hold together.
        window = None if spells else getattr(pipeline.feature_extractor, "n_samples", None)
        wanted = given.pop("timestamps")
        answers = []
        for sound in sounds:
            long = window is not None and len(sound) > window
            too_long = spells and most is not None and len(sound) > most
            parted = {"chunk_length_s": most / rate} if too_long else {}
            heard = {"raw": sound, "sampling_rate": rate}
            found = pipeline(heard, return_timestamps=timed if wanted or long else None, **parted)
            answers.append(found if wanted else {"text": found["text"]})
        return answers
    given.setdefault("top_k", pipeline.model.config.num_labels)
    # Other models cut what is longer than they hear themselves.
    return [pipeline({"raw": sound[:most], "sampling_rate": rate}, **given) for sound in sounds]


def samples_at_once(pipeline: Any, manifest: dict[str, Any]) -> int | None:
    """How much of a sound there is room for at once, in a model that reads its samples as they are.

    What it takes grows with the square of that. None for models that hear otherwise: the library
    cannot put their parts together.
    """
    ratio: int | None = getattr(pipeline.model.config, "inputs_to_logits_ratio", None)
    if ratio is None or "input_values" not in pipeline.feature_extractor.model_input_names:
        return None
    return int(manifest["run"]["maxTokens"]) * ratio
