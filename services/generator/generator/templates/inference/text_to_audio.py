"""Speech or music from a text."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.loading import load as load
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], _: dict[str, Any]
) -> list[Any]:
    """Return one {audio, sampling_rate, seconds} per text; the audio is a WAV file as base64."""
    check_texts(inputs)
    max_tokens = manifest["run"]["maxTokens"]
    for text in inputs:
        used = len(pipeline.tokenizer(text)["input_ids"])
        if not 0 < used <= max_tokens:
            raise InvalidInput(f"inputs: {used} tokens; the model speaks 1 to {max_tokens} at once")
    return [to_wav(pipeline(text)) for text in inputs]


def to_wav(speech: dict[str, Any]) -> dict[str, Any]:
    """Encode speech (one row per channel) as base64 16-bit WAV; clip samples beyond full scale."""
    import base64
    import io
    import wave

    import numpy as np

    samples = np.atleast_2d(np.asarray(speech["audio"], dtype=np.float32).squeeze())
    whole = (np.clip(np.nan_to_num(samples), -1, 1) * 32767).round().astype("<i2")
    rate, file = int(speech["sampling_rate"]), io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(len(whole))
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(whole.T.tobytes())
    encoded = base64.b64encode(file.getvalue()).decode()
    return {"audio": encoded, "sampling_rate": rate, "seconds": whole.shape[1] / rate}
