"""Transcripts of speech."""

from typing import Any

from generator.templates.inference.audio import read_audio
from generator.templates.inference.hearing import samples_at_once
from generator.templates.inference.loading import load as load

# Whisper's no-timestamps token; tokens with higher ids are timestamps.
UNTIMED = "<|notimestamps|>"


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {text} per sound, and {chunks} if `timestamps` is set."""
    rate = pipeline.feature_extractor.sampling_rate
    sounds = [read_audio(value, rate) for value in inputs]
    max_samples = samples_at_once(pipeline, manifest)
    is_ctc = pipeline.type.startswith("ctc")  # gives the position of every character
    timed = "word" if is_ctc else True
    # Audio beyond the model's limit is read in parts, which only timestamps can join.
    window = None if is_ctc else getattr(pipeline.feature_extractor, "n_samples", None)
    set_timestamp_token(pipeline)
    answers = []
    for sound in sounds:
        long = window is not None and len(sound) > window
        too_long = is_ctc and max_samples is not None and len(sound) > max_samples
        parted = {"chunk_length_s": max_samples / rate} if too_long else {}
        audio = {"raw": sound, "sampling_rate": rate}
        wanted = timed if parameters["timestamps"] or long else None
        transcript = pipeline(audio, return_timestamps=wanted, **parted)
        answers.append(transcript if parameters["timestamps"] else {"text": transcript["text"]})
    return answers


def set_timestamp_token(pipeline: Any) -> None:
    """Set Whisper's `no_timestamps_token_id` if its generation config lacks it."""
    token = pipeline.tokenizer.convert_tokens_to_ids(UNTIMED)
    if not pipeline.model.can_generate() or token in (None, pipeline.tokenizer.unk_token_id):
        return
    for owner in (pipeline.model, pipeline):  # the pipeline may have a copy of its own
        settings = getattr(owner, "generation_config", None)
        if settings is not None and getattr(settings, "no_timestamps_token_id", None) is None:
            settings.no_timestamps_token_id = token
