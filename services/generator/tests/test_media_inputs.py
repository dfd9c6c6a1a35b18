"""Audio, video, table and series inputs of modules, and their bounds."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from transformers import MBart50Tokenizer, NllbTokenizer

from generator import rendering
from hub.sounds import sound_classifier, speller

sys.path.insert(0, str(Path(__file__).parent))
from test_media import AUDIO, HOSTILE, IMAGE, SOUND, as_wav, close


def of_a_script(family: str) -> dict[str, Any]:
    """Execute a family's script; return the names that it defines."""
    names: dict[str, Any] = {"__name__": family, "__file__": __file__}
    exec(rendering.script(family), names)
    return names


@pytest.mark.parametrize(
    ("family", "read", "values"),
    [
        ("speech", "read_audio", (HOSTILE, IMAGE, "", 7, as_wav(SOUND[:0]))),
        ("video_classification", "read_frames", (HOSTILE, AUDIO, "../etc/passwd", "a\0b", None)),
        ("forecasting", "read_series", (HOSTILE, "[1, NaN]", [1], [1, "2"], 7, "[" * 100_000)),
        ("table_qa", "read_table", (HOSTILE, "{}", '{"a": [1], "b": []}', 7, "a,b\n1", "[" * 9999)),
        ("document_qa", "read_words", (None, "7", '[["a", [1]]]', '[["a", [0, 0, 0, 1001]]]')),
    ],
)
def test_an_unreadable_input_is_rejected_with_the_reason(
    family: str, read: str, values: tuple[Any, ...]
) -> None:
    names = of_a_script(family)
    count = {"read_audio": (16_000,), "read_frames": (4,)}.get(read, ())
    for value in values:
        with pytest.raises(names["InvalidInput"]):
            names[read](value, *count)


def test_an_input_of_several_parts_must_name_each_of_them_and_no_others() -> None:
    names = of_a_script("question_answering")
    manifest = {
        "inputs": [
            {"name": "question", "type": "string"},
            {"name": "context", "type": "string"},
            {"name": "seed", "type": "integer"},
        ]
    }
    parameters = {"context": "for all"}
    combined = names["combine"](manifest, ["a", {"question": "b", "context": "own"}], parameters)
    assert combined == [
        {"question": "a", "context": "for all"},
        {"question": "b", "context": "own"},
    ]
    for wrong in ({"context": "own"}, {"question": "b", HOSTILE: 1}, {"question": "b", "seed": 1}):
        with pytest.raises(names["InvalidInput"]):
            names["combine"](manifest, [wrong], parameters)


def test_a_model_that_can_speak_gets_arguments_for_text_of_bounded_length() -> None:
    bounds = of_a_script("multimodal")["bounds"]
    speaks = transformers.Qwen3OmniMoeForConditionalGeneration
    arguments = bounds(SimpleNamespace(has_talker=True), 5)
    assert arguments == {"thinker_max_new_tokens": 5, "generation_mode": "text"}
    assert arguments.keys() <= inspect.signature(speaks.generate).parameters.keys()
    assert bounds(SimpleNamespace(), 5) == {"max_new_tokens": 5}


def test_audio_is_resampled_to_the_models_rate() -> None:
    read_audio = of_a_script("speech")["read_audio"]
    assert len(read_audio(as_wav(SOUND[:4000], 8000), 16_000)) == 8000


def test_a_csv_table_is_accepted() -> None:
    read_table = of_a_script("table_qa")["read_table"]
    assert read_table('frog,age\n"lily, the 2nd",2\n') == {"frog": ["lily, the 2nd"], "age": ["2"]}


def test_long_audio_is_transcribed_in_parts(tmp_path: Path) -> None:
    speller(tmp_path)
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path))
    lengths: list[int] = []

    def note(_: Any, __: Any, audio: dict[str, Any]) -> None:
        lengths.append(audio["input_values"].shape[-1])

    pipeline.model.register_forward_pre_hook(note, with_kwargs=True)
    long = np.tile(SOUND, 3)
    manifest = {"model": {"task": "automatic-speech-recognition"}, "run": {"maxTokens": 64}}
    answer = of_a_script("speech")["answer"]
    [transcript] = answer(pipeline, manifest, [as_wav(long)], {"timestamps": False})
    assert max(lengths) <= 64 * pipeline.model.config.inputs_to_logits_ratio < len(long)
    samples = long.astype("float32") / 32768
    expected = pipeline({"raw": samples, "sampling_rate": 16_000}, chunk_length_s=64 * 320 / 16_000)
    assert transcript == {"text": expected["text"]}


def test_audio_classified_as_a_whole_is_truncated_at_the_limit(
    tmp_path: Path,
) -> None:
    sound_classifier(tmp_path)
    pipeline = transformers.pipeline("audio-classification", model=str(tmp_path))
    manifest = {"model": {"task": "audio-classification"}, "run": {"maxTokens": 25}}
    answer = of_a_script("audio_classification")["answer"]
    long, cut = np.tile(SOUND, 3), SOUND[: 25 * 320]
    sounds = [as_wav(long), as_wav(cut)]
    actual, expected = answer(pipeline, manifest, sounds, {"top_k": None})
    assert close(actual, expected)


# The script of text-to-text modules, loaded but not run.
translating = SimpleNamespace(**of_a_script("translation"))


def languages(tokenizer: Any, usual: dict[str, int | None], **named: str) -> str | None:
    """Return the target language that a multilingual model is given."""
    settings = {"forced_bos_token_id": None, "decoder_start_token_id": None, **usual}
    model = SimpleNamespace(config=SimpleNamespace(), generation_config=SimpleNamespace(**settings))
    prefix, arguments = translating.choose_languages(model, tokenizer, named)
    assert prefix == ""
    forced = arguments.get("forced_bos_token_id")
    return None if forced is None else str(tokenizer.convert_ids_to_tokens(forced))


@pytest.mark.parametrize(
    ("kind", "english", "german"),
    [(NllbTokenizer, "eng_Latn", "deu_Latn"), (MBart50Tokenizer, "en_XX", "de_DE")],
)
def test_a_multilingual_model_writes_english_unless_another_language_is_requested(
    kind: type[Any], english: str, german: str
) -> None:
    tokenizer = kind()
    end = {"decoder_start_token_id": tokenizer.eos_token_id}
    assert languages(tokenizer, end) == english
    assert languages(tokenizer, end, target_language=german) == german
    assert languages(tokenizer, end, source_language=german) == english
    assert tokenizer.src_lang == german
    # The model's own settings name the target language.
    assert languages(tokenizer, {"forced_bos_token_id": 7}) is None
    of_one = {"decoder_start_token_id": tokenizer.convert_tokens_to_ids(german)}
    assert languages(tokenizer, of_one) is None
    for name in ("source_language", "target_language"):
        for wrong in ("en", "</s> {{", "klingon"):
            with pytest.raises(translating.InvalidInput, match=name):
                languages(tokenizer, end, **{name: wrong})


def test_a_marian_model_of_several_languages_gets_the_token_of_the_requested_language() -> None:
    model = SimpleNamespace(config=SimpleNamespace(task_specific_params=None))
    tokenizer = SimpleNamespace(supported_language_codes=[">>fra<<", ">>ita<<"])

    def prefix(**named: str) -> str:
        return translating.choose_languages(model, tokenizer, named)[0]

    assert (prefix(target_language="ita"), prefix()) == (">>ita<< ", "")
    for wrong in ({"target_language": "deu"}, {"source_language": "eng"}):
        with pytest.raises(translating.InvalidInput, match="only a target_language: fra, ita"):
            prefix(**wrong)


def test_a_model_of_several_language_pairs_uses_the_first_unless_another_is_requested() -> None:
    pairs = {f"translation_en_to_{to}": {"prefix": f"to {to}: "} for to in ("ro", "de", "fr")}
    known = {"summarization": {"prefix": "summarize: "}, **pairs}
    model = SimpleNamespace(config=SimpleNamespace(task_specific_params=known))

    def prefix(**named: str) -> str:
        return translating.choose_languages(model, SimpleNamespace(), named)[0]

    assert prefix() == "to de: "
    assert prefix(source_language="en", target_language="fr") == "to fr: "
    assert translating.prefix_of(model, "summarization") == "summarize: "
    with pytest.raises(
        translating.InvalidInput, match="translation_en_to_de, translation_en_to_fr"
    ):
        prefix(target_language="fr")
    model.config.task_specific_params = None
    assert prefix() == ""
