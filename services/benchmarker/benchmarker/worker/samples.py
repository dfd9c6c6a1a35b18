"""Sample requests for modules, made from their manifests."""

import base64
import io
import json
import math
import wave
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from models.tasks import row
from models.tasks.pairs import PAIR

TEXT = "A small frog sits on a lily pad."
TABLE = {"frog": ["lily", "pad"], "age": ["2", "3"]}
WORDS = [["a", [0, 0, 100, 50]], ["frog", [100, 0, 200, 50]], ["sits", [200, 0, 300, 50]]]
# Values for parameters without a default, or with a slow one; others keep theirs.
PARAMETERS: dict[str, Any] = {
    "choices": "It jumps.\nIt sleeps.",
    "context": TEXT,
    "max_new_tokens": 8,
    "query": "Where is the frog?",
    "question": "Where is the frog?",
    "steps": 2,
    "words": json.dumps(WORDS),
}


class NoSample(Exception):
    """A kind of input without a sample."""


def request_for(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the sample request `{inputs, parameters}` for a module, by its manifest.

    Raises:
        NoSample: the module takes an unknown kind of input.
    """
    subject, *others = (declared["name"] for declared in manifest["inputs"])
    required = {declared["name"] for declared in manifest["inputs"] if declared.get("required")}
    model = manifest["model"]
    example = row(model["task"], model["library"]).example
    makers: dict[str, Callable[[], Any]] = {
        "text": lambda: TEXT,
        "question": lambda: PARAMETERS["question"],
        "image": picture,
        "audio": sound,
        "video": video,
        "table": lambda: json.dumps(TABLE),
        "series": lambda: [math.sin(step / 3) for step in range(32)],
        "number": lambda: 7,
    }
    if subject not in makers:
        raise NoSample(f"the worker has no sample input of kind {subject!r}")
    value = makers[subject]()
    value = example.get(subject, value)
    parameters = {name: PARAMETERS[name] for name in others if name in PARAMETERS}
    # Only classifiers of pairs require it; others are tried without.
    parameters |= {name: text for name, text in PAIR.items() if name in required}
    if "text" in example and subject != "text":
        parameters["text"] = "What is this?"
    return {"inputs": [value], "parameters": parameters}


def picture() -> str:
    return _encode(_mandelbrot())


def video() -> str:
    return _encode(*(_mandelbrot().rotate(10 * number) for number in range(8)))


def sound() -> str:
    """Return a tone of one second as WAV in base64."""
    samples = (np.sin(np.arange(16_000) / 20) * 0.5 * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.tobytes())
    return base64.b64encode(file.getvalue()).decode()


def _mandelbrot() -> Image.Image:
    return Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")


def _encode(first: Image.Image, *more: Image.Image) -> str:
    file = io.BytesIO()
    first.save(file, "png", save_all=bool(more), append_images=more)
    return base64.b64encode(file.getvalue()).decode()
