"""Modules of sounds, videos, tables and several things at once, beside the library itself."""

import base64
import inspect
import io
import json
import math
import sys
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import MBart50Tokenizer, NllbTokenizer

from common.contracts.generation import GenerateRequest
from generator import rendering
from generator.handlers import Handlers
from generator.media_tasks import MEDIA_TASKS
from generator.templates.inference.models import auto_class
from hub import media
from hub.testing import RunningHub

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
    """What transformers itself answers on a module's files."""

    def __init__(self, module: Built, task: str) -> None:
        self.folder, self.task = str(module.app / "model"), task
        torch.manual_seed(0)

    def pipeline(self, *inputs: Any, **parameters: Any) -> Any:
        found = transformers.pipeline(self.task, model=self.folder, device="cpu")
        torch.manual_seed(0)
        return found(*inputs, **parameters)

    def model(self) -> Any:
        return getattr(transformers, auto_class(self.task)).from_pretrained(self.folder).eval()

    def run(self, encoded: Any) -> Any:
        with torch.inference_mode():
            return self.model()(**encoded)

    def generate(self, encoded: Any, count: int = 8) -> list[int]:
        with torch.inference_mode():
            tokens = self.model().generate(**encoded, max_new_tokens=count, do_sample=False)
        found: list[int] = tokens[0].tolist()
        return found

    def load(self, kind: str) -> Any:
        return getattr(transformers, f"Auto{kind}").from_pretrained(self.folder)


def heard() -> dict[str, Any]:
    return {"raw": SOUND.astype(np.float32) / 32768, "sampling_rate": 16_000}


def speech(library: Library) -> Any:
    return [library.pipeline(heard())]


def sounds(library: Library) -> Any:
    return [library.pipeline(heard(), top_k=3)]


def rewritten(library: Library) -> Any:
    tokenizer, name = library.load("Tokenizer"), library.task.replace("summarization", "summary")
    tokens = library.generate(tokenizer(HOSTILE, return_tensors="pt"))
    return [{f"{name}_text": tokenizer.decode(tokens, skip_special_tokens=True).strip()}]


def found(library: Library) -> Any:
    """The best of all spans, tried one by one."""
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
    made = library.run(library.load("ImageProcessor")(PICTURE, return_tensors="pt"))
    pixels = (made.reconstruction[0, :, :96, :128].clamp(0, 1) * 255).round().byte()
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
    made = library.pipeline("the frog is on the pad")
    samples = (np.clip(made["audio"].squeeze(), -1, 1) * 32767).round().astype("<i2")
    rate = made["sampling_rate"]
    audio = as_wav(samples, rate)
    return [{"audio": audio, "sampling_rate": rate, "seconds": len(samples) / rate}]


IMAGE, AUDIO, FEW = as_png(PICTURE), as_wav(SOUND), {"max_new_tokens": 8}
CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "automatic-speech-recognition": (AUDIO, {}, speech),
    "audio-classification": (AUDIO, {"top_k": 3}, sounds),
    "summarization": (HOSTILE, FEW, rewritten),
    "translation": (HOSTILE, FEW, rewritten),
    "question-answering": (
        {"question": "who is on the pad", "context": "the frog is on the lily pad"},
        {},
        found,
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


# Models of a task that are not called as it is.
NAMED = {"image-to-image": "super-resolution"}
ALSO = {"panoptic-segmentation": "image-segmentation", "music": "text-to-audio"}


@pytest.mark.parametrize("name", [*(NAMED.get(task, task) for task in CASES), *ALSO])
async def test_a_module_answers_what_the_library_does(
    name: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    task = {**{named: task for task, named in NAMED.items()}, **ALSO}.get(name, name)
    made = await handlers.generate(GenerateRequest(model_url=f"lilypad/tiny-{name}"))
    module = build(made.files, tmp_path / "module", HF_ENDPOINT=hub.url)
    value, parameters, expected = CASES[task]
    code, result = module.run_here({"inputs": [value], "parameters": parameters})
    assert (code, result["status"]) == (0, "success"), result
    assert result["outputs"][0] not in ([], {})
    assert close(
        result["outputs"], json.loads(json.dumps(expected(Library(module, task)), default=plain))
    )


def plain(value: Any) -> Any:
    return value.tolist()


def test_every_row_has_a_case() -> None:
    seen = {task for name, (task, *_) in SEEN.items() if not name.startswith("timm-")}
    assert CASES.keys() | seen == MEDIA_TASKS.keys()


def of_a_script(family: str) -> dict[str, Any]:
    """The names that a module's script of this family defines."""
    names: dict[str, Any] = {"__name__": family, "__file__": __file__}
    exec(rendering.script(family), names)
    return names


@pytest.mark.parametrize(
    ("family", "read", "values"),
    [
        ("hearing", "read_audio", (HOSTILE, IMAGE, "", 7, as_wav(SOUND[:0]))),
        ("watching", "read_frames", (HOSTILE, AUDIO, "../etc/passwd", "a\0b", None)),
        ("forecasting", "read_series", (HOSTILE, "[1, NaN]", [1], [1, "2"], 7, "[" * 100_000)),
        ("tables", "read_table", (HOSTILE, "{}", '{"a": [1], "b": []}', 7, "a,b\n1", "[" * 9999)),
        ("documents", "read_words", (None, "7", '[["a", [1]]]', '[["a", [0, 0, 0, 1001]]]')),
    ],
)
def test_what_cannot_be_read_is_said_to_be_so(
    family: str, read: str, values: tuple[Any, ...]
) -> None:
    names = of_a_script(family)
    count = {"read_audio": (16_000,), "read_frames": (4,)}.get(read, ())
    for value in values:
        with pytest.raises(names["InvalidInput"]):
            names[read](value, *count)


def test_an_input_of_several_parts_names_those_that_there_are() -> None:
    names = of_a_script("reading")
    manifest = {
        "inputs": [
            {"name": "question", "type": "string"},
            {"name": "context", "type": "string"},
            {"name": "seed", "type": "integer"},
        ]
    }
    given = {"context": "for all"}
    asked = names["combine"](manifest, ["a", {"question": "b", "context": "own"}], given)
    assert asked == [
        {"question": "a", "context": "for all"},
        {"question": "b", "context": "own"},
    ]
    for wrong in ({"context": "own"}, {"question": "b", HOSTILE: 1}, {"question": "b", "seed": 1}):
        with pytest.raises(names["InvalidInput"]):
            names["combine"](manifest, [wrong], given)


def test_a_model_that_also_speaks_is_told_to_write_and_how_much() -> None:
    bounds = of_a_script("conversing")["bounds"]
    speaks = transformers.Qwen3OmniMoeForConditionalGeneration
    given = bounds(SimpleNamespace(has_talker=True), 5)
    assert given == {"thinker_max_new_tokens": 5, "generation_mode": "text"}
    assert given.keys() <= inspect.signature(speaks.generate).parameters.keys()
    assert bounds(SimpleNamespace(), 5) == {"max_new_tokens": 5}


def test_a_sound_of_another_rate_is_heard_at_the_models_own() -> None:
    read_audio = of_a_script("hearing")["read_audio"]
    assert len(read_audio(as_wav(SOUND[:4000], 8000), 16_000)) == 8000


def test_a_table_may_be_csv() -> None:
    read_table = of_a_script("tables")["read_table"]
    assert read_table('frog,age\n"lily, the 2nd",2\n') == {"frog": ["lily, the 2nd"], "age": ["2"]}


def test_a_sound_longer_than_there_is_room_for_is_spelled_in_parts(tmp_path: Path) -> None:
    media.speller(tmp_path)
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path))
    lengths: list[int] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        lengths.append(given["input_values"].shape[-1])

    pipeline.model.register_forward_pre_hook(note, with_kwargs=True)
    long = np.tile(SOUND, 3)
    manifest = {"model": {"task": "automatic-speech-recognition"}, "run": {"maxTokens": 64}}
    answer = of_a_script("hearing")["answer"]
    [found] = answer(pipeline, manifest, [as_wav(long)], {"timestamps": False})
    assert max(lengths) <= 64 * pipeline.model.config.inputs_to_logits_ratio < len(long)
    samples = long.astype("float32") / 32768
    expected = pipeline({"raw": samples, "sampling_rate": 16_000}, chunk_length_s=64 * 320 / 16_000)
    assert found == {"text": expected["text"]}


def test_a_sound_that_is_judged_as_a_whole_is_cut_where_there_is_no_more_room(
    tmp_path: Path,
) -> None:
    media.sound_classifier(tmp_path)
    pipeline = transformers.pipeline("audio-classification", model=str(tmp_path))
    manifest = {"model": {"task": "audio-classification"}, "run": {"maxTokens": 25}}
    answer = of_a_script("hearing")["answer"]
    long, cut = np.tile(SOUND, 3), SOUND[: 25 * 320]
    given = [as_wav(long), as_wav(cut)]
    found, expected = answer(pipeline, manifest, given, {"top_k": None})
    assert close(found, expected)


# The script of modules that write a text from a text, loaded but not run.
rewriting = SimpleNamespace(**of_a_script("rewriting"))


def languages(tokenizer: Any, usual: dict[str, int | None], **named: str) -> str | None:
    """The one that a model of several languages is told to write."""
    settings = {"forced_bos_token_id": None, "decoder_start_token_id": None, **usual}
    model = SimpleNamespace(config=SimpleNamespace(), generation_config=SimpleNamespace(**settings))
    prefix, told = rewriting.choose_languages(model, tokenizer, "translation", named)
    assert prefix == ""
    forced = told.get("forced_bos_token_id")
    return None if forced is None else str(tokenizer.convert_ids_to_tokens(forced))


@pytest.mark.parametrize(
    ("kind", "english", "german"),
    [(NllbTokenizer, "eng_Latn", "deu_Latn"), (MBart50Tokenizer, "en_XX", "de_DE")],
)
def test_a_model_of_several_languages_writes_english_unless_another_is_named(
    kind: type[Any], english: str, german: str
) -> None:
    tokenizer = kind()
    end = {"decoder_start_token_id": tokenizer.eos_token_id}
    assert languages(tokenizer, end) == english
    assert languages(tokenizer, end, target_language=german) == german
    assert languages(tokenizer, end, source_language=german) == english
    assert tokenizer.src_lang == german
    # Its own settings name the one that it writes.
    assert languages(tokenizer, {"forced_bos_token_id": 7}) is None
    of_one = {"decoder_start_token_id": tokenizer.convert_tokens_to_ids(german)}
    assert languages(tokenizer, of_one) is None
    for name in ("source_language", "target_language"):
        for wrong in ("en", "</s> {{", "klingon"):
            with pytest.raises(rewriting.InvalidInput, match=name):
                languages(tokenizer, end, **{name: wrong})


def test_a_model_of_several_pairs_translates_the_first_unless_another_is_named() -> None:
    pairs = {f"translation_en_to_{to}": {"prefix": f"to {to}: "} for to in ("ro", "de", "fr")}
    known = {"summarization": {"prefix": "summarize: "}, **pairs}
    model = SimpleNamespace(config=SimpleNamespace(task_specific_params=known))

    def prefix(task: str = "translation", **named: str) -> str:
        return rewriting.choose_languages(model, SimpleNamespace(), task, named)[0]

    assert prefix() == "to de: "
    assert prefix(source_language="en", target_language="fr") == "to fr: "
    assert prefix("summarization") == "summarize: "
    with pytest.raises(rewriting.InvalidInput, match="translation_en_to_de, translation_en_to_fr"):
        prefix(target_language="fr")
    model.config.task_specific_params = None
    assert prefix() == ""
