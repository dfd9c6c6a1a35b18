"""Reader of audio files."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.media import read_file


def read_audio(value: Any, rate: int) -> Any:
    """Read WAV, FLAC, OGG or MP3 as float32 in one channel, at `rate` samples per second."""
    import io
    import math

    import soundfile
    from scipy.signal import resample_poly

    content = read_file(value, "a sound")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            own = file.samplerate
            if not 0 < file.frames <= 3600 * own:
                raise InvalidInput("inputs: a sound must be at most an hour long, and not empty")
            samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except InvalidInput:
        raise
    except Exception:  # noqa: BLE001  (decoders of sounds raise whatever they like)
        raise InvalidInput("inputs: a sound cannot be read; send WAV, FLAC, OGG or MP3") from None
    if own != rate:
        shared = math.gcd(own, rate)
        samples = resample_poly(samples, rate // shared, own // shared)
    return samples
