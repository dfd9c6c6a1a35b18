"""Private and gated models: refused, shared by the operator, or read with an account's token."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from common.context import Context, current
from common.contracts.generation import GenerateRequest, Module
from common.contracts.hub import HUB_TOKEN, HubToken, HubTokenCheck, HubTokenRequest
from common.errors import InvalidRequest, ModelNotFound, ModelRefused
from common.testing import MemoryBus
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub.app import MEMBER_TOKEN, STRANGER_TOKEN
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

GATED, PRIVATE = "lilypad/tiny-gated", "lilypad/tiny-private"
CLASSIFIER = "lilypad/tiny-text-classification"
TOKENS = {
    "acc_member": MEMBER_TOKEN,
    "acc_stranger": STRANGER_TOKEN,
    "acc_expired": "hf_of_yesterday",
}


@pytest.fixture
async def operator(hub: RunningHub) -> AsyncIterator[Hub]:
    """Return the operator's client, whose token can read every model."""
    client = Hub(hub.url, MEMBER_TOKEN)
    yield client
    await client.close()


def start(hub: Hub, shared_models: str = "") -> Handlers:
    """Start a generator with a gateway that knows the tokens of `TOKENS`."""
    bus = MemoryBus()

    async def find(request: HubTokenRequest) -> HubToken:
        return HubToken(token=TOKENS.get(request.account))

    bus.answer(HUB_TOKEN, find)
    return Handlers(hub, Settings.model_validate({"shared_models": shared_models}), bus)


async def generate(handlers: Handlers, model: str, account: str = "acc_other") -> Module:
    current.set(Context(account=account))
    return await handlers.generate(GenerateRequest(model_url=model))


async def test_the_operators_token_gives_accounts_no_access_to_closed_models(operator: Hub) -> None:
    handlers = start(operator)
    with pytest.raises(ModelRefused, match=f"ask for access at {operator.endpoint}/{GATED}") as no:
        await generate(handlers, GATED)
    assert no.value.details["reason"] == "gated"
    assert "PUT /v1/api/account/hub-token" in no.value.message
    assert (await generate(handlers, CLASSIFIER)).model.read_by == "anybody"


async def test_a_private_model_is_refused_like_a_missing_one(
    operator: Hub,
) -> None:
    messages = []
    for model in (PRIVATE, "lilypad/tiny-privats"):
        with pytest.raises(ModelNotFound) as caught:
            await generate(start(operator), model)
        messages.append((caught.value.status, caught.value.message, caught.value.details))
    assert messages[0] == messages[1]
    assert "For a private model, store your Hub token" in caught.value.message


@pytest.mark.parametrize("model", [GATED, PRIVATE])
async def test_every_account_can_read_the_closed_models_listed_in_a_setting(
    operator: Hub, model: str
) -> None:
    module = await generate(start(operator, f"someone/else, {model.upper()}"), model)
    assert module.model.read_by == "operator"
    assert "needs a token with access" in module.validation.errors[0]
    assert MEMBER_TOKEN not in module.model_dump_json()


@pytest.mark.parametrize("model", [GATED, PRIVATE])
async def test_an_accounts_token_gives_access_to_that_account_alone(
    hub: RunningHub, model: str
) -> None:
    client = Hub(hub.url)
    handlers = start(client)
    module = await generate(handlers, model, "acc_member")
    assert module.model.read_by == "account"
    hub.forget()
    again = await generate(handlers, model, "acc_member")
    assert again.files == module.files
    assert hub.requests == []
    for request in (model, f"{model}/tree/{module.model.commit}"):
        for account in ("acc_other", "acc_stranger", ""):
            with pytest.raises((ModelNotFound, ModelRefused)):
                await generate(handlers, f"https://huggingface.co/{request}", account)
    assert not handlers.snapshots._kept
    await client.close()


async def test_a_refusal_for_a_token_without_access_names_where_to_request_it(
    operator: Hub,
) -> None:
    with pytest.raises(ModelRefused, match="account of your token has no access: ask for") as no:
        await generate(start(operator), GATED, "acc_stranger")
    assert no.value.details["reason"] == "gated"
    with pytest.raises(ModelNotFound, match="or your Hub token has no access to it"):
        await generate(start(operator), PRIVATE, "acc_stranger")


async def test_a_rejected_account_token_gives_an_error_with_advice_to_replace_it(
    operator: Hub,
) -> None:
    with pytest.raises(ModelRefused, match="store another with PUT") as no:
        await generate(start(operator), GATED, "acc_expired")
    assert no.value.details == {"reason": "hub-token"}
    assert (await generate(start(operator), CLASSIFIER, "acc_expired")).files


async def test_a_token_is_checked_by_asking_the_hub_for_its_owner(operator: Hub) -> None:
    async def check(token: str) -> Any:
        return await start(operator).check_hub_token(HubTokenCheck(token=token))

    identity = await check(STRANGER_TOKEN)
    assert (identity.user, identity.role) == ("stranger", "read")
    with pytest.raises(InvalidRequest) as no:
        await check("hf_of_yesterday")
    assert no.value.details["fields"][0]["path"] == "token"
    assert "hf_of_yesterday" not in no.value.message


async def test_a_session_cookie_of_one_token_is_not_sent_with_another() -> None:
    sent: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers.get("cookie"))
        response = fake_hub.respond(b'{"name": "person"}')
        response.headers["set-cookie"] = "session=of-a-person; Path=/"
        return response

    client = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    await client.with_token("hf_of_a_person").whoami()
    await client.model("acme/frog", "main")
    await client.close()
    assert sent == [None, None]
