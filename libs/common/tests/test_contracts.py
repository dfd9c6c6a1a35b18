import importlib
import json
import pkgutil

import pytest
from pydantic import ValidationError

import common.contracts
from common.contracts import Event, Job, Rpc
from common.contracts.generation import GenerateRequest
from common.contracts.recording import Records


def test_subjects_are_unique_and_start_with_their_kind() -> None:
    prefixes = {Rpc: "rpc.", Job: "job.", Event: "event."}
    subjects: list[str] = []
    for module in pkgutil.iter_modules(common.contracts.__path__, "common.contracts."):
        for contract in vars(importlib.import_module(module.name)).values():
            if isinstance(contract, (Rpc, Job, Event)):
                assert contract.subject.startswith(prefixes[type(contract)])
                subjects.append(contract.subject)
    assert subjects
    assert len(subjects) == len(set(subjects))


def test_an_unknown_key_is_rejected_in_requests_and_ignored_on_the_bus() -> None:
    newer = '{"modelUrl": "gpt2", "addedLater": 1, "options": {"addedLater": 1}}'
    with pytest.raises(ValidationError, match="addedLater"):
        GenerateRequest.model_validate_json(newer)
    assert GenerateRequest.model_validate_json(newer, extra="ignore").model_url == "gpt2"


@pytest.mark.parametrize("wrong", ['"4"', "4.0", "true", "0", "1025", "1e400"])
def test_a_batch_size_is_a_whole_number_within_its_bounds(wrong: str) -> None:
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate_json(
            f'{{"modelUrl": "a", "options": {{"batchSize": {wrong}}}}}'
        )


def test_only_the_first_invalid_record_of_a_batch_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Records.model_validate_json(json.dumps({"records": [{}] * 10_000}))
    assert [error["loc"] for error in caught.value.errors()] == [
        ("records", 0, "modelId"),
        ("records", 0, "metrics"),
    ]
