"""Samples of requests and answers for OpenAPI, recorded from real ones.

Answers stand in `samples.json` by the name of their type, errors are made in
`operation_samples`. tests/documents/test_openapi.py holds all of them to the types.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

# As the edge makes them; without one, the gateway writes `req_` and 24 digits.
REQUEST_ID = "027c77dc-2959-4264-ba21-4e7b08dd1bc3"
MODEL = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
RECORDED = {"modelId": "openai/gpt2", "metrics": {"throughput": 120.5, "latency": 8.3}}

# By the name of a body's type. "Try it" is filled in with these, so each can be sent unchanged.
REQUESTS: dict[str, Any] = {
    "AccountChange": {"beta": True},
    "AccountDeletion": {"password": "correct horse battery"},
    "BenchmarkRequest": {"modelId": MODEL, "batchSizes": [1, 2, 4], "iterations": 64},
    "GenerateRequest": {
        "modelUrl": f"https://huggingface.co/{MODEL}",
        "options": {"batchSize": 4, "memory": "8GB"},
    },
    "KeyChange": {"name": "desktop"},
    "MonitorRequest": {"modelId": "openai/gpt2", "days": 30},
    "NewAccount": {"email": "you@example.com", "password": "correct horse battery"},
    "NewHubToken": {"token": "hf_ReadsYourOwnModelsAlone"},
    "NewKey": {"name": "laptop", "scopes": ["generate", "monitor:read"]},
    "NewRule": {
        "kind": "threshold",
        "modelId": "openai/gpt2",
        "metric": "latency",
        "above": 250.0,
        "severity": "warning",
    },
    "NewWebhook": {"url": "https://example.com/hooks/lilypad", "events": ["alert.raised"]},
    "PasswordChange": {"current": "correct horse battery", "new": "staple a longer battery"},
    "Record": RECORDED,
    "Records": {"records": [RECORDED]},
    "Reset": {
        "token": "lmg_reset_nUQ6DWXsZhh2xVtoTBrJpnTVbVEZ3Z1g0cQxO3mA8fM",
        "new": "correct horse battery",
    },
    "ResetRequest": {"email": "you@example.com"},
    "RuleChange": {"muted": True},
    "TotpCode": {"code": "123456"},
    "TotpEnd": {"password": "correct horse battery", "code": "123456"},
    "TotpStart": {"password": "correct horse battery"},
    "WebhookChange": {"enabled": False},
}

# By the name of a query's type: its required parameters.
QUERIES: dict[str, dict[str, str]] = {
    "SamplesRequest": {"modelId": "openai/gpt2", "metric": "latency"},
    "SamplesDeletion": {"modelId": "openai/gpt2"},
}
# Answers that are not JSON, by media type.
FILES: dict[str, dict[str, Any]] = {
    "text/csv": {"example": "timestamp,metric,value\r\n2026-01-31T12:00:00Z,latency,12.5\r\n"},
    "application/zip": {
        "examples": {
            "module": {
                "summary": "One folder with the module's files: Dockerfile, README.md,"
                " lilypad_module.json.tmpl, module.yaml, requirements.txt, run_inference.py",
                # The first bytes of every archive.
                "value": "PK\u0003\u0004",
            }
        }
    },
}


@cache
def answers() -> dict[str, Any]:
    """Return sample answers by the name of their type; long texts and lists are shortened."""
    loaded: dict[str, Any] = json.loads(
        files("gateway").joinpath("samples.json").read_text(encoding="utf-8")
    )
    return loaded
