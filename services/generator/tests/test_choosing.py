"""Tokens are chosen as the model's generation_config.json says, or as `temperature` does."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

from generator.templates.inference import multimodal, text_generation
from generator.templates.inference.devices import seed_everything
from hub import families, media

sys.path.insert(0, str(Path(__file__).parent))
from test_recommended import manifest
from test_vision import PICTURE, as_png

# Free enough that a random text of eight tokens is not the likeliest one.
AUTHORS = {"do_sample": True, "temperature": 3.0, "top_k": 30}
TEXT = "a frog on the pond"


def library_and_module(
    folder: Path, family: ModuleType, settings: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """Save a model with these settings; return it, the module's, and a request's manifest."""
    torch.manual_seed(3)
    if family is text_generation:
        families.llama_generator(folder)
        module_manifest, kind = manifest("text-generation"), "AutoModelForCausalLM"
    else:
        media.seer(folder)
        kind = "AutoModelForImageTextToText"
        run = {"class": kind, "processor": "AutoProcessor"}
        module_manifest = manifest("image-text-to-text", **run)
        names = ("image", "text", "max_new_tokens", "temperature")
        module_manifest["inputs"] = [{"name": name, "type": "string"} for name in names]
    library = getattr(transformers, kind).from_pretrained(folder).eval()
    with torch.no_grad():  # so that the temperature matters: random weights give even chances
        library.get_output_embeddings().weight *= 30
    library.save_pretrained(folder)
    transformers.GenerationConfig(**settings).save_pretrained(folder)
    library = getattr(transformers, kind).from_pretrained(folder).eval()  # with these settings
    return library, family.load(module_manifest, str(folder), "cpu", torch.float32), module_manifest


@pytest.mark.parametrize("settings", [AUTHORS, {"do_sample": True, "top_k": 30}, {}])
@pytest.mark.parametrize("family", [text_generation, multimodal])
def test_tokens_are_chosen_as_generation_config_says_unless_a_temperature_is_given(
    family: ModuleType, settings: dict[str, Any], tmp_path: Path
) -> None:
    library, loaded, module_manifest = library_and_module(tmp_path, family, settings)
    usual = {"max_new_tokens": 8, "temperature": None, "text": None}
    if family is text_generation:
        usual |= {"raw": True, "top_p": None, "top_k": None, "repetition_penalty": None}
        del usual["text"]
        value: Any = TEXT
        writer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        encoded = writer(TEXT, return_tensors="pt")
    else:
        value = as_png(PICTURE)
        encoded = multimodal.encode(*loaded, {"image": value})
        writer = loaded[1]

    def answer(seed: int = 7, temperature: float | None = None) -> str:
        seed_everything(seed)
        parameters = {**usual, "temperature": temperature}
        [written] = family.answer(loaded, module_manifest, [value], parameters)
        return str(written["generated_text"]).strip()

    def expected(**options: Any) -> str:
        seed_everything(7)
        if family is text_generation:
            torch.empty((), dtype=torch.int64).random_()  # as a pipeline's loader of inputs does
        with torch.inference_mode():
            [tokens] = library.generate(**encoded, max_new_tokens=8, **options)
        tokens = tokens[encoded["input_ids"].shape[1] :]
        return str(writer.batch_decode(tokens[None], skip_special_tokens=True)[0]).strip()

    assert answer() == answer() == expected()
    assert (answer() != expected(do_sample=False)) is bool(settings)
    assert (answer() != answer(seed=8)) is bool(settings)
    assert answer(temperature=0) == expected(do_sample=False)
    assert answer(temperature=4.0) == expected(do_sample=True, temperature=4.0)
