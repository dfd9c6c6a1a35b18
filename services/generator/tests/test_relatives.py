"""Refusals name the models that were made from the refused one and would be served."""

import sys
from pathlib import Path
from typing import Any

import pytest

from common.contracts.generation import GenerateRequest
from common.errors import ModelRefused

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

# A text classifier that modules serve, as the Hub lists it.
GOOD: dict[str, Any] = {
    "id": "pond/toad",
    "gated": False,
    "library_name": "transformers",
    "pipeline_tag": "text-classification",
    "tags": ["transformers", "safetensors", "license:mit", "base_model:acme/frog"],
    "config": {"architectures": ["BertForSequenceClassification"], "model_type": "bert"},
}
WRITER = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
REMOTE = {"model_type": "frog", "auto_map": {"AutoModel": "modeling.Frog"}}


async def refusal(listed: list[Any], config: dict[str, Any] | None = None) -> ModelRefused:
    handlers = fake_hub.handlers(config or REMOTE, listed=listed)
    with pytest.raises(ModelRefused) as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    return caught.value


def tagged(*tags: str) -> dict[str, Any]:
    return {"tags": [*GOOD["tags"], *tags]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pipeline_tag": "conversational", "config": WRITER},
        {
            "pipeline_tag": "text-generation",
            "config": {**WRITER, "quantization_config": {"quant_method": "awq", "bits": 4}},
        },
        {
            "pipeline_tag": "text-ranking",
            "library_name": "sentence-transformers",
            "config": {"architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3"},
        },
        {"pipeline_tag": "sentence-similarity", "library_name": "sentence-transformers"},
        {
            "pipeline_tag": "text-generation",
            "config": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"},
            **tagged("custom_code"),
        },
    ],
)
async def test_a_refusal_names_a_model_that_was_made_from_the_refused_one(
    fields: dict[str, Any],
) -> None:
    error = await refusal([GOOD | fields, {"id": "acme/frog"}])
    assert error.message.endswith("; or a model made from it: `pond/toad`")
    assert error.details == {"reason": "custom-code", "made_from_it": ["pond/toad"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "<b>/toad"},
        {"id": 7},
        {"id": "acme/frog"},
        {"gated": "manual"},
        {"pipeline_tag": None},
        {"pipeline_tag": "graph-ml"},
        {"pipeline_tag": "text-generation"},
        {"pipeline_tag": "text-ranking", "config": WRITER},
        {"config": None},
        {"config": {"model_type": "bert", "architectures": 7}},
        {"config": {**GOOD["config"], "quantization_config": {"quant_method": "exl3"}}},
        {"tags": ["license:mit"]},
        {"tags": 7},
        tagged("custom_code"),
        tagged("gguf"),
        tagged("base_model:adapter:acme/frog"),
        tagged("license:cc-by-nc-4.0"),
    ],
)
async def test_a_refusal_names_no_model_that_would_be_refused_itself(
    fields: dict[str, Any],
) -> None:
    error = await refusal([GOOD | fields, 7])
    assert error.details == {"reason": "custom-code"}


async def test_a_refusal_names_at_most_three_models() -> None:
    error = await refusal([GOOD | {"id": f"pond/toad-{number}"} for number in range(5)])
    shown = "`pond/toad-0`, `pond/toad-1`, `pond/toad-2`"
    assert error.message.endswith(f"; or models made from it: {shown}")


async def test_a_refusal_that_no_other_form_helps_asks_the_hub_nothing() -> None:
    handlers = fake_hub.handlers(cardData={"license": "cc-by-nc-4.0"}, listed=[GOOD])
    with pytest.raises(ModelRefused) as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details == {"reason": "license"}
