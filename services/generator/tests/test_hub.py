"""The Hub at its worst: each of these is a clear error, soon, in little memory."""

import asyncio
import contextlib
import pickle
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from hub.app import MEMBER_TOKEN, STRANGER_TOKEN
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

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
async def test_nonsense_is_the_hubs_fault_and_said_to_be(
    handlers: Handlers, hub: RunningHub, kind: str
) -> None:
    with hub.faults("nonsense", kind=kind, path="^/api/"), pytest.raises(HubUnavailable) as caught:
        await generate(handlers)
    assert (caught.value.code, caught.value.status // 100) == (1002, 5)
    assert (await generate(handlers)).model.id == CLASSIFIER


@pytest.mark.parametrize("kind", ["html", "list", "deep", "binary", "empty"])
async def test_a_config_that_is_nonsense_is_the_models_fault(
    handlers: Handlers, hub: RunningHub, kind: str
) -> None:
    with hub.faults("nonsense", kind=kind, path="config.json"), pytest.raises(ServiceError) as e:
        await generate(handlers)
    assert isinstance(e.value, (ModelRefused, HubUnavailable))


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("path", ["^/api/", "/config.json", "model.safetensors"])
async def test_an_answer_of_200_megabytes_is_not_read(
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
    """The budget cut to a moment: what is tested is that it covers everything."""
    monkeypatch.setattr(snapshots, "BUDGET", 0.5)


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
async def test_an_answer_that_never_ends_is_given_up_while_others_are_served(
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


def test_the_budget_leaves_the_caller_an_answer_within_15_seconds() -> None:
    assert snapshots.BUDGET <= 12


async def test_a_redirect_to_another_host_is_not_followed(
    handlers: Handlers, hub: RunningHub
) -> None:
    with RunningHub(hub.models_dir) as other:
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


async def test_a_redirect_in_a_circle_ends(handlers: Handlers, hub: RunningHub) -> None:
    with hub.faults("redirect", to="{path}"), pytest.raises(HubUnavailable, match="without end"):
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
async def test_a_hub_that_is_away_says_when_to_try_again(
    handlers: Handlers, hub: RunningHub, fault: dict[str, Any], retry_after: int
) -> None:
    with hub.faults(**fault), pytest.raises(HubUnavailable) as caught:
        await generate(handlers)
    assert (caught.value.status, caught.value.retry_after) == (503, retry_after)


async def test_a_hub_that_is_not_there_is_an_error_at_once() -> None:
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
async def test_what_is_not_there_is_not_found(
    handlers: Handlers, model: str, revision: str | None
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await generate(handlers, model, revision=revision)
    assert (caught.value.code, caught.value.status) == (1001, 404)


@pytest.mark.parametrize("model", ["lilypad/tiny-gated", "lilypad/tiny-private"])
async def test_a_token_with_access_opens_what_is_closed_and_the_module_says_so(
    hub: RunningHub, model: str
) -> None:
    client = Hub(hub.url, MEMBER_TOKEN)
    module = await generate(Handlers(client, Settings()), model)
    await client.close()
    assert "needs a token with access" in module.validation.errors[0]
    assert MEMBER_TOKEN not in "".join(module.files.values())


async def test_a_token_without_access_is_told_that_the_model_is_gated(hub: RunningHub) -> None:
    client = Hub(hub.url, STRANGER_TOKEN)
    with pytest.raises(ModelRefused) as caught:
        await generate(Handlers(client, Settings()), "lilypad/tiny-gated")
    await client.close()
    assert caught.value.details["reason"] == "gated"


async def test_a_token_that_the_hub_does_not_know_is_the_operators_to_replace(
    hub: RunningHub,
) -> None:
    client = Hub(hub.url, "hf_of_yesterday")
    with pytest.raises(HubUnavailable, match="HF_TOKEN") as caught:
        await generate(Handlers(client, Settings()), CLASSIFIER)
    await client.close()
    assert (caught.value.status, caught.value.details["reason"]) == (502, "hub-token")


@pytest.fixture
def of_all_strings(hub: RunningHub) -> Iterator[tuple[asyncio.Runner, Handlers]]:
    """One client for all of them; to make one takes longer than to ask."""
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
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_no_string_leads_to_a_request_for_anything_but_a_model(
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
    for seen in hub.requests:
        path = urlsplit(seen.path).path
        _, api, models, *id_and_revision = path.split("/")
        assert (api, models) == ("api", "models")
        assert id_and_revision[-2] == "revision"
        assert 1 <= len(id_and_revision[:-2]) <= 2
        assert not {"", ".", ".."} & set(id_and_revision)
        assert urlsplit(seen.path).query == "blobs=true&securityStatus=true"


async def test_hundreds_of_callers_of_one_model_are_one_question(
    handlers: Handlers, hub: RunningHub
) -> None:
    await asyncio.gather(*(generate(handlers) for _ in range(200)))
    paths = [seen.path for seen in hub.requests]
    assert len(paths) == len(set(paths)) <= 8


async def test_a_caller_who_leaves_takes_nothing_from_the_others(
    handlers: Handlers, hub: RunningHub
) -> None:
    with hub.faults("late", seconds=0.2, path="^/api/"):
        leaving, staying = (asyncio.create_task(generate(handlers)) for _ in range(2))
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert (await staying).model.id == CLASSIFIER


class Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(handlers: Handlers) -> Clock:
    clock = Clock()
    snapshots = handlers.snapshots
    snapshots.clock = snapshots.breaker.clock = snapshots.hub.clock = clock
    return clock


async def test_what_a_branch_points_to_is_asked_again_after_a_minute(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    first = await generate(handlers)
    other = (await generate(handlers, revision="v1")).model.commit
    hub.move(CLASSIFIER, "main", other)
    try:
        clock.now += snapshots.FRESH - 1
        assert (await generate(handlers)).model.commit == first.model.commit
        clock.now += 2
        hub.forget()
        assert (await generate(handlers)).model.commit == other
        assert len(hub.requests) == 1  # that commit was read before
    finally:
        hub.move(CLASSIFIER, "main", first.model.commit)


async def test_a_hub_that_is_away_is_left_alone_and_known_models_are_still_made(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    before = await generate(handlers)
    clock.now += 600
    hub.forget()
    with hub.faults("status", status=503):
        for _ in range(20):
            module = await generate(handlers)
            assert module.files == before.files
            assert module.validation.status == "warnings"
            assert "10 min ago" in module.validation.errors[0]
            with pytest.raises(HubUnavailable) as caught:
                await generate(handlers, GENERATOR)
            assert caught.value.retry_after
        assert len(hub.requests) == snapshots.FAILURES
        pinned = await generate(handlers, revision=before.model.commit)
        assert pinned.validation.status == "passed"  # a commit does not change
    clock.now += snapshots.REST + 1
    assert (await generate(handlers)).validation.status == "passed"
    assert (await generate(handlers, GENERATOR)).validation.status == "passed"


async def test_what_is_remembered_of_a_model_is_small_whatever_its_owner_wrote() -> None:
    handlers = fake_hub.handlers(
        {"architectures": ["BertForSequenceClassification"], "id2label": ["x" * 500_000]},
        names=tuple(f"{n}-{'x' * 100}.txt" for n in range(20_000)),
        cardData={"license": "y" * 1_000_000},
        tags=["z" * 1_000_000],
    )
    await generate(handlers, "acme/frog")
    (kept,) = handlers.snapshots._kept.values()
    assert len(pickle.dumps(kept)) < 10_000


async def test_a_refusal_is_remembered_and_costs_the_hub_nothing(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    for model, reason in (("tiny-remote-code", "custom-code"), ("tiny-gated", "gated")):
        hub.forget()
        asked = []
        for _ in range(3):
            with pytest.raises(ModelRefused) as caught:
                await generate(handlers, f"lilypad/{model}")
            assert caught.value.details["reason"] == reason
            asked.append(len(hub.requests))
        assert asked[0] == asked[1] == asked[2]
    with pytest.raises(ModelRefused):
        await generate(handlers, "lilypad/tiny-remote-code")
    clock.now += snapshots.FRESH + 1
    hub.forget()
    with pytest.raises(ModelRefused):
        await generate(handlers, "lilypad/tiny-remote-code")
    assert ["/api/" in seen.path for seen in hub.requests] == [
        True
    ]  # where the branch points now; what is there is known


async def test_access_that_is_granted_is_noticed_a_minute_later(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    with pytest.raises(ModelRefused) as caught:
        await generate(handlers, "lilypad/tiny-gated")
    assert caught.value.details["reason"] == "gated"
    before, handlers.snapshots.hub = handlers.snapshots.hub, Hub(hub.url, MEMBER_TOKEN)
    clock.now += snapshots.FRESH + 1
    assert (await generate(handlers, "lilypad/tiny-gated")).files
    await handlers.snapshots.hub.close()
    handlers.snapshots.hub = before


async def test_what_forbids_without_saying_why_is_not_the_models_owner(
    handlers: Handlers, hub: RunningHub
) -> None:
    with hub.faults("status", status=403), pytest.raises(HubUnavailable) as caught:
        await generate(handlers)
    assert (caught.value.status, caught.value.details["reason"]) == (502, "hub-forbidden")
    assert (await generate(handlers)).model.id == CLASSIFIER


async def test_a_model_that_appears_is_found_a_minute_later(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    with hub.faults("status", status=404, path="^/api/"), pytest.raises(ModelNotFound):
        await generate(handlers)
    with pytest.raises(ModelNotFound):
        await generate(handlers)
    clock.now += snapshots.FRESH + 1
    assert (await generate(handlers)).model.id == CLASSIFIER


async def test_a_hub_that_says_when_to_come_back_is_not_asked_before(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    with hub.faults("status", status=429, retry_after=77):
        for model in (CLASSIFIER, GENERATOR, CLASSIFIER):
            with pytest.raises(HubUnavailable) as caught:
                await generate(handlers, model)
            assert caught.value.retry_after == pytest.approx(77, abs=1)
        assert len(hub.requests) == 1
    clock.now += 78
    assert (await generate(handlers)).model.id == CLASSIFIER


async def test_the_last_answer_of_a_quota_is_the_last_that_is_asked_for() -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        found = fake_hub.respond(b'{"id": "acme/frog", "sha": "%s"}' % (b"c" * 40))
        found.headers["ratelimit"] = '"api";r=0;t=55'
        found.headers["ratelimit-policy"] = '"fixed window";"api";q=500;w=300'
        return found

    clock = Clock()
    client = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer), clock=clock)
    await client.model("acme/frog", "main")
    with pytest.raises(HubUnavailable) as caught:
        await client.model("acme/toad", "main")
    assert caught.value.retry_after == pytest.approx(55, abs=1)
    await client.file("acme/frog", "c" * 40, "config.json", 1000)  # files are counted apart
    clock.now += 56
    await client.model("acme/toad", "main")
    assert len(asked) == 3
