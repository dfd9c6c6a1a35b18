"""Modules built from their Dockerfile and run in this process, next to the library."""

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from PIL import Image

from common.contracts.generation import GenerateRequest
from generator.handlers import Handlers
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build_image, builder

Build = Callable[..., Any]


@pytest.fixture
def make(handlers: Handlers, hub: RunningHub, tmp_path: Path) -> Build:
    return builder(handlers, hub, tmp_path)


def by_the_library(module: Built, task: str, inputs: list[Any], **parameters: Any) -> Any:
    """Return the output of transformers itself on the same files."""
    pipeline = transformers.pipeline(task, model=str(module.app / "model"), device="cpu")
    return [pipeline(value, **parameters) for value in inputs]


def close(answer: Any, expected: Any) -> bool:
    """Compare results up to the rounding error of another order of summation."""
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(
            close(answer[k], expected[k]) for k in answer
        )
    if isinstance(expected, list):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if isinstance(expected, float):
        return answer == pytest.approx(expected, rel=1e-4, abs=1e-5)
    return answer == expected


def to_plain(value: Any) -> Any:
    """Convert NumPy's numbers to Python's."""
    return json.loads(json.dumps(value, default=float))


def as_png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


PICTURES = [
    Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert("RGB")
    for size in ((64, 48), (32, 32))
]
TEXTS = ["a lily on the pond", 'it\'s a "cat", really\n{{ .text }} $(id) `id`', "喵", "frog " * 40]


async def test_a_text_classification_module_answers_like_the_library(make: Build) -> None:
    module = await make("lilypad/tiny-text-classification")
    code, result = module.run_here({"inputs": TEXTS})
    assert (code, result["status"]) == (0, "success")
    expected = by_the_library(module, "text-classification", TEXTS, top_k=None, truncation=True)
    assert close(result["outputs"], expected)
    assert result["model"]["id"] == "lilypad/tiny-text-classification"
    assert len(result["model"]["commit"]) == 40
    assert result["timings"]["inference"] > 0


async def test_a_feature_extraction_module_answers_like_the_library(make: Build) -> None:
    module = await make("lilypad/tiny-feature-extraction", batch_size=1)
    code, result = module.run_here({"inputs": TEXTS})
    assert code == 0
    expected = by_the_library(module, "feature-extraction", TEXTS, truncation=True)
    assert close(result["outputs"], expected)


async def test_text_generation_continues_a_text_and_a_chat(make: Build) -> None:
    module = await make("lilypad/tiny-text-generation")
    chat = [{"role": "user", "content": "hello"}]
    parameters = {"max_new_tokens": 12, "raw": True}
    code, result = module.run_here({"inputs": [TEXTS[1]], "parameters": parameters})
    assert code == 0
    wanted = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
    assert result["outputs"] == by_the_library(module, "text-generation", [TEXTS[1]], **wanted)[0]
    _, result = module.run_here({"inputs": [chat], "parameters": {"max_new_tokens": 12}})
    assert result["outputs"] == by_the_library(module, "text-generation", [chat], **wanted)[0]


async def test_an_image_classification_module_answers_like_the_library(make: Build) -> None:
    module = await make("lilypad/tiny-image-classification")
    encoded = [as_png(picture) for picture in PICTURES]
    code, result = module.run_here({"inputs": encoded, "parameters": {"top_k": 2}})
    assert code == 0
    expected = by_the_library(module, "image-classification", PICTURES, top_k=2)
    assert close(result["outputs"], expected)


async def test_a_number_given_as_text_becomes_a_numeric_parameter(make: Build) -> None:
    module = await make("lilypad/tiny-text-classification")
    code, result = module.run_here(inputs={"text": TEXTS[1], "top_k": "1"})
    assert code == 0
    expected = by_the_library(module, "text-classification", TEXTS[1:2], top_k=1, truncation=True)
    assert close(result["outputs"], expected)


async def test_a_token_classification_module_answers_like_the_library(make: Build) -> None:
    module = await make("lilypad/tiny-token-classification")
    code, result = module.run_here({"inputs": TEXTS})
    assert code == 0
    expected = by_the_library(module, "token-classification", TEXTS, aggregation_strategy="simple")
    assert close(result["outputs"], to_plain(expected))


async def test_a_text_longer_than_the_models_limit_is_tagged_to_its_end(make: Build) -> None:
    module = await make("lilypad/tiny-token-classification")
    text = "hello frog " * 200
    code, result = module.run_here({"inputs": [text]})
    assert code == 0, result
    assert result["outputs"][0][-1]["end"] > len(text) - 20
    for parameters in ({"aggregation_strategy": "none"}, {"aggregation_strategy": "most"}):
        code, result = module.run_here({"inputs": [text], "parameters": parameters})
        assert (code, result["error"]["type"]) == (2, "InvalidInput")
        assert "aggregation_strategy" in result["error"]["message"]


async def test_a_fill_mask_module_answers_like_the_library(make: Build) -> None:
    module = await make("lilypad/tiny-fill-mask")
    texts = ["a [MASK] on the pond", "the frog [MASK]"]
    code, result = module.run_here({"inputs": texts, "parameters": {"top_k": 3}})
    assert code == 0
    assert close(result["outputs"], by_the_library(module, "fill-mask", texts, top_k=3))
    assert module.run_here(inputs={"text": texts[0]})[1]["outputs"][0][0].keys() == {
        "score",
        "token",
        "token_str",
        "sequence",
    }
    for text in ("nothing to fill", "frog " * 200 + "[MASK]"):
        code, result = module.run_here({"inputs": [text]})
        assert (code, result["error"]["type"]) == (2, "InvalidInput")


async def test_a_zero_shot_classification_module_answers_like_the_library(make: Build) -> None:
    module = await make("lilypad/tiny-zero-shot-classification")
    inputs = {"text": "a frog on the pond", "candidate_labels": "animal, plant,film"}
    code, result = module.run_here(inputs=inputs)
    assert code == 0
    expected = by_the_library(
        module,
        "zero-shot-classification",
        [inputs["text"]],
        candidate_labels=["animal", "plant", "film"],
    )
    assert close(result["outputs"], expected)


@pytest.mark.parametrize(
    ("task", "parameters"),
    [("image-feature-extraction", {}), ("object-detection", {"threshold": 0.0})],
)
async def test_a_module_of_any_other_image_task_answers_like_the_library(
    make: Build, task: str, parameters: dict[str, Any]
) -> None:
    module = await make(f"lilypad/tiny-{task}")
    encoded = [as_png(picture) for picture in PICTURES]
    code, result = module.run_here({"inputs": encoded, "parameters": parameters})
    assert code == 0, result
    expected = by_the_library(module, task, PICTURES, **parameters)
    assert close(result["outputs"], to_plain(expected))


@pytest.mark.long
async def test_the_built_image_gives_the_same_answer_for_a_seed_in_every_process(
    handlers: Handlers, hub: RunningHub, make: Build, tmp_path: Path
) -> None:
    model = "lilypad/tiny-text-generation"
    files = (await handlers.generate(GenerateRequest(model_url=model))).files
    image = build_image(files, tmp_path / "image", hub.url)
    chosen = {"text": "hello", "temperature": "1.5", "max_new_tokens": "16"}
    code, result = image.run({**chosen, "seed": "7"})
    assert (code, result["status"], len(result["outputs"])) == (0, "success", 1)
    module = await make(model)
    again, other = (
        module.run_here(inputs={**chosen, "seed": seed})[1]["outputs"] for seed in ("7", "8")
    )
    assert result["outputs"] == again != other


@pytest.mark.long
async def test_a_compiled_module_gives_the_same_answers(make: Build) -> None:
    module = await make("lilypad/tiny-text-classification", optimization_level="full")
    code, result = module.run_here(inputs={"text": TEXTS[0]})
    assert code == 0, result
    expected = by_the_library(module, "text-classification", [TEXTS[0]], top_k=None)
    assert close(result["outputs"], expected)
