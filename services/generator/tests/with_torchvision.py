"""Program that runs modules and their libraries in a process with torchvision.

    python with_torchvision.py < CASES > ANSWERS

CASES is JSON {name: [app, variables, task, folder, pictures, sound, text]}: pictures and the sound
as base64. ANSWERS is JSON {name: [[exit code, result.json], what the library answers]}.
"""

import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import driver
import timm
import torch
import transformers
from PIL import Image

TOKENS = 8


def continued(folder: str, kind: str, text: str | None, **media: Any) -> list[Any]:
    """Return the model's reply to a chat turn with one part of `kind` and a text."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForMultimodalLM.from_pretrained(folder).float().eval()
    parts = [{"type": kind}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    encoded = processor(text=prompt, **media, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**encoded, max_new_tokens=TOKENS, do_sample=False)[0]
    tokens = tokens[encoded["input_ids"].shape[1] :]
    return [{"generated_text": processor.decode(tokens, skip_special_tokens=True).strip()}]


def captioned(folder: str, picture: Image.Image) -> list[Any]:
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokens = model.generate(
        **images(picture, return_tensors="pt"), max_new_tokens=TOKENS, do_sample=False
    )
    writer = transformers.AutoTokenizer.from_pretrained(folder)
    return [{"generated_text": writer.decode(tokens[0], skip_special_tokens=True).strip()}]


def masked(folder: str, picture: Image.Image) -> list[Any]:
    masks = transformers.pipeline("mask-generation", model=folder, device="cpu")(
        picture, points_per_crop=4, pred_iou_thresh=0.5, stability_score_thresh=0.0
    )
    return [
        [
            {"score": float(score), "mask": mask.int().tolist()}
            for score, mask in zip(masks["scores"], masks["masks"], strict=True)
        ]
    ]


def searched(folder: str, picture: Image.Image, query: str) -> list[Any]:
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.ColQwen2ForRetrieval.from_pretrained(folder).eval()
    with torch.inference_mode():
        page = model(**processor.process_images(images=[picture])).embeddings
        query_vectors = model(**processor.process_queries(text=[query])).embeddings
    score = float(processor.score_retrieval(query_vectors, page)[0, 0])
    return [{"score": score, "vectors": page[0].tolist()}]


def classified(folder: str, picture: Image.Image, *, headless: bool) -> list[Any]:
    model = timm.create_model(
        f"local-dir:{folder}", pretrained=True, **({"num_classes": 0} if headless else {})
    ).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        answer = model(prepare(picture)[None])[0]
    if headless:
        return [answer.tolist()]
    rows = zip(("frog", "lily pad", "pond"), answer.softmax(-1).tolist(), strict=True)
    best = sorted(rows, key=lambda row: -row[1])
    return [[{"label": label, "score": score} for label, score in best]]


def expected(task: str, folder: str, pictures: list[Any], sound: Any, text: str) -> list[Any]:
    first = pictures[0]
    match task:
        case "image-to-text":
            return captioned(folder, first)
        case "image-text-to-text":
            return continued(folder, "image", text, images=first)
        case "audio-text-to-text" | "any-to-any":
            return continued(folder, "audio", text, audio=sound)
        case "video-text-to-text":
            count = len(pictures)
            known = {"fps": 25.0, "total_num_frames": count, "frames_indices": list(range(count))}
            return continued(
                folder,
                "video",
                text,
                videos=[pictures],
                video_metadata=[{**known, "duration": count / 25}],
                do_sample_frames=False,
            )
        case "mask-generation":
            return masked(folder, first)
        case "visual-document-retrieval":
            return searched(folder, first, text)
        case _:
            return classified(folder, first, headless=task == "image-feature-extraction")


def read_sound(encoded: str) -> Any:
    samples = torch.frombuffer(bytearray(base64.b64decode(encoded)[44:]), dtype=torch.int16)
    return (samples.float() / 32768).numpy()


def main() -> None:
    answers = {}
    with contextlib.redirect_stdout(sys.stderr):
        for name, (app, variables, *case) in json.load(sys.stdin).items():
            task, folder, pictures, sound, text = case
            read = [
                Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
                for encoded in pictures
            ]
            answers[name] = (
                driver.run(Path(app), variables),
                expected(task, folder, read, read_sound(sound), text),
            )
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
