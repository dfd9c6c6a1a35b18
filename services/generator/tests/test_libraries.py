"""Modules of sentence-transformers and diffusers, built and run like those of transformers."""

import base64
import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from PIL import Image, ImageSequence
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder

from generator.handlers import Handlers
from hub.testing import RunningHub
from models.tasks import LIBRARIES

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, builder

Make = Callable[..., Any]
TEXTS = ["a lily on the pond", 'it\'s a "cat", really\n{{ .text }} $(id)', "喵", "frog " * 40]
HUB = Path(__file__).parents[3] / "tests/hub"
PICTURE = Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 50).convert("RGB")


@pytest.fixture
def make(handlers: Handlers, hub: RunningHub, tmp_path: Path) -> Make:
    return builder(handlers, hub, tmp_path)


def outputs(module: Built, inputs: list[Any], **parameters: Any) -> list[Any]:
    code, result = module.run_here({"inputs": inputs, "parameters": parameters})
    assert code == 0, result
    answers: list[Any] = result["outputs"]
    return answers


def directory(module: Built) -> str:
    return str(module.app / "model")


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-5)


def as_png(*frames: Image.Image) -> str:
    file = io.BytesIO()
    frames[0].save(file, "png", save_all=len(frames) > 1, append_images=list(frames[1:]))
    return base64.b64encode(file.getvalue()).decode()


def from_png(encoded: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)])


async def test_a_sentence_similarity_module_answers_like_the_library(make: Make) -> None:
    module = await make("lilypad/tiny-sentence-similarity")
    model = SentenceTransformer(directory(module), device="cpu")
    answers = outputs(module, TEXTS, query="a frog")
    expected = model.encode(TEXTS)
    for answer, vector in zip(answers, expected, strict=True):
        assert answer["embedding"] == near(vector.tolist())
    scores = model.similarity(model.encode(["a frog"]), expected)[0].tolist()
    assert [answer["similarity"] for answer in answers] == near(scores)
    assert outputs(module, TEXTS[:1])[0]["similarity"] is None


async def test_a_real_model_recognises_similar_sentences(make: Make) -> None:
    module = await make("lilypad/all-minilm-l6-v2")
    texts = ["A frog sits on a lily pad.", "The invoice is due on Friday."]
    answers = outputs(module, texts, query="An amphibian rests on a leaf.")
    like, unlike = (answer["similarity"] for answer in answers)
    assert like > 0.4 > 0.2 > unlike
    expected = SentenceTransformer(directory(module), device="cpu").encode(texts)
    assert np.array([answer["embedding"] for answer in answers]) == near(expected)


async def test_feature_extraction_returns_one_vector_per_sentence(make: Make) -> None:
    module = await make("lilypad/tiny-sentence-features")
    expected = SentenceTransformer(directory(module), device="cpu").encode(TEXTS)
    assert np.array(outputs(module, TEXTS)) == near(expected)


async def test_a_text_ranking_module_answers_like_the_library(make: Make) -> None:
    module = await make("lilypad/tiny-text-ranking")
    expected = CrossEncoder(directory(module), device="cpu").predict(
        [("a frog", text) for text in TEXTS]
    )
    answers = outputs(module, TEXTS, query="a frog")
    assert [answer["score"] for answer in answers] == near(expected.tolist())
    code, result = module.run_here(inputs={"text": TEXTS[0]})
    assert (code, result["error"]["message"]) == (2, "query: is missing")


# torch warns on first use of sparse tensors that they are in beta.
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("name", ["tiny-text-retrieval", "tiny-sparse-features"])
async def test_a_text_retrieval_module_answers_like_the_library(make: Make, name: str) -> None:
    module = await make(f"lilypad/{name}")
    model = SparseEncoder(directory(module), device="cpu")
    documents = model.encode_document(TEXTS)
    answers = outputs(module, TEXTS, query="a frog", top_k=5)
    for answer, tokens in zip(answers, model.decode(documents, top_k=5), strict=True):
        assert [token["token"] for token in answer["tokens"]] == [name for name, _ in tokens]
        assert [token["weight"] for token in answer["tokens"]] == near([w for _, w in tokens])
    scores = model.similarity(model.encode_query(["a frog"]), documents)[0].tolist()
    assert [answer["score"] for answer in answers] == near(scores)


def diffused(module: Built, **arguments: Any) -> Any:
    """Return the output of diffusers itself on the same files."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(directory(module))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(generator=torch.Generator("cpu").manual_seed(7), **arguments)


def same(encoded: str, frames: Any) -> bool:
    """Return whether two images are equal up to one of 255 steps of rounding."""
    actual = from_png(encoded).astype(int)
    expected = np.stack([np.asarray(frame) for frame in frames]).astype(int)
    return actual.shape == expected.shape and int(abs(actual - expected).max()) <= 1


@pytest.mark.long
async def test_an_unconditional_image_generation_module_answers_like_the_library(
    make: Make,
) -> None:
    module = await make("lilypad/tiny-unconditional-image-generation")
    first, second = outputs(module, [7, "8"], steps=2)
    assert same(first["image"], diffused(module, num_inference_steps=2).images)
    assert first != second


@pytest.mark.long
async def test_a_text_to_image_module_answers_like_the_library(make: Make) -> None:
    module = await make("lilypad/tiny-text-to-image")
    answers = outputs(module, TEXTS[:2], steps=2, guidance=3, width=32, height=32, seed=7)
    wanted = {"num_inference_steps": 2, "guidance_scale": 3, "width": 32, "height": 32}
    for answer, text in zip(answers, TEXTS, strict=False):
        assert same(answer["image"], diffused(module, prompt=text, **wanted).images)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "parameters", "options"),
    [
        ("diffused-image-to-image", {"strength": 0.8, "steps": 4}, {"strength": 0.8}),
        ("image-text-to-image", {"steps": 4}, {}),
    ],
)
async def test_an_image_to_image_module_answers_like_the_library(
    make: Make, model: str, parameters: dict[str, Any], options: dict[str, Any]
) -> None:
    module = await make(f"lilypad/tiny-{model}")
    answers = outputs(module, [as_png(PICTURE)], prompt="a frog", seed=7, **parameters)
    expected = diffused(module, prompt="a frog", image=PICTURE, num_inference_steps=4, **options)
    assert same(answers[0]["image"], expected.images)


def as_pictures(frames: Any) -> list[Any]:
    return [(frame * 255).round().astype("uint8") for frame in frames]


SMALL = {"height": 16, "width": 16}


@pytest.mark.long
async def test_a_text_to_video_module_answers_like_the_library(make: Make) -> None:
    module = await make("lilypad/tiny-text-to-video")
    answer = outputs(module, ["a frog"], steps=2, frames=5, seed=7, **SMALL)[0]
    expected = diffused(module, prompt="a frog", num_inference_steps=2, num_frames=5, **SMALL)
    assert same(answer["video"], as_pictures(expected.frames[0]))
    assert answer["frames"] == 5


@pytest.mark.long
@pytest.mark.parametrize("task", ["image-to-video", "image-text-to-video"])
async def test_an_image_to_video_module_answers_like_the_library(make: Make, task: str) -> None:
    module = await make(f"lilypad/tiny-{task}")
    answer = outputs(
        module, [as_png(PICTURE)], prompt="a frog", steps=2, frames=5, seed=7, **SMALL
    )[0]
    wanted = {"prompt": "a frog", "num_inference_steps": 2, "num_frames": 5, **SMALL}
    expected = diffused(module, image=PICTURE, **wanted)
    assert same(answer["video"], as_pictures(expected.frames[0]))


@pytest.mark.long
async def test_a_video_to_video_module_answers_like_the_library(make: Make) -> None:
    module = await make("lilypad/tiny-video-to-video")
    clip = [PICTURE.resize((16, 16)).rotate(turn) for turn in (0, 30, 60, 90, 120)]
    answer = outputs(module, [as_png(*clip)], prompt="a frog", steps=2, seed=7, **SMALL)[0]
    expected = diffused(module, video=clip, prompt="a frog", num_inference_steps=2, **SMALL)
    assert same(answer["video"], as_pictures(expected.frames[0]))
    code, result = module.run_here(inputs={"video": "no video"})
    assert (code, result["error"]["type"]) == (2, "InvalidInput")


# diffusers converts torch's numbers in a way that NumPy 2 has deprecated.
OLD_ARRAYS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SQUARE = {"height": 32, "width": 32}
# By model name: the input, the parameters, and the matching arguments of diffusers.
MORE: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "ddim": (7, {}, {}),
    "sdxl": (TEXTS[1], SQUARE, {"prompt": TEXTS[1], **SQUARE}),
    "sdxl-image": (
        as_png(PICTURE),
        {"prompt": "a frog", "strength": 0.8},
        {"prompt": "a frog", "image": PICTURE, "strength": 0.8},
    ),
    "sd3": (TEXTS[1], SQUARE, {"prompt": TEXTS[1], **SQUARE}),
    "flux": (TEXTS[1], SQUARE, {"prompt": TEXTS[1], **SQUARE}),
    # As the library's example has it for a distilled model, unless the caller says otherwise.
    "z-image-turbo": (TEXTS[1], SQUARE, {"prompt": TEXTS[1], "guidance_scale": 0.0, **SQUARE}),
    "qwen-image": (
        TEXTS[1],
        {"guidance": 40, **SQUARE},
        {"prompt": TEXTS[1], "negative_prompt": " ", "true_cfg_scale": 40, **SQUARE},
    ),
    "ltx": ("a frog", {"frames": 9, **SQUARE}, {"prompt": "a frog", "num_frames": 9, **SQUARE}),
    "ltx-image": (
        as_png(PICTURE),
        {"prompt": "a frog", "frames": 9, **SQUARE},
        {"prompt": "a frog", "image": PICTURE, "num_frames": 9, **SQUARE},
    ),
}


@pytest.mark.long
@OLD_ARRAYS
@pytest.mark.parametrize("name", MORE)
async def test_each_remaining_diffusers_pipeline_answers_like_the_library(
    make: Make, name: str
) -> None:
    module = await make(f"lilypad/tiny-{name}")
    value, own, options = MORE[name]
    parameters = {"steps": 3, **own} | ({} if name == "ddim" else {"seed": 7})
    code, result = module.run_here({"inputs": [value], "parameters": parameters})
    assert code == 0, result
    (answer,) = result["outputs"]
    expected = diffused(module, num_inference_steps=3, **options)
    if "video" in answer:
        frames = [np.asarray(frame) for frame in expected.frames[0]]
        assert same(answer["video"], frames)
    else:
        assert same(answer["image"], expected.images)


def test_every_diffusers_pipeline_is_run_by_a_test() -> None:
    makers = (HUB / "pipelines.py").read_text() + (HUB / "painters.py").read_text()
    assert all(name in makers for row in LIBRARIES["diffusers"].values() for name in row.classes)


@pytest.mark.long
@OLD_ARRAYS
@pytest.mark.parametrize("task", ["text-to-3d", "image-to-3d"])
async def test_a_3d_module_answers_like_the_library(
    make: Make, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A coarser grid than the usual 128 points a side, with which one shape takes ten seconds.
    to_mesh = functools.partialmethod(ShapERenderer.decode_to_mesh, grid_size=24)
    monkeypatch.setattr(ShapERenderer, "decode_to_mesh", to_mesh)
    module = await make(f"lilypad/tiny-{task}")
    text = task.startswith("text")
    value, options = (
        (TEXTS[1], {"prompt": TEXTS[1]}) if text else (as_png(PICTURE), {"image": PICTURE})
    )
    answer = outputs(module, [value], steps=2, seed=7)[0]
    shape = diffused(module, num_inference_steps=2, output_type="mesh", **options).images[0]
    assert (answer["corners"], answer["triangles"]) == (len(shape.verts), len(shape.faces))
    assert answer["triangles"] > 100
    head, _, rest = base64.b64decode(answer["shape"]).partition(b"end_header\n")
    assert b"element vertex %d\n" % len(shape.verts) in head
    corners = np.frombuffer(rest, "<f4,<f4,<f4,u1,u1,u1", len(shape.verts))
    assert np.array(corners[["f0", "f1", "f2"]].tolist()) == near(shape.verts.numpy())
    reds = (shape.vertex_channels["R"].numpy() * 255.499).round()
    assert abs(corners["f3"].astype(float) - reds).max() <= 1


def test_every_row_of_sentence_transformers_and_diffusers_has_a_test() -> None:
    source = Path(__file__).read_text()
    # feature-extraction has another model name here, since transformers serves it as well.
    named = {*LIBRARIES["sentence-transformers"], *LIBRARIES["diffusers"]} - {
        "feature-extraction",
        "image-to-image",
    }
    assert all(f'{name}"' in source for name in named)
