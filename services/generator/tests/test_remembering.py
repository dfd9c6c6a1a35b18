"""Snapshots are cached, shared among callers, and refreshed in time."""

import asyncio
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from common.context import Context, current
from common.contracts.generation import GenerateRequest
from common.errors import HubUnavailable, ModelNotFound, ModelRefused
from generator import snapshots
from generator.handlers import Handlers
from generator.hub import Hub
from generator.shares import Shares
from hub.app import MEMBER_TOKEN
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

CLASSIFIER = "lilypad/tiny-text-classification"
GENERATOR = "lilypad/tiny-text-generation"


async def generate(handlers: Handlers, model: str = CLASSIFIER, **more: Any) -> Any:
    return await handlers.generate(GenerateRequest(model_url=model, **more))


async def test_concurrent_requests_for_one_model_share_a_single_read(
    handlers: Handlers, hub: RunningHub
) -> None:
    await asyncio.gather(*(generate(handlers) for _ in range(200)))
    paths = [logged.path for logged in hub.requests]
    assert len(paths) == len(set(paths)) <= 8


async def test_a_cancelled_caller_does_not_affect_the_others(
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


async def test_a_branch_is_resolved_again_after_a_minute(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    first = await generate(handlers)
    other = (await generate(handlers, revision="v1")).model.commit
    hub.move(CLASSIFIER, "main", other)
    try:
        clock.now += snapshots.FRESH_S - 1
        assert (await generate(handlers)).model.commit == first.model.commit
        clock.now += 2
        hub.forget()
        assert (await generate(handlers)).model.commit == other
        assert len(hub.requests) == 1  # the commit itself is cached
    finally:
        hub.move(CLASSIFIER, "main", first.model.commit)


async def test_an_unavailable_hub_is_not_called_and_known_models_are_still_served(
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
        assert len(hub.requests) == snapshots.MAX_FAILURES
        pinned = await generate(handlers, revision=before.model.commit)
        assert pinned.validation.status == "passed"  # a commit is immutable
    clock.now += snapshots.OPEN_S + 1
    assert (await generate(handlers)).validation.status == "passed"
    assert (await generate(handlers, GENERATOR)).validation.status == "passed"


async def test_slow_models_do_not_count_as_failures_of_the_hub(
    handlers: Handlers, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The weights' header arrives slowly, like a very large one.
    with hub.faults("slow", path="model.safetensors", seconds=0.05, part="body"):
        with monkeypatch.context() as patch:
            patch.setattr(snapshots, "READ_TIMEOUT_S", 0.2)
            for _ in range(snapshots.MAX_FAILURES):
                with pytest.raises(HubUnavailable, match="took longer"):
                    await generate(handlers)
        with hub.faults("status", status=416, path="model.safetensors"):
            for _ in range(snapshots.MAX_FAILURES):
                with pytest.raises(HubUnavailable):
                    await generate(handlers)
    assert (await generate(handlers, GENERATOR)).validation.status == "passed"


async def test_an_account_holds_at_most_one_slot_for_large_files() -> None:
    shares, order = Shares(2), []

    async def read(account: str, until: asyncio.Event) -> None:
        current.set(Context(account=account))
        async with shares.slot():
            order.append(account)
            await until.wait()

    ends = [asyncio.Event() for _ in range(3)]
    costly, again, other = [
        asyncio.create_task(read(account, end))
        for account, end in zip(("costly", "costly", "other"), ends, strict=True)
    ]
    for _ in range(10):  # until every slot is taken
        await asyncio.sleep(0)
    held = list(order)
    for end in ends:
        end.set()
    await asyncio.gather(costly, again, other)
    assert held == ["costly", "other"]
    assert order == ["costly", "other", "costly"]


async def test_a_cached_snapshot_is_small_even_with_long_owner_fields() -> None:
    handlers = fake_hub.handlers(
        {"architectures": ["BertForSequenceClassification"], "id2label": ["x" * 500_000]},
        names=tuple(f"{n}-{'x' * 100}.txt" for n in range(20_000)),
        cardData={"license": "y" * 1_000_000},
        tags=["z" * 1_000_000],
    )
    await generate(handlers, "acme/frog")
    (kept,) = handlers.snapshots._kept.values()
    assert len(pickle.dumps(kept)) < 10_000


async def test_a_cached_refusal_causes_no_hub_request(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    for model, reason in (("tiny-remote-code", "custom-code"), ("tiny-gated", "gated")):
        hub.forget()
        requests = []
        for _ in range(3):
            with pytest.raises(ModelRefused) as caught:
                await generate(handlers, f"lilypad/{model}")
            assert caught.value.details["reason"] == reason
            requests.append(len(hub.requests))
        assert requests[0] == requests[1] == requests[2]
    with pytest.raises(ModelRefused):
        await generate(handlers, "lilypad/tiny-remote-code")
    clock.now += snapshots.FRESH_S + 1
    hub.forget()
    with pytest.raises(ModelRefused):
        await generate(handlers, "lilypad/tiny-remote-code")
    assert ["/api/" in logged.path for logged in hub.requests] == [
        True
    ]  # only the branch is resolved again; its commit is cached


async def test_granted_access_is_noticed_within_a_minute(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    with pytest.raises(ModelRefused) as caught:
        await generate(handlers, "lilypad/tiny-gated")
    assert caught.value.details["reason"] == "gated"
    before, handlers.snapshots.hub = handlers.snapshots.hub, Hub(hub.url, MEMBER_TOKEN)
    handlers.snapshots.open_models = frozenset(["lilypad/tiny-gated"])
    with pytest.raises(ModelRefused):
        await generate(handlers, "lilypad/tiny-gated")
    clock.now += snapshots.FRESH_S + 1
    assert (await generate(handlers, "lilypad/tiny-gated")).files
    await handlers.snapshots.hub.close()
    handlers.snapshots.hub = before


async def test_an_unexplained_403_is_reported_as_the_hubs_refusal(
    handlers: Handlers, hub: RunningHub
) -> None:
    with hub.faults("status", status=403), pytest.raises(HubUnavailable) as caught:
        await generate(handlers)
    assert (caught.value.status, caught.value.details["reason"]) == (502, "hub-forbidden")
    assert (await generate(handlers)).model.id == CLASSIFIER


async def test_a_new_model_is_found_within_a_minute(
    handlers: Handlers, hub: RunningHub, clock: Clock
) -> None:
    with hub.faults("status", status=404, path="^/api/"), pytest.raises(ModelNotFound):
        await generate(handlers)
    with pytest.raises(ModelNotFound):
        await generate(handlers)
    clock.now += snapshots.FRESH_S + 1
    assert (await generate(handlers)).model.id == CLASSIFIER


async def test_the_hub_is_not_called_before_its_retry_after(
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


async def test_no_request_is_sent_once_a_quota_is_used_up() -> None:
    requests = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request.url.path)
        response = fake_hub.respond(b'{"id": "acme/frog", "sha": "%s"}' % (b"c" * 40))
        response.headers["ratelimit"] = '"api";r=0;t=55'
        response.headers["ratelimit-policy"] = '"fixed window";"api";q=500;w=300'
        return response

    clock = Clock()
    client = Hub("http://hub.invalid", transport=httpx2.MockTransport(answer), clock=clock)
    await client.model("acme/frog", "main")
    with pytest.raises(HubUnavailable) as caught:
        await client.model("acme/toad", "main")
    assert caught.value.retry_after == pytest.approx(55, abs=1)
    await client.file("acme/frog", "c" * 40, "config.json", 1000)  # files have a quota of their own
    clock.now += 56
    await client.model("acme/toad", "main")
    assert len(requests) == 3
