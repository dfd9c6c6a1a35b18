"""JSON Schemas of the output of `lilypad COMMAND --json`, derived from the API's."""

import json
import re
from collections.abc import Callable
from typing import Any

STRING = {"type": "string"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _list(name: str, of: str) -> dict[str, Any]:
    return _object(**{name: {"type": "array", "items": _answer(of)}})


WRITTEN = _object(
    files={"type": "array", "items": STRING},
    folder=STRING,
    validation=_answer("Validation"),
    model=_answer("ModelFacts"),
)
MODULE = {
    "description": "The module; with -o, the names of its files and the folder they are in.",
    "anyOf": [_answer("VerifiedModule"), WRITTEN],
}
COMMANDS: dict[str, dict[str, Any]] = {
    "login": _object(url=STRING, kept=STRING),
    "logout": {"type": "object", "properties": {"url": {"type": ["string", "null"]}}},
    "keys.list": _answer("Keys"),
    "keys.create": _answer("CreatedKey"),
    "keys.revoke": _object(revoked=STRING),
    "generate": MODULE,
    "verify": MODULE,
    "download": _object(path=STRING),
    "benchmark": _answer("Run"),
    "runs": {"anyOf": [_list("runs", "Run"), _answer("Run")]},
    "compare": _list("runs", "Run"),
    "monitor": _answer("Monitoring"),
    "record": _answer("Recorded"),
    "watch": {
        "description": "One line for each update.",
        **_object(
            modelId=STRING,
            timestamp=STRING,
            metrics={"type": "object", "additionalProperties": {"type": "number"}},
            complete={"type": "boolean", "description": "Whether no update before is left out."},
        ),
    },
    "alerts": {
        "description": "The list; with --watch, one alert a line.",
        "anyOf": [_list("alerts", "Alert"), _answer("Alert")],
    },
    "models": _list("models", "RecordedModel"),
    "samples.list": _object(
        modelId=STRING, metric=STRING, samples={"type": "array", "items": _answer("Sample")}
    ),
    "samples.delete": _answer("SamplesDeleted"),
    "generations": _list("generations", "Generation"),
    "usage": _list("usage", "KeyUsage"),
    "hub-token.store": _answer("StoredHubToken"),
    "hub-token.check": _answer("StoredHubToken"),
    "hub-token.delete": _object(deleted=STRING),
    "second-factor.start": _answer("TotpSecret"),
    "second-factor.confirm": _answer("RecoveryCodes"),
    "second-factor.stop": _object(stopped=STRING),
    "error": {
        "description": "On standard error, of every command that fails.",
        **_object(error=_object(message=STRING, next=STRING)),
    },
}


def schemas(
    document: dict[str, Any],
    reachable: Callable[[dict[str, Any], set[str]], set[str]],
    loosen: Callable[[Any], Any],
) -> str:
    """Return the content of `schemas.json`: a property for each command."""
    named = re.findall(r"#/\$defs/(\w+)", json.dumps(COMMANDS))
    answers = document["components"]["schemas"]
    selected = {name: loosen(answers[name]) for name in sorted(reachable(answers, set(named)))}
    definitions = json.dumps(selected).replace("#/components/schemas/", "#/$defs/")
    bundle = {
        "$schema": DIALECT,
        "title": "What each command of lilypad prints with --json",
        "properties": COMMANDS,
        "$defs": json.loads(definitions),
    }
    return json.dumps(bundle, ensure_ascii=False, indent=1) + "\n"
