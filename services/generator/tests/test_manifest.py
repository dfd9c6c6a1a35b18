"""module.yaml and its published schema."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from common.contracts.generation import GenerateRequest
from generator import manifest

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

SCHEMA = Path(__file__).parents[3] / "docs/reference/module.schema.json"


def module_yaml() -> dict[str, Any]:
    request = GenerateRequest(model_url="acme/frog")
    module = asyncio.run(fake_hub.handlers().generate(request))
    content: dict[str, Any] = yaml.safe_load(module.files["module.yaml"])
    return content


def test_the_published_schema_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == manifest.schema()


def test_a_manifest_conforms_to_the_published_schema() -> None:
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    content = module_yaml()
    jsonschema.validate(content, schema)
    for broken in (
        {**content, "more": 1},
        {**content, "name": "../etc"},
        {name: value for name, value in content.items() if name != "model"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


@pytest.mark.parametrize(
    ("config", "required"),
    [
        ({"finetuning_task": "glue:mrpc"}, True),
        ({"finetuning_task": "STS-B"}, True),
        ({"finetuning_task": "glue/mrpc"}, True),
        ({"finetuning_task": "GLUE/MRPC"}, True),
        ({"finetuning_task": ["mrpc"]}, True),
        ({"finetuning_task": ["mrpc", "sst2"]}, False),
        ({"id2label": {"0": "not_paraphrase", "1": "paraphrase"}}, True),
        ({"id2label": {"0": "entailment", "1": "neutral"}}, True),
        ({"finetuning_task": "sst2", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, False),
        ({"finetuning_task": "mrpc", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, True),
        ({"finetuning_task": "sts-b", "id2label": {"0": "similarity"}}, True),
        ({"finetuning_task": "mnli", "id2label": {"0": "joy", "1": "anger"}}, False),
    ],
)
async def test_a_classifier_of_text_pairs_requires_a_second_text_and_its_readme_gives_one(
    config: dict[str, Any], required: bool
) -> None:
    module = await fake_hub.handlers(config).generate(GenerateRequest(model_url="acme/frog"))
    inputs = {
        given["name"]: given for given in yaml.safe_load(module.files["module.yaml"])["inputs"]
    }
    assert inputs["text_pair"]["required"] == required
    assert ("INPUT_TEXT_PAIR=" in module.files["README.md"]) == required
