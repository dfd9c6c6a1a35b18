"""The AsyncAPI document, compared with the events of the realtime service."""

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from common.contracts.alerts import AlertEvent
from common.contracts.benchmarking import BenchmarkProgress
from common.contracts.history import MetricUpdate
from common.errors import InvalidRequest
from gateway import asyncapi
from realtime import update
from realtime.requests import Subscribe, Unsubscribe

DOCUMENT = asyncapi.document("https://api.example.com")
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
REQUESTS = {"subscribe_metrics": Subscribe, "unsubscribe_metrics": Unsubscribe}


def test_the_document_names_the_address_of_the_sockets() -> None:
    assert DOCUMENT["servers"]["edge"]["host"] == "api.example.com"


def test_every_message_is_described_and_its_examples_follow_its_schema() -> None:
    for name, message in MESSAGES.items():
        assert message["summary"]
        for example in message["examples"]:
            jsonschema.validate(example["payload"], message["payload"])
        for schema_of_payload in message["payload"].get("oneOf", [message["payload"]]):
            for field, schema in schema_of_payload["properties"].items():
                assert schema.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_documented_request_has_the_fields_that_the_service_reads(name: str) -> None:
    kind, payload = REQUESTS[name], MESSAGES[name]["payload"]
    known = {field.alias: field.is_required() for field in kind.model_fields.values()}
    assert {*payload["properties"]} == {*known}
    assert {*payload["required"]} == {field for field, required in known.items() if required}
    for example in MESSAGES[name]["examples"]:
        kind.model_validate_json(json.dumps(example["payload"]))


@pytest.mark.parametrize(
    "body",
    [{}, {"modelId": ""}, {"modelId": "a", "metrics": []}, {"modelId": "a", "metrics": ["A"]},
     {"modelId": "a", "cursor": "yes"}, {"modelId": "a", "other": 1}],
)  # fmt: skip
def test_a_request_that_the_service_refuses_violates_the_schema_too(body: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, InvalidRequest)):
        Subscribe.model_validate_json(json.dumps(body))
    if body.get("modelId") != "":  # its length is checked by the model
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, MESSAGES["subscribe_metrics"]["payload"])


NOW = datetime.now(UTC)
SENT = (
    update.metric_update(
        MetricUpdate(model_id="a", timestamp=NOW.isoformat(), metrics={"latency": 1.0}, arrival=1)
    ),
    update.alert(
        AlertEvent(id="alert_1", model_id="a", type="threshold", message="m", severity="info")
    ),
    update.benchmark_progress(
        BenchmarkProgress(id="run", model_id="a", state="running", done=1, total=2)
    ),
    update.error(InvalidRequest("modelId: required and missing")),
)


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.event)
def test_an_event_of_the_service_follows_the_schema_and_has_no_other_fields(
    sent: update.Update,
) -> None:
    payload = MESSAGES[sent.event]["payload"]
    [name, body] = json.loads(sent.text[2:])
    assert name == sent.event
    jsonschema.validate(body, payload)
    assert {*body} <= {*payload["properties"]}
    assert {*payload["properties"]} - {*body} <= {"cursor"}
