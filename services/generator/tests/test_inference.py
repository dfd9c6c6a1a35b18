"""A generated module is built as its Dockerfile says and run without a network."""

import base64
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub.testing import RunningHub

from common.contracts.generation import GenerateOptions, GenerateRequest
from generator.handlers import Handlers

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build

Build = Callable[..., Any]


@pytest.fixture
def make(handlers: Handlers, hub: RunningHub, tmp_path: Path) -> Build:
    async def make(model: str, **options: Any) -> Built:
        request = GenerateRequest(model_url=model, options=GenerateOptions(**options))
        module = await handlers.generate(request)
        return build(module.files, tmp_path / model.replace("/", "-"), HF_ENDPOINT=hub.url)

    return make


def by_the_library(module: Built, task: str, inputs: list[Any], **parameters: Any) -> Any:
    """What transformers itself answers on the same files."""
    import transformers

    pipeline = transformers.pipeline(task, model=str(module.app / "model"), device="cpu")
    return [pipeline(value, **parameters) for value in inputs]


def close(answer: Any, expected: Any) -> bool:
    """Equal, numbers within what another order of additions changes."""
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(
            close(answer[k], expected[k]) for k in answer
        )
    if isinstance(expected, list):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if isinstance(expected, float):
        return answer == pytest.approx(expected, rel=1e-4, abs=1e-5)
    return answer == expected


TEXTS = ["a lily on the pond", 'it\'s a "cat", really\n{{ .text }} $(id) `id`', "喵", "frog " * 40]


async def test_text_classification(make: Build) -> None:
    module = await make("lilypad/tiny-text-classification")
    code, result = module.run(request={"inputs": TEXTS})
    assert (code, result["status"]) == (0, "success")
    expected = by_the_library(module, "text-classification", TEXTS, top_k=None, truncation=True)
    assert close(result["outputs"], expected)
    assert result["model"]["id"] == "lilypad/tiny-text-classification"
    assert len(result["model"]["commit"]) == 40
    assert result["timings"]["inference"] > 0


async def test_feature_extraction(make: Build) -> None:
    module = await make("lilypad/tiny-feature-extraction", batch_size=1)
    code, result = module.run(request={"inputs": TEXTS})
    assert code == 0
    expected = by_the_library(module, "feature-extraction", TEXTS, truncation=True)
    assert close(result["outputs"], [answer for answer in expected])


async def test_text_generation_continues_a_text_and_a_chat(make: Build) -> None:
    module = await make("lilypad/tiny-text-generation")
    chat = [{"role": "user", "content": "hello"}]
    code, result = module.run(request={"inputs": [TEXTS[1]], "parameters": {"max_new_tokens": 12}})
    assert code == 0
    wanted = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
    assert result["outputs"] == by_the_library(module, "text-generation", [TEXTS[1]], **wanted)[0]
    _, result = module.run(request={"inputs": [chat], "parameters": {"max_new_tokens": 12}})
    assert result["outputs"] == by_the_library(module, "text-generation", [chat], **wanted)[0]


async def test_a_seed_repeats_what_is_chosen_at_random(make: Build) -> None:
    module = await make("lilypad/tiny-text-generation")
    inputs = {"text": "hello", "temperature": "1.5", "max_new_tokens": "16"}
    once, again, other = (
        module.run({**inputs, "seed": seed})[1]["outputs"] for seed in ("7", "7", "8")
    )
    assert once == again != other


async def test_image_classification(make: Build) -> None:
    from PIL import Image

    module = await make("lilypad/tiny-image-classification")
    picture = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    file = io.BytesIO()
    picture.save(file, "png")
    encoded = base64.b64encode(file.getvalue()).decode()
    code, result = module.run(request={"inputs": [encoded, encoded], "parameters": {"top_k": 2}})
    assert code == 0
    expected = by_the_library(module, "image-classification", [picture], top_k=2)
    assert close(result["outputs"], expected * 2)


async def test_a_scalar_input_arrives_as_it_was_typed(make: Build) -> None:
    module = await make("lilypad/tiny-text-classification")
    for text in TEXTS:
        code, result = module.run({"text": text, "top_k": "1"})
        assert code == 0
        expected = by_the_library(module, "text-classification", [text], top_k=1, truncation=True)
        assert close(result["outputs"], expected)
