import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.contracts.generation import GenerateRequest
from common.errors import ModelRefused
from generator import configs, layout, weights
from generator.description import Description
from generator.handlers import Handlers
from generator.layout import Layout
from generator.recognition import task_of
from generator.refusals import check_architecture
from generator.snapshot import Snapshot
from models.tags import TAGS
from models.tasks import row, rows_of

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub


@pytest.mark.parametrize(
    ("model", "revision", "reason"),
    [
        ("tiny-gated", None, "gated"),
        ("tiny-disabled", None, "disabled"),
        ("tiny-pickle", None, "pickle-only"),
        ("tiny-malicious-pickle", None, "pickle-only"),
        ("encoder-gguf", None, "gguf-only"),
        ("tiny-remote-code", None, "custom-code"),
        ("tiny-internal-attention", None, "custom-code"),
        ("tiny-card-only", None, "no-weights"),
        ("tiny-unknown-task", None, "task"),
        ("tiny-reinforcement-learning", None, "task"),
        ("tiny-hostile-config", None, "architecture"),
        ("tiny-lying-header", None, "weights"),
        ("tiny-lying-header", "past-the-end", "weights"),
        ("tiny-lying-header", "not-json", "weights"),
        ("tiny-lying-header", "absurd", "weights"),
        ("too-big", None, "too-large"),
        ("unwhole-classifier", "no-vocabulary", "incomplete"),
        ("unwhole-classifier", "no-tokenizer", "incomplete"),
        ("unwhole-classifier", "headless", "incomplete"),
        ("unwhole-classifier", "wrapped", "incomplete"),
        ("unwhole-classifier", "japanese", "architecture"),
        ("unwhole-speaker", None, "architecture"),
        ("unwhole-generator", "gptq", "quantized"),
        ("unwhole-generator", "gptq-config", "quantized"),
        ("unwhole-generator", "mlx", "quantized"),
        ("unwhole-generator", "float8", "quantized"),
        ("unwhole-generator", "no-index", "incomplete"),
        ("unwhole-generator", "shard-missing", "incomplete"),
        ("unwhole-generator", "tekken", "incomplete"),
        ("unwhole-pictures", None, "incomplete"),
        ("unwhole-painter", "half", "incomplete"),
        ("unwhole-painter", "no-vocabulary", "incomplete"),
    ],
)
async def test_an_unsupported_model_is_refused_with_the_reason(
    handlers: Handlers, model: str, revision: str | None, reason: str
) -> None:
    request = GenerateRequest(model_url=f"lilypad/{model}", revision=revision)
    with pytest.raises(ModelRefused) as caught:
        await handlers.generate(request)
    assert (caught.value.code, caught.value.status) == (1002, 422)
    assert caught.value.details["reason"] == reason
    assert "RUN" not in caught.value.message


@pytest.mark.parametrize(
    ("description", "reason", "advice"),
    [
        ({"pipeline_tag": "robotics"}, "task", "a policy answers a robot"),
        ({"pipeline_tag": "text-to-image"}, "library", "text-to-image modules run diffusers"),
        ({"config": {"auto_map": {"AutoModel": "x.Y"}}}, "custom-code", "saved by the library"),
        (
            {"config": {"text_config": {"auto_map": {"AutoModel": "x.Y"}}}},
            "custom-code",
            "names no code of its author",
        ),
    ],
)
async def test_a_refusal_suggests_an_alternative(
    description: dict[str, Any], reason: str, advice: str
) -> None:
    with pytest.raises(ModelRefused, match=advice) as caught:
        await fake_hub.handlers(**description).generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == reason
    assert "what would help" in caught.value.message


async def test_an_unknown_tag_is_ignored_in_favour_of_the_models_class(
    handlers: Handlers,
) -> None:
    module = await handlers.generate(GenerateRequest(model_url="lilypad/tiny-hostile-task"))
    assert module.model.task == "text-classification"
    assert "RUN id" not in module.files["Dockerfile"]


async def test_a_classifier_labelled_sentence_transformers_is_served_as_a_classifier() -> None:
    named = {"library_name": "sentence-transformers", "transformersInfo": {}}
    module = await fake_hub.handlers(**named).generate(GenerateRequest(model_url="acme/frog"))
    assert (module.model.library, module.model.task) == ("transformers", "text-classification")


async def test_colberts_own_checkpoint_is_refused_as_a_late_interaction_model() -> None:
    handlers = fake_hub.handlers(
        {"architectures": ["BertModel"]},
        names=("artifact.metadata", "tokenizer.json"),
        pipeline_tag="sentence-similarity",
        library_name="sentence-transformers",
    )
    with pytest.raises(ModelRefused, match="late interaction"):
        await handlers.generate(GenerateRequest(model_url="acme/frog"))


def test_an_embedding_model_is_recognised_without_a_card() -> None:
    steps = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    laid_out = layout.read("modules.json", orjson.dumps(steps))
    description = Description(id="acme/frog", sha="c" * 40)
    assert task_of(Snapshot(description, (), frozenset(), {}, None, laid_out)) == (
        "sentence-similarity"
    )


@pytest.mark.parametrize(
    ("tag", "parts", "task", "refused"),
    [
        # The tag that the library itself gives its sparse encoders.
        ("feature-extraction", ["base.modules.Transformer", "sparse_encoder.models.Splade"], 1, 0),
        (None, ["sparse_encoder.modules.mlm.MLMTransformer"], 1, 0),
        ("fill-mask", ["sparse_encoder.modules.mlm.MLMTransformer"], 0, 0),
        ("text-retrieval", ["models.Transformer", "models.Pooling"], 1, 1),
        ("feature-extraction", ["models.Transformer", "multi_vector_encoder.Mask"], 0, 1),
    ],
)
def test_a_sparse_encoder_is_never_treated_as_a_dense_one(
    tag: str | None, parts: list[str], task: bool, refused: bool
) -> None:
    steps = [{"path": f"{n}_", "type": f"sentence_transformers.{p}"} for n, p in enumerate(parts)]
    laid_out = layout.read("modules.json", orjson.dumps(steps))
    description = Description(id="acme/frog", sha="c" * 40, pipeline_tag=tag)
    read = Snapshot(description, (), frozenset(), {"model_type": "bert"}, None, laid_out)
    name = task_of(read)
    assert name == ("text-retrieval" if task else tag)
    if refused:
        with pytest.raises(ModelRefused, match="is that of a"):
            check_architecture(read, row(name, "sentence-transformers"), "sentence-transformers")
    elif task:
        check_architecture(read, row(name, "sentence-transformers"), "sentence-transformers")


async def test_a_model_without_a_licence_causes_a_warning(handlers: Handlers) -> None:
    module = await handlers.generate(GenerateRequest(model_url="lilypad/tiny-no-licence"))
    assert module.validation.status == "warnings"
    assert "no licence" in module.validation.errors[0]
    assert module.model.license is None


@pytest.mark.parametrize(
    ("license", "outcome", "message"),
    [
        ("mit", "passed", "mit"),
        (["apache-2.0", "mit"], "passed", "apache-2.0, mit"),
        ([], "warning", "names no licence"),
        (["<b>free</b>", {"name": "mit"}], "warning", "names no licence"),
        ("other", "warning", "a licence of its own: read"),
        ("unknown", "warning", "a licence of its own: read"),
    ],
)
async def test_every_licence_on_the_card_is_reported(
    license: Any, outcome: str, message: str
) -> None:
    handlers = fake_hub.handlers(cardData={"license": license})
    module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
    [check] = [check for check in module.validation.checks if check.name == "license"]
    assert check.outcome == outcome
    assert message in check.message
    assert module.model.license == (license if isinstance(license, str) else None)


@pytest.mark.parametrize("name", ["FLUX-1-dev-Non-Commercial-License", "mrl", "qwen-research"])
async def test_a_custom_non_commercial_licence_is_recognised_by_its_name(name: str) -> None:
    handlers = fake_hub.handlers(cardData={"license": "other", "license_name": name})
    with pytest.raises(ModelRefused, match=f"{name.lower()} forbids commercial use"):
        await handlers.generate(GenerateRequest(model_url="acme/frog"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stabilityai-ai-community", "of its own (stabilityai-ai-community): read"),
        ("<b>free</b>", "of its own: read"),
        ({"name": "mit"}, "of its own: read"),
    ],
)
async def test_a_custom_licence_is_reported_by_its_name(name: Any, message: str) -> None:
    handlers = fake_hub.handlers(cardData={"license": "other", "license_name": name})
    module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
    [check] = [check for check in module.validation.checks if check.name == "license"]
    assert (check.outcome, module.model.license) == ("warning", "other")
    assert message in check.message


@pytest.mark.parametrize("license", ["apple-amlr", ["mit", "cc-by-nc-4.0"]])
async def test_a_non_commercial_licence_is_refused_unless_the_caller_accepts_it(
    license: Any,
) -> None:
    handlers = fake_hub.handlers(cardData={"license": license})
    with pytest.raises(ModelRefused, match="forbids commercial use") as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "license"
    accepted = GenerateRequest(model_url="acme/frog", accept=[caught.value.details["reason"]])
    module = await handlers.generate(accepted)
    assert any("forbids commercial use" in message for message in module.validation.errors)
    assert module.validation.status == "warnings"


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {}},
        {"text_config": {"auto_map": {"AutoModel": "x.Y"}}},
        {"layers": [{"deep": {"_attn_implementation_internal": "a/b"}}]},
        {"_experts_implementation_internal": "a/b"},
        {"attn_implementation": "a/b"},
        {"_attn_implementation": {"": "a/b"}},
        {"custom_generate": "a/b"},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
)
def test_a_config_that_loads_code_is_refused_at_any_depth(config: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused):
        configs.check("config.json", config)


def test_a_deeply_nested_config_is_refused() -> None:
    config: dict[str, Any] = {}
    for _ in range(500):
        config = {"a": [config]}
    with pytest.raises(ModelRefused, match="nested"):
        configs.check("config.json", config)


@pytest.mark.parametrize("written", ["[0.0, Infinity]", "NaN", '"\\ud83d"'])
def test_a_config_that_only_pythons_json_accepts_is_read(written: str) -> None:
    content = f'{{"model_type": "mamba2", "time_step_limit": {written}, "hidden_size": 64}}'
    assert configs.read("config.json", content.encode()) == {
        "model_type": "mamba2",
        "hidden_size": 64,
    }


@pytest.mark.parametrize("content", [b"\xff", b"", b"[" * 100_000, b'{"a": Infinity', b"9" * 5000])
def test_a_config_that_no_parser_accepts_is_refused(content: bytes) -> None:
    with pytest.raises(ModelRefused, match="not a JSON object"):
        configs.read("config.json", content)


def test_a_config_with_too_many_values_is_refused_before_parsing() -> None:
    content = orjson.dumps({"id2label": dict.fromkeys(map(str, range(300_000)), "x")})
    with pytest.raises(ModelRefused, match="more than 100,000 values"):
        configs.read("config.json", content)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": {"dtype": "X9", "shape": [9223372036854775807, 9], "data_offsets": [0, 0]}}',
        orjson.dumps(
            {
                f"{n}": {"dtype": f"X{n}", "shape": [1], "data_offsets": [0, 0]}
                for n in range(weights.MAX_DTYPES + 1)
            }
        ),
    ],
)
def test_a_malformed_weights_header_is_refused(header: bytes) -> None:
    with pytest.raises(ModelRefused) as caught:
        weights.read_header(header, 8 + len(header))
    assert caught.value.details["reason"] == "weights"


def test_a_malformed_pipeline_component_is_refused() -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": [["diffusers"], "UNet"]}
    with pytest.raises(ModelRefused) as caught:
        layout.read("model_index.json", orjson.dumps(index))
    assert caught.value.details["reason"] == "custom-code"


def test_an_ordinary_config_is_accepted() -> None:
    configs.check("config.json", {"attn_implementation": None, "_attn_implementation": "sdpa"})


@pytest.mark.parametrize("tag", [tag for tag in TAGS if not rows_of(tag)])
def test_an_unserved_tag_is_refused_by_name_with_an_alternative(tag: str) -> None:
    description = Description(id="acme/frog", sha="c" * 40, pipeline_tag=tag)
    with pytest.raises(ModelRefused) as caught:
        task_of(Snapshot(description, (), frozenset(), {}, None, Layout()))
    assert caught.value.details["reason"] == "task"
    assert tag in caught.value.message
    assert "what would help: " in caught.value.message


@pytest.mark.parametrize(
    ("kind", "architecture", "tag", "message"),
    [
        ("voxtral", "VoxtralForConditionalGeneration", "audio-text-to-text", "mistral-common"),
        ("vivit", "VivitForVideoClassification", "video-classification", "torchvision"),
        ("vjepa2", "VJEPA2ForVideoClassification", "video-classification", "torchvision"),
        ("bert", "BertForMaskedLM", "summarization", "do not run models of this"),
        ("bark", "BarkModel", "text-to-audio", "they run VitsModel, Musicgen"),
        ("bart", "BartForSequenceClassification", "summarization", "does not support"),
        ("t5", "T5EncoderModel", "translation", "does not support"),
        (
            "clip",
            "CLIPTextModelWithProjection",
            "zero-shot-image-classification",
            "does not support",
        ),
        ("voxtral", "VoxtralForConditionalGeneration", "translation", "do not run models of this"),
        ("clip", None, "zero-shot-image-classification", "lacks `architectures`"),
    ],
)
async def test_an_unsupported_architecture_is_refused_with_the_reason(
    kind: str, architecture: str | None, tag: str, message: str
) -> None:
    config = {"model_type": kind, "architectures": architecture and [architecture]}
    handlers = fake_hub.handlers(config, pipeline_tag=tag)
    with pytest.raises(ModelRefused) as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "architecture"
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            "FluxKontextPipeline",
            "do not run FluxKontextPipeline; what would help: a model for Stable",
        ),
        ("EvilPipeline", "this"),
    ],
)
def test_an_unsupported_pipeline_is_refused_and_named_only_if_the_library_has_it(
    pipeline: str, message: str
) -> None:
    description = Description(id="acme/frog", sha="c" * 40)
    laid_out = Layout("diffusers", ("unet",), pipeline)
    snapshot = Snapshot(description, (), frozenset(), {"architectures": []}, None, laid_out)
    with pytest.raises(ModelRefused, match=message):
        check_architecture(snapshot, row("image-to-image", "diffusers"), "diffusers")


@pytest.mark.parametrize(
    "given",
    [
        {"tensors": ("encoder.layer.0.attention.self.query.q_weight",)},
        {"tensors": ("encoder.layer.0.attention.self.query.weight._data",)},
        {"tensors": ("encoder.layer.0.attention.self.query.trellis",)},
        {"tensors": ("encoder.layer.0.attention.self.query.Qidxs",)},
        {"tensors": ("encoder.layer.0.attention.self.query.W_q",)},
        {"tensors": ("encoder.layer.0.attention.self.query.suh",)},
        {"tensors": ("encoder.layer.0.attention.self.query.SV",)},
        {"tensors": ("encoder.layer.0.attention.self.query.weight_bits",)},
        {"names": ("quanto_qmap.json",)},
    ],
)
async def test_packed_weights_that_config_does_not_mention_are_refused(given: Any) -> None:
    with pytest.raises(ModelRefused) as caught:
        await fake_hub.handlers(**given).generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "quantized"


def test_a_qwen_image_that_was_distilled_with_its_guidance_is_refused() -> None:
    pipeline = "QwenImagePipeline"
    laid_out = Layout("diffusers", ("transformer",), pipeline)
    config = {"architectures": [pipeline], "denoiser": {"guidance_embeds": False}}
    described = Description(id="acme/frog", sha="c" * 40)
    read = Snapshot(described, (), frozenset(), config, None, laid_out)
    task = row("text-to-image", "diffusers")
    check_architecture(read, task, "diffusers")
    distilled = replace(read, config={**config, "denoiser": {"guidance_embeds": True}})
    with pytest.raises(ModelRefused, match="distilled with guidance as its input"):
        check_architecture(distilled, task, "diffusers")
