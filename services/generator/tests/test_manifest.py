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
