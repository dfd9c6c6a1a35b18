"""Answers to a question about a page, given its words and their positions."""

import json
from typing import Any

from generator.templates.inference.combining import combine
from generator.templates.inference.images import read_image
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.loading import load as load
from generator.templates.inference.strings import check_text


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {answer, score, start, end} per page, best first. Positions count words."""
    max_tokens = min(pipeline.tokenizer.model_max_length, manifest["run"]["maxTokens"])
    answers = []
    for value in combine(manifest, inputs, parameters):
        if value["question"] is None:
            raise InvalidInput("question: is missing")
        check_text("question", value["question"])
        if len(pipeline.tokenizer(value["question"])["input_ids"]) > max_tokens // 2:
            raise InvalidInput(f"question: is longer than {max_tokens // 2} tokens")
        page = {
            "image": read_image(value["image"]),
            "question": value["question"],
            "word_boxes": read_words(value["words"]),
        }
        room = {"max_seq_len": max_tokens, "doc_stride": max_tokens // 4}
        answers.append(pipeline(page, top_k=value["top_k"], **room))
    return answers


def read_words(value: Any) -> list[tuple[str, list[int]]]:
    """Read JSON [[word, [left, top, right, bottom]], …]; a page is 1000 wide and 1000 high."""
    try:
        words = [(word, [int(side) for side in box]) for word, box in json.loads(value or "[]")]
    except (TypeError, ValueError, OverflowError, RecursionError):
        words = []
    if not words or len(words) > 100_000:
        raise InvalidInput(
            "words: this model does not read letters; give JSON [[word, [left, top, right, "
            "bottom]], …] from an OCR program, with sides from 0 to 1000"
        )
    for word, box in words:
        check_text("words", word, "each must be a non-empty string")
        if len(box) != 4 or not all(0 <= side <= 1000 for side in box):
            raise InvalidInput("words: a box is [left, top, right, bottom], each from 0 to 1000")
    return words
