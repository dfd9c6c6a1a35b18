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
    if manifest["model"]["task"] == "automatic-speech-recognition":
        spells = pipeline.type.startswith("ctc")  # such a model places every character it hears
        timed = "word" if spells else True
        # A longer sound than it can hear at once is read in parts, which only times hold together.
        window = None if spells else getattr(pipeline.feature_extractor, "n_samples", None)
        wanted = given.pop("timestamps")
        answers = []
        for sound in sounds:
            long = window is not None and len(sound) > window
            heard = {"raw": sound, "sampling_rate": rate}
            found = pipeline(heard, return_timestamps=timed if wanted or long else None)
            answers.append(found if wanted else {"text": found["text"]})
        return answers
    given.setdefault("top_k", pipeline.model.config.num_labels)
    return [pipeline({"raw": sound, "sampling_rate": rate}, **given) for sound in sounds]
