"""Modules of audio, video, table and multimodal models, compared with the library itself."""

import base64
import io
import json
import math
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from common.contracts.generation import GenerateRequest
from generator.handlers import Handlers
from hub.testing import RunningHub
from models.tasks import LIBRARIES, row

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build
from test_vision import CASES as SEEN

HOSTILE = 'it\'s a "frog", really\n{{ .text }} $(id) `id` 喵 🐸'
PICTURE = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
SOUND = (np.sin(np.arange(16_000) / 20) * 0.5 * 32767).astype("<i2")
TABLE = {"frog": ["lily", "pad", "the 'best' \"one\""], "age": ["2", "3", "4"]}
WORDS = [["the", [0, 0, 100, 50]], ["frog", [100, 0, 200, 50]], ["happy", [200, 0, 300, 50]]]
SERIES = [math.sin(step / 3) for step in range(32)]


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def as_png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "png")
    return as_base64(file.getvalue())


def as_wav(samples: Any, rate: int = 16_000) -> str:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return as_base64(file.getvalue())


def as_video(count: int) -> str:
    frames = [PICTURE.rotate(10 * number) for number in range(count)]
    file = io.BytesIO()
    frames[0].save(file, "png", save_all=True, append_images=frames[1:])
    return as_base64(file.getvalue())


def close(answer: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(
            close(answer[name], expected[name]) for name in expected
        )
    if isinstance(expected, (list, tuple)):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if hasattr(expected, "tolist"):
        return close(answer, expected.tolist())
    if isinstance(expected, float):
        return answer == pytest.approx(expected, rel=1e-3, abs=1e-5)
    return bool(answer == expected)


class Library:
    """The library itself: transformers, run on a module's files."""

    def __init__(self, module: Built, task: str) -> None:
        self.folder, self.task = str(module.app / "model"), task
        torch.manual_seed(0)

    def pipeline(self, *inputs: Any, **parameters: Any) -> Any:
        pipeline = transformers.pipeline(self.task, model=self.folder, device="cpu")
        torch.manual_seed(0)
        return pipeline(*inputs, **parameters)

    def model(self) -> Any:
        return (
            getattr(transformers, row(self.task, "transformers").auto_classes[0])
            .from_pretrained(self.folder)
            .eval()
        )

    def run(self, encoded: Any) -> Any:
        with torch.inference_mode():
            return self.model()(**encoded)

    def generate(self, encoded: Any, count: int = 8) -> list[int]:
        with torch.inference_mode():
            tokens = self.model().generate(**encoded, max_new_tokens=count, do_sample=False)
        ids: list[int] = tokens[0].tolist()
        return ids

    def load(self, kind: str) -> Any:
        return getattr(transformers, f"Auto{kind}").from_pretrained(self.folder)


def transcribed() -> dict[str, Any]:
    return {"raw": SOUND.astype(np.float32) / 32768, "sampling_rate": 16_000}


def speech(library: Library) -> Any:
    return [library.pipeline(transcribed())]


def sounds(library: Library) -> Any:
    return [library.pipeline(transcribed(), top_k=3)]


def rewritten(library: Library) -> Any:
    tokenizer = library.load("Tokenizer")
    [name] = row(library.task, "transformers").returns.fields
    tokens = library.generate(tokenizer(HOSTILE, return_tensors="pt"))
    return [{name: tokenizer.decode(tokens, skip_special_tokens=True).strip()}]


def best_span(library: Library) -> Any:
    """Find the best span by trying all of them."""
    tokenizer, context = library.load("Tokenizer"), "the frog is on the lily pad"
    encoded = tokenizer("who is on the pad", context, return_tensors="pt")
    output = library.run(encoded)
    inside = [at for at, owner in enumerate(encoded.sequence_ids(0)) if owner == 1]
    begins, ends = (
        logits[0, inside].softmax(-1) for logits in (output.start_logits, output.end_logits)
    )
    score, first, last = max(
        (float(begins[a] * ends[b]), a, b)
        for a in range(len(inside))
        for b in range(a, len(inside))
    )
    start = encoded.token_to_chars(inside[first]).start
    end = encoded.token_to_chars(inside[last]).end
    return [{"answer": context[start:end], "score": score, "start": start, "end": end}]


def chosen(library: Library) -> Any:
    tokenizer, choices = library.load("Tokenizer"), ["happy frog", "sad pond"]
    encoded = tokenizer([HOSTILE] * 2, choices, return_tensors="pt", padding=True)
    logits = library.run({name: value[None] for name, value in encoded.items()}).logits[0]
    index = int(logits.argmax())
    return [{"choice": choices[index], "index": index, "scores": logits.softmax(-1)}]


def zero_shot(library: Library) -> Any:
    more = {"threshold": 0.0} if library.task == "zero-shot-object-detection" else {}
    return [library.pipeline(PICTURE, candidate_labels=["frog", "lily"], **more)]


def segments(library: Library) -> Any:
    return [[{**part, "mask": as_png(part["mask"])} for part in library.pipeline(PICTURE)]]


def depth(library: Library) -> Any:
    answer = library.pipeline(PICTURE)
    return [{"predicted_depth": answer["predicted_depth"], "depth": as_png(answer["depth"])}]


def upscaled(library: Library) -> Any:
    output = library.run(library.load("ImageProcessor")(PICTURE, return_tensors="pt"))
    pixels = (output.reconstruction[0, :, :96, :128].clamp(0, 1) * 255).round().byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return [{"image": as_png(picture), "width": 128, "height": 96}]


def keypoints(library: Library) -> Any:
    processor = library.load("ImageProcessor")
    output = library.run(processor(PICTURE, return_tensors="pt"))
    points = processor.post_process_keypoint_detection(output, [(48, 64)])[0]
    names = ("keypoints", "scores", "descriptors")
    rows = zip(*(points[name].tolist() for name in names), strict=True)
    best = sorted(rows, key=lambda row: -row[1])[:5]
    return [[{"x": p[0], "y": p[1], "score": s, "descriptor": d} for p, s, d in best]]


def watched(library: Library) -> Any:
    frames = [PICTURE.rotate(10 * number) for number in (0, 2, 4, 6)]
    logits = library.run(library.load("ImageProcessor")(frames, return_tensors="pt")).logits[0]
    labels = ("jump", "swim", "sleep")
    rows = zip(labels, logits.softmax(-1).tolist(), strict=True)
    return [[{"label": n, "score": s} for n, s in sorted(rows, key=lambda row: -row[1])]]


def seen(library: Library) -> Any:
    encoded = library.load("Processor")(images=PICTURE, text="is it a frog", return_tensors="pt")
    scores = library.run(encoded).logits[0].sigmoid().tolist()
    rows = zip(("yes", "no", "two", "green"), scores, strict=True)
    return [[{"answer": n, "score": s} for n, s in sorted(rows, key=lambda row: -row[1])[:2]]]


def pages(library: Library) -> Any:
    page = {"image": PICTURE, "question": "who is happy", "word_boxes": WORDS}
    return [library.pipeline(page, max_seq_len=128, doc_stride=32)]


def tables(library: Library) -> Any:
    return [library.pipeline(table=TABLE, query="how old is lily?")]


def forecast(library: Library) -> Any:
    output = library.run({"past_values": [torch.tensor(SERIES)], "freq": [1]})
    return [
        {"mean": output.mean_predictions[0, :4], "quantiles": output.full_predictions[0, :4, 1:]}
    ]


def spoken(library: Library) -> Any:
    speech = library.pipeline("the frog is on the pad")
    samples = (np.clip(speech["audio"].squeeze(), -1, 1) * 32767).round().astype("<i2")
    rate = speech["sampling_rate"]
    audio = as_wav(samples, rate)
    return [{"audio": audio, "sampling_rate": rate, "seconds": len(samples) / rate}]


IMAGE, AUDIO, FEW = as_png(PICTURE), as_wav(SOUND), {"max_new_tokens": 8}
CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "automatic-speech-recognition": (AUDIO, {}, speech),
    "audio-classification": (AUDIO, {"top_k": 3}, sounds),
    "summarization": (HOSTILE, FEW, rewritten),
    "translation": (HOSTILE, FEW, rewritten),
    "text2text-generation": (HOSTILE, FEW, rewritten),
    "question-answering": (
        {"question": "who is on the pad", "context": "the frog is on the lily pad"},
        {},
        best_span,
    ),
    "multiple-choice": (HOSTILE, {"choices": "happy frog\nsad pond\n"}, chosen),
    "zero-shot-image-classification": (IMAGE, {"candidate_labels": "frog, lily"}, zero_shot),
    "zero-shot-object-detection": (
        IMAGE,
        {"candidate_labels": "frog, lily", "threshold": 0.0},
        zero_shot,
    ),
    "visual-question-answering": (
        {"image": IMAGE, "question": "is it a frog"},
        {"top_k": 2},
        seen,
    ),
    "document-question-answering": (
        {"image": IMAGE, "question": "who is happy", "words": json.dumps(WORDS)},
        {},
        pages,
    ),
    "table-question-answering": (
        json.dumps(TABLE),
        {"question": "how old is lily?"},
        tables,
    ),
    "text-to-speech": ("the frog is on the pad", {}, spoken),
    "text-to-audio": ("the frog is on the pad", {}, spoken),
    "image-segmentation": (IMAGE, {}, segments),
    "depth-estimation": (IMAGE, {}, depth),
    "image-to-image": (IMAGE, {}, upscaled),
    "keypoint-detection": (IMAGE, {"top_k": 5}, keypoints),
    "video-classification": (as_video(7), {}, watched),
    "time-series-forecasting": (SERIES, {"horizon": 4, "frequency": 1}, forecast),
}


# Names of models that differ from their task.
NAMED = {"image-to-image": "super-resolution"}
ALSO = {"panoptic-segmentation": "image-segmentation", "music": "text-to-audio"}


@pytest.mark.long
@pytest.mark.parametrize("name", [*(NAMED.get(task, task) for task in CASES), *ALSO])
async def test_a_media_module_answers_like_the_library(
    name: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    task = {**{named: task for task, named in NAMED.items()}, **ALSO}.get(name, name)
    generated = await handlers.generate(GenerateRequest(model_url=f"lilypad/tiny-{name}"))
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    value, parameters, expected = CASES[task]
    code, result = module.run_here({"inputs": [value], "parameters": parameters})
    assert (code, result["status"]) == (0, "success"), result
    assert result["outputs"][0] not in ([], {})
    assert close(
        result["outputs"], json.loads(json.dumps(expected(Library(module, task)), default=plain))
    )


async def test_a_table_and_question_beyond_the_models_limit_are_rejected(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    model = "lilypad/tiny-table-question-answering"
    generated = await handlers.generate(GenerateRequest(model_url=model))
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    long_table = {**TABLE, "age": ["2", "frog " * 600, "4"]}
    for table, question in ((TABLE, "frog " * 2000), (long_table, "how old is lily?")):
        request = {"inputs": [json.dumps(table)], "parameters": {"question": question}}
        code, result = module.run_here(request)
        assert (code, result["error"]["type"]) == (2, "InvalidInput"), result
        assert "tokens with the question; at most" in result["error"]["message"]


def plain(value: Any) -> Any:
    return value.tolist()


def test_every_transformers_row_has_a_test_case() -> None:
    seen = {task for name, (task, *_) in SEEN.items() if not name.startswith("timm-")}
    files = ("test_inference.py", "test_recommended.py")
    source = "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in files)
    tags = LIBRARIES["transformers"].keys()
    written = ("tiny-{}", '"{}", ', '"{}")')
    elsewhere = {tag for tag in tags if any(form.format(tag) in source for form in written)}
    assert CASES.keys() | seen | elsewhere == tags
