"""Models whose tokenizer has tokens that the weights have no vectors for."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

from generator import rendering
from hub import families

PARAMETERS = {"top_k": 1, "text_pair": None}
LONG, SHORT = "the frog sat on the lily pad", "the frog"


def loaded(family: str, task: str, folder: Path, **settings: Any) -> tuple[Any, Any, Any]:
    """Load the family's script and its model from a folder; return both, and a manifest."""
    script: Any = ModuleType("run_inference")
    script.__file__ = __file__
    exec(compile(rendering.script(family), "run_inference.py", "exec"), script.__dict__)
    run = {"attention": "sdpa", "compile": False, "batchSize": 4, "maxTokens": 64, **settings}
    manifest = {"run": run, "model": {"task": task}, "inputs": []}
    return script, script.load(manifest, str(folder), "cpu", torch.float32), manifest


def add_tokens(folder: Path, *names: str, pad: str | None = None) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(names))
    if pad:
        tokenizer.add_special_tokens({"pad_token": pad})
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("family", "task", "make", "parameters"),
    [
        ("text_classification", "text-classification", families.bert_classifier, PARAMETERS),
        ("fill_mask", "fill-mask", families.bert_mask_filler, {"top_k": 1, "targets": None}),
    ],
)
def test_a_token_without_a_vector_is_the_callers_error(
    family: str, task: str, make: Any, parameters: dict[str, Any], tmp_path: Path
) -> None:
    make(tmp_path)
    add_tokens(tmp_path, "zygote")
    script, model, manifest = loaded(family, task, tmp_path)
    mask = " [MASK]" if task == "fill-mask" else ""
    assert len(script.answer(model, manifest, [LONG + mask], dict(parameters))) == 1
    with pytest.raises(script.InvalidInput, match="no vector for the token 'zygote'"):
        script.answer(model, manifest, [f"the zygote{mask}"], dict(parameters))


def test_a_pad_token_without_a_vector_changes_no_answer(tmp_path: Path) -> None:
    families.bert_classifier(tmp_path)
    task = ("text_classification", "text-classification", tmp_path)
    script, model, manifest = loaded(*task)
    expected = script.answer(model, manifest, [LONG, SHORT], dict(PARAMETERS))
    add_tokens(tmp_path, pad="<added>")
    script, model, manifest = loaded(*task)
    answers = script.answer(model, manifest, [LONG, SHORT], dict(PARAMETERS))
    for [answer], [right] in zip(answers, expected, strict=True):
        assert answer["score"] == pytest.approx(right["score"], abs=1e-6)


def test_a_generator_pads_with_a_token_that_has_a_vector(tmp_path: Path) -> None:
    families.llama_generator(tmp_path)
    add_tokens(tmp_path, pad="<added>")
    script, model, manifest = loaded("text_generation", "text-generation", tmp_path)
    parameters = {"raw": True, "max_new_tokens": 4}
    answers = script.answer(model, manifest, [LONG, SHORT], dict(parameters))
    [alone] = script.answer(model, manifest, [SHORT], dict(parameters))
    assert answers[1] == alone


def test_an_embedder_pads_with_a_token_that_has_a_vector(tmp_path: Path) -> None:
    families.sentence_transformer(tmp_path)
    add_tokens(tmp_path, pad="<added>")
    settings = {"class": "SentenceTransformer"}
    script, model, manifest = loaded("embedding", "feature-extraction", tmp_path, **settings)
    parameters = {"role": None, "dimensions": None}
    both = script.answer(model, manifest, [LONG, SHORT], dict(parameters))
    [alone] = script.answer(model, manifest, [SHORT], dict(parameters))
    assert both[1] == pytest.approx(alone, abs=1e-6)
    with pytest.raises(script.InvalidInput, match="no vector for the token '<added>'"):
        script.answer(model, manifest, ["<added>"], dict(parameters))
