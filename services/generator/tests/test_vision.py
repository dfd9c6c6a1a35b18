"""Modules that install torchvision, compared with the libraries on the same files.

torchvision is not in the environment that the tests themselves run in (`hub.vision` says why), so
the modules and what they are compared with run in a process that has it.
"""

import base64
import io
import json
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.contracts.generation import GenerateOptions, GenerateRequest
from generator.handlers import Handlers
from hub import vision
from hub.testing import RunningHub
from models.tasks import LIBRARIES

sys.path.insert(0, str(Path(__file__).parent))
from modules import DRIVER, Built, build_modules, drive, without_network

HOSTILE = 'it\'s a "frog", really\n{{ .text }} $(id) `id` 喵 🐸'
PICTURE = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
FRAMES = [PICTURE.rotate(10 * number) for number in range(4)]
SOUND = (np.sin(np.arange(16_000) / 20) * 0.5 * 32767).astype("<i2")


def as_png(*frames: Image.Image) -> str:
    file = io.BytesIO()
    frames[0].save(file, "png", save_all=len(frames) > 1, append_images=list(frames[1:]))
    return base64.b64encode(file.getvalue()).decode()


def as_wav(faster: int = 1, sound: Any = SOUND) -> str:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(sound[::faster].tobytes())
    return base64.b64encode(file.getvalue()).decode()


IMAGE, AUDIO, FEW = as_png(PICTURE), as_wav(), {"max_new_tokens": 8}
ABOUT = {"text": HOSTILE, **FEW}
# By model name: its task, one input, and the parameters.
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "image-text-to-text": ("image-text-to-text", IMAGE, ABOUT),
    "qwen-vl": ("image-text-to-text", IMAGE, ABOUT),
    "packed-vl": ("image-text-to-text", IMAGE, ABOUT),
    "image-to-text": ("image-to-text", IMAGE, FEW),
    "video-text-to-text": ("video-text-to-text", as_png(*FRAMES), {"frames": 4, **ABOUT}),
    "audio-text-to-text": ("audio-text-to-text", {"audio": AUDIO, "text": HOSTILE}, FEW),
    "any-to-any": ("any-to-any", {"text": HOSTILE, "audio": AUDIO}, FEW),
    "mask-generation": (
        "mask-generation",
        IMAGE,
        {"points": 4, "threshold": 0.5, "stability": 0.0},
    ),
    "visual-document-retrieval": (
        "visual-document-retrieval",
        IMAGE,
        {"query": HOSTILE, "vectors": True},
    ),
    "timm-classification": ("image-classification", IMAGE, {}),
    "timm-features": ("image-feature-extraction", IMAGE, {}),
}


@pytest.fixture(scope="module")
def modules(hub_process: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    modules = build_modules(hub_process, tmp_path_factory.mktemp("modules"), "tiny", CASES)
    apps = {name: {"app": str(module.app)} for name, module in modules.items()}
    drive([sys.executable, str(DRIVER), "fetch"], apps, HF_ENDPOINT=hub_process.url)
    return modules


@pytest.fixture(scope="module")
def answers(modules: dict[str, Built]) -> dict[str, tuple[tuple[int, Any], Any]]:
    """Return, by module name, its exit code, its result and the library's output."""
    frames = [as_png(frame) for frame in FRAMES]
    cases = {}
    for name, (task, value, parameters) in CASES.items():
        app = modules[name].app
        variables = modules[name].variables(request={"inputs": [value], "parameters": parameters})
        cases[name] = (str(app), variables, task, str(app / "model"), frames, AUDIO, HOSTILE)
    command = [*without_network(), sys.executable, str(DRIVER.with_name("with_torchvision.py"))]
    environment = {**vision.environment(), "HF_HUB_OFFLINE": "1"}
    answered: dict[str, tuple[tuple[int, Any], Any]] = json.loads(
        drive(command, cases, **environment)
    )
    return answered


def to_numbers(answer: Any) -> Any:
    """Decode masks to rows of 0 and 1, since two programs may compress an image differently."""
    if isinstance(answer, list):
        return [to_numbers(item) for item in answer]
    if isinstance(answer, dict) and "mask" in answer:
        with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
            return {**answer, "mask": np.asarray(mask).astype(int).tolist()}
    return answer


def close(answer: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(
            close(answer[name], expected[name]) for name in expected
        )
    if isinstance(expected, list):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if isinstance(expected, float):
        return answer == pytest.approx(expected, rel=1e-3, abs=1e-5)
    return bool(answer == expected)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_torchvision_module_answers_like_the_library(
    name: str, answers: dict[str, tuple[tuple[int, Any], Any]]
) -> None:
    (code, result), expected = answers[name]
    assert (code, result["status"]) == (0, "success"), result
    assert expected[0]
    assert close(to_numbers(result["outputs"]), expected)


def test_every_timm_task_has_a_test_case() -> None:
    assert {task for name, (task, *_) in CASES.items() if name.startswith("timm-")} == set(
        LIBRARIES["timm"]
    )


async def test_a_cuda_image_keeps_its_own_torchvision(handlers: Handlers) -> None:
    for model, kept in (("tiny-timm-features", True), ("tiny-text-classification", False)):
        request = GenerateRequest(
            model_url=f"lilypad/{model}", options=GenerateOptions.model_validate({"gpu": True})
        )
        files = (await handlers.generate(request)).files
        (removed,) = [line for line in files["Dockerfile"].splitlines() if "uninstall" in line]
        assert ("torchvision" not in removed) is kept
        assert ("torchvision==" in files["requirements.txt"]) is kept
