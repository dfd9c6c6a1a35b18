"""Models that know several tasks generate for each as their config says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from generator.templates.inference import rewriting, translation
from hub import lifelike

TEXT = "a frog on the pond"
SUMMARY = {"num_beams": 3, "min_length": 12, "no_repeat_ngram_size": 2, "length_penalty": 2.0}
GERMAN = {"num_beams": 4, "early_stopping": True}
OF_TASKS = {
    "summarization": {"prefix": "summarize: ", "max_length": 200, **SUMMARY},
    "translation_en_to_de": {"prefix": "translate English to German: ", **GERMAN},
}


@pytest.mark.parametrize(
    ("tag", "field", "asked"),
    [
        ("summarization", "summary_text", {}),
        ("summarization", "summary_text", {"num_beams": 1}),
        ("translation", "translation_text", {}),
    ],
)
def test_a_task_is_generated_with_the_settings_that_the_config_has_for_it(
    tag: str, field: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    lifelike.t5(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_specific_params": OF_TASKS}))
    manifest = {
        "model": {"task": tag},
        "run": {
            "class": "AutoModelForSeq2SeqLM", "processor": "AutoTokenizer",
            "attention": "eager", "compile": False, "batchSize": 4, "maxTokens": 128,
        },
        "outputs": [{"fields": [field]}],
        "inputs": [],
    }  # fmt: skip
    family = rewriting if tag == "summarization" else translation
    loaded = family.load(manifest, str(tmp_path), "cpu", torch.float32)
    parameters = {"max_new_tokens": 24, "num_beams": None, **asked}
    [answer] = family.answer(loaded, manifest, [TEXT], parameters)

    library = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    name = tag if tag == "summarization" else "translation_en_to_de"
    settings = {"summarization": SUMMARY}.get(tag, GERMAN) | asked
    inputs = tokenizer(OF_TASKS[name]["prefix"] + TEXT, return_tensors="pt")

    def generate(**options: Any) -> str:
        tokens = library.generate(**inputs, max_new_tokens=24, do_sample=False, **options)
        return str(tokenizer.decode(tokens[0], skip_special_tokens=True).strip())

    assert answer == {field: generate(**settings)}
    assert answer != {field: generate()}
