"""Faults of the Hub: each gives a clear error, quickly and in little memory."""

import asyncio
import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.contracts.generation import GenerateRequest
from common.errors import HubUnavailable, InvalidModel, ModelNotFound, ModelRefused, ServiceError
from generator import snapshots
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))

CLASSIFIER = "lilypad/tiny-text-classification"
GENERATOR = "lilypad/tiny-text-generation"


async def generate(handlers: Handlers, model: str = CLASSIFIER, **more: Any) -> Any:
    return await handlers.generate(GenerateRequest(model_url=model, **more))


@pytest.mark.parametrize(
    "kind",
    [
        "html",
        "json",
        "list",
        "null",
        "number",
        "nan",
        "deep",
        "binary",
        "empty",
        "no-http",
        "types",
    ],
)
async def test_a_malformed_response_is_reported_as_the_hubs_fault(
    handlers: Handlers, hub: RunningHub, kind: str
) -> None:
    with hub.faults("nonsense", kind=kind, path="^/api/"), pytest.raises(HubUnavailable) as caught:
        await generate(handlers)
    assert (caught.value.code, caught.value.status // 100) == (1002, 5)
    assert (await generate(handlers)).model.id == CLASSIFIER


@pytest.mark.parametrize("kind", ["html", "list", "deep", "binary", "empty"])
async def test_a_malformed_config_is_reported_as_the_models_fault(
    handlers: Handlers, hub: RunningHub, kind: str
) -> None:
    with hub.faults("nonsense", kind=kind, path="config.json"), pytest.raises(ServiceError) as e:
        await generate(handlers)
    assert isinstance(e.value, (ModelRefused, HubUnavailable))


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("path", ["^/api/", "/config.json", "model.safetensors"])
async def test_a_response_of_200_megabytes_is_not_read(
    handlers: Handlers, hub: RunningHub, length: bool, path: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hub.faults("huge", path=path, length=length), pytest.raises(ServiceError) as caught:
        await generate(handlers)
    assert caught.value.status in {422, 502}
    assert path != "^/api/" or "larger than 8,388,608 bytes" in caught.value.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the time budget to 0.5 s, to test that it covers all requests."""
    monkeypatch.setattr(snapshots, "READ_TIMEOUT_S", 0.5)


@pytest.mark.parametrize(
    "fault",
    [
        {"mode": "hang", "path": "^/api/"},
        {"mode": "hang", "path": "config.json"},
        {"mode": "slow", "seconds": 0.05, "path": "^/api/"},
        {"mode": "slow", "seconds": 0.05, "path": "^/api/", "part": "body"},
        {"mode": "slow", "seconds": 0.05, "path": "model.safetensors", "part": "body"},
    ],
    ids=["hang", "file-hangs", "trickle", "trickling-body", "trickling-weights"],
)
async def test_an_endless_response_times_out_while_other_requests_are_served(
    handlers: Handlers, hub: RunningHub, hurried: None, fault: dict[str, Any]
) -> None:
    await generate(handlers, GENERATOR)
    with hub.faults(**{**fault, "path": f"{fault['path']}.*"}):
        waiting = asyncio.create_task(generate(handlers))
        served = 0
        while not waiting.done():
            await generate(handlers, GENERATOR)
            served += 1
            await asyncio.sleep(0.01)
        with pytest.raises(HubUnavailable, match="took longer") as caught:
            await waiting
    assert caught.value.retry_after
    assert served > 1


def test_the_time_budget_for_reading_is_at_most_12_seconds() -> None:
    assert snapshots.READ_TIMEOUT_S <= 12


async def test_a_redirect_to_another_host_is_not_followed(
    handlers: Handlers, hub: RunningHub
) -> None:
    with RunningHub(hub.models_dir, first=[CLASSIFIER]) as other:
        for to in (
            f"{other.url}{{path}}",
            f"//127.0.0.1:{other.port}{{path}}",
            "file:///etc/passwd",
        ):
            for path in ("^/api/", "config.json", "model.safetensors"):
                with hub.faults("redirect", to=to, path=path), pytest.raises(HubUnavailable) as e:
                    await generate(handlers)
                assert e.value.status == 502
        assert other.requests == []


async def test_a_redirect_loop_is_an_error(handlers: Handlers, hub: RunningHub) -> None:
    with hub.faults("redirect", to="{path}"), pytest.raises(HubUnavailable, match="in a loop"):
        await generate(handlers)


async def test_a_renamed_model_is_recorded_under_its_present_id(handlers: Handlers) -> None:
    module = await generate(handlers, "frog/tiny-text-classification")
    assert module.model.id == CLASSIFIER
    assert "frog" not in "".join(module.files.values())


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        ({"mode": "status", "status": 429, "retry_after": 77}, 77),
        ({"mode": "status", "status": 429}, 300),
        ({"mode": "status", "status": 500}, 10),
        ({"mode": "status", "status": 503}, 10),
        ({"mode": "drop"}, 5),
        ({"mode": "truncated"}, 5),
    ],
    ids=["429-with-a-time", "429", "500", "503", "drop", "truncated"],
)
async def test_an_unavailable_hub_is_reported_with_retry_after(
    handlers: Handlers, hub: RunningHub, fault: dict[str, Any], retry_after: int
) -> None:
    with hub.faults(**fault), pytest.raises(HubUnavailable) as caught:
        await generate(handlers)
    assert (caught.value.status, caught.value.retry_after) == (503, retry_after)


async def test_an_unreachable_hub_fails_at_once() -> None:
    client = Hub("http://127.0.0.1:9")
    with pytest.raises(HubUnavailable):
        await generate(Handlers(client, Settings()))
    await client.close()


@pytest.mark.parametrize(
    ("model", "revision"),
    [
        ("lilypad/absent", None),
        (CLASSIFIER, "absent"),
        ("lilypad/tiny-private", None),
        (CLASSIFIER, "0" * 40),
    ],
)
async def test_a_missing_model_or_revision_is_not_found(
    handlers: Handlers, model: str, revision: str | None
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await generate(handlers, model, revision=revision)
    assert (caught.value.code, caught.value.status) == (1001, 404)


async def test_a_rejected_operator_token_gives_an_error_that_names_its_variable(
    hub: RunningHub,
) -> None:
    client = Hub(hub.url, "hf_of_yesterday")
    with pytest.raises(HubUnavailable, match="HF_TOKEN") as caught:
        await generate(Handlers(client, Settings()), CLASSIFIER)
    await client.close()
    assert (caught.value.status, caught.value.details["reason"]) == (502, "hub-token")


@pytest.fixture
def of_all_strings(hub: RunningHub) -> Iterator[tuple[asyncio.Runner, Handlers]]:
    """Return one client for all examples, since creating it takes longer than a request."""
    client = Hub(hub.url)
    with asyncio.Runner() as runner:
        yield runner, Handlers(client, Settings())
        runner.run(client.close())


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"(https://(huggingface|hf)\.co/)?[\w.%/?#@:\\-]{1,40}", fullmatch=True),
    ),
    st.none() | st.from_regex(r"[\w./%?#-]{1,30}", fullmatch=True),
)
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_submitted_address_causes_only_requests_for_models(
    hub: RunningHub,
    of_all_strings: tuple[asyncio.Runner, Handlers],
    text: str,
    revision: str | None,
) -> None:
    hub.forget()
    with contextlib.suppress(InvalidModel, ModelNotFound):
        runner, handlers = of_all_strings
        runner.run(
            handlers.generate(GenerateRequest.model_construct(model_url=text, revision=revision))
        )
    for request in hub.requests:
        path = urlsplit(request.path).path
        if path == "/api/models":  # the search for a suggestion after a missing model
            assert {*parse_qs(urlsplit(request.path).query)} <= {
                "author",
                "search",
                "sort",
                "limit",
            }
            continue
        _, api, models, *id_and_revision = path.split("/")
        assert (api, models) == ("api", "models")
        assert id_and_revision[-2] == "revision"
        assert 1 <= len(id_and_revision[:-2]) <= 2
        assert not {"", ".", ".."} & set(id_and_revision)
        assert urlsplit(request.path).query == "blobs=true&securityStatus=true"


async def test_an_empty_byte_range_is_never_requested() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError(request.headers["range"])

    hub = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer))
    for begin, length in ((0, 0), (2**31 - 1, 278 - 2**31)):
        assert await hub.part("acme/frog", "0" * 40, "model.bin", begin, length) == b""
