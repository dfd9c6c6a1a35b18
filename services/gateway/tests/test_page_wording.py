"""Error messages as pages show them."""

import pytest
from pydantic import BaseModel

from common.contracts.alerts import NewRule
from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.generation import GenerateRequest
from common.errors import Conflict, InvalidRequest
from gateway.account_fields import AccountDeletion, NewAccount, PasswordChange
from gateway.keyring import KeyChange, NewKey
from gateway.pages import wording
from gateway.recovery import Reset
from gateway.second_factor import TotpEnd, TotpStart


def faults(model: type[BaseModel], **fields: object) -> tuple[str, dict[str, str]]:
    """Return the page's error sentence, and its sentences by field, for a form."""
    with pytest.raises(ValueError) as caught:
        model.model_validate(fields)
    refusal = wording.refusal(caught.value)  # type: ignore[arg-type]
    assert refusal
    return wording.sentence(refusal.message), wording.by_field(refusal)


def test_a_form_without_scopes_asks_for_one() -> None:
    assert faults(NewKey, name="laptop", scopes=[])[1] == {"scopes": "Choose at least one scope."}


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (GenerateRequest, "modelUrl"),
        (BenchmarkRequest, "modelId"),
        (PasswordChange, "current"),
        (AccountDeletion, "password"),
        (TotpStart, "password"),
        (TotpEnd, "password"),
    ],
)
def test_an_empty_field_asks_to_be_filled_in(model: type[BaseModel], field: str) -> None:
    rest = {"new": "a frog on a lily pad"} if model is PasswordChange else {}
    assert faults(model, **{field: ""}, **rest)[1] == {field: "Fill this in."}


@pytest.mark.parametrize(
    ("model", "fields", "sentences"),
    [
        (
            GenerateRequest,
            {"modelUrl": "a/b", "options": {"batchSize": "four"}},
            (
                "Inputs at once: must be a whole number, such as 4.",
                "Must be a whole number, such as 4.",
            ),
        ),
        (
            BenchmarkRequest,
            {"modelId": "a/b", "inputTokens": 10**9},
            ("Tokens per input: must be at most 131,072.", "Must be at most 131,072."),
        ),
        (
            BenchmarkRequest,
            {"modelId": "a/b", "latencyBudgetMs": float("inf")},
            (
                "Latency at most, ms: must be a number, such as 0.5.",
                "Must be a number, such as 0.5.",
            ),
        ),
        (
            NewRule,
            {"kind": "often", "modelId": "m"},
            ("kind: must be", "Choose one of the list."),
        ),
    ],
)
def test_a_pages_error_names_the_forms_label_and_no_json(
    model: type[BaseModel], fields: dict[str, object], sentences: tuple[str, str]
) -> None:
    message, by_field = faults(model, **fields)
    assert message.startswith(sentences[0])
    assert list(by_field.values()) == [sentences[1]]


@pytest.mark.parametrize("token", ["short", "x" * 200])
def test_a_truncated_reset_link_asks_for_the_whole_link(token: str) -> None:
    message, _ = faults(Reset, token=token, new="a frog on a lily pad")
    assert message.startswith("The link is incomplete; open the whole address")


@pytest.mark.parametrize("model", [NewKey, KeyChange, NewAccount, GenerateRequest])
def test_errors_of_an_empty_form_mention_no_entries_or_integers(model: type[BaseModel]) -> None:
    empty = {field: [] if field == "scopes" else "" for field in model.model_fields}
    _, by_field = faults(model, **empty)
    assert by_field
    assert not [text for text in by_field.values() if "entr" in text or "integer" in text]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "the second factor is on; end it first with DELETE /v1/api/account/totp",
            "The second factor is on; switch it off first.",
        ),
        (
            "no second factor is being set up; start with POST /v1/api/account/totp",
            "No second factor is being set up; set it up on your account's page.",
        ),
        ("no such rule; GET /v1/api/alerts/rules lists the rules", "No such rule."),
        (
            "`device`: no worker has cuda; leave `device` out to use any worker",
            "“Device”: no worker has cuda; leave “Device” out to use any worker.",
        ),
        (
            "lilypad/tiny-20240101: must be open, which model-123456 is not",
            "lilypad/tiny-20240101: must be open, which model-123456 is not.",
        ),
        (
            "the body is larger than 10,000 bytes; send less",
            "The form is too large; go back, and shorten what you typed.",
        ),
    ],
)
def test_a_pages_message_names_labels_and_actions_of_the_page_instead_of_api_calls(
    message: str, sentence: str
) -> None:
    assert wording.sentence(message) == sentence


def test_errors_of_a_lists_items_are_joined_under_the_list() -> None:
    fields = [{"path": f"batchSizes.{place}", "message": "must be at least 1"} for place in (0, 2)]
    error = InvalidRequest("batchSizes.0: must be at least 1", fields=fields)
    assert wording.by_field(error) == {
        "batchSizes": "Item 1: Must be at least 1. Item 3: Must be at least 1."
    }
    assert wording.by_field(Conflict("busy")) == {}
