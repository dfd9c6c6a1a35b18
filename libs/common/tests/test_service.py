import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.bus import NatsBus
from common.context import Context, current
from common.contracts.generation import GenerateRequest
from common.errors import INTERNAL, InvalidRequest, NotFound, ServiceError, Unavailable
from common.faults import invalid

sys.path.insert(0, str(Path(__file__).parent))
from echo_service import SAY, SHOUT, Say


async def test_requests_run_concurrently(caller: NatsBus, start_child) -> None:
    await start_child().ready()
    calls = (caller.call(SAY, Say(text=str(n), seconds=0.5)) for n in range(20))
    replies = await asyncio.gather(*calls)
    assert [reply.text for reply in replies] == [str(n) for n in range(20)]
    assert max(reply.together for reply in replies) > 10


async def test_requests_beyond_the_bound_are_refused_at_once(caller: NatsBus, start_child) -> None:
    await start_child("2", "2").ready()
    calls = [caller.call(SAY, Say(text="x", seconds=0.3)) for _ in range(10)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    assert len(refused) == 6
    assert refused[0].retry_after == 1


async def test_a_handler_is_registered_with_the_bounds_of_its_declared_contract(
    caller: NatsBus, start_child
) -> None:
    await start_child().ready()
    assert (await caller.call(SHOUT, Say(text="loud"))).text == "LOUD"
    calls = (caller.call(SHOUT, Say(text="x", seconds=0.3)) for _ in range(3))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 2


async def test_errors_cross_the_bus_with_code_status_and_details(
    caller: NatsBus, start_child
) -> None:
    await start_child().ready()
    with pytest.raises(NotFound, match="nothing of that name") as caught:
        await caller.call(SAY, Say(text="absent"))
    assert (caught.value.code, caught.value.status) == (3001, 404)
    assert caught.value.details == {"name": "absent"}


async def test_an_unexpected_error_reveals_no_internals(caller: NatsBus, start_child) -> None:
    await start_child().ready()
    with pytest.raises(ServiceError) as caught:
        await caller.call(SAY, Say(text="bug"))
    assert (caught.value.code, str(caught.value)) == (5001, INTERNAL)


async def test_an_invalid_request_is_refused_without_repeating_its_values(
    caller: NatsBus, start_child
) -> None:
    await start_child().ready()
    reply = await caller.request(SAY.subject, b'{"text": {"password": "hunter2"}}', 30)
    error = ServiceError.from_wire(json.loads(reply.data))
    assert isinstance(error, InvalidRequest)
    assert error.details["fields"][0]["path"] == "text"
    assert b"hunter2" not in reply.data


def test_more_faults_than_can_be_named_are_reported_as_a_number() -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate({f"unknown{number}": 1 for number in range(1000)})
    error = invalid(caught.value)
    assert error.message == "1001 values or keys are wrong, too many to name; correct them all"
    assert error.details == {"fields": []}


async def test_a_call_without_a_service_fails_at_once(caller: NatsBus) -> None:
    # After its timeout, the message would be that the service did not answer.
    with pytest.raises(Unavailable, match="echo service is unavailable"):
        await caller.call(SAY, Say(text="x"))


async def test_the_callers_deadline_ends_the_work(caller: NatsBus, start_child) -> None:
    await start_child().ready()
    current.set(Context(request_id="abcdefgh", deadline=time.time() + 0.3))
    with pytest.raises(Unavailable):
        await caller.call(SAY, Say(text="x", seconds=4))
    current.set(Context())
    stats = json.loads((await caller.request("$SRV.STATS.echo", b"", 30)).data)
    while not (endpoint := stats["endpoints"][0])["num_errors"]:
        await asyncio.sleep(0.05)
        stats = json.loads((await caller.request("$SRV.STATS.echo", b"", 30)).data)
    assert endpoint["last_error"].startswith("503")


async def test_stopping_under_load_loses_no_request(caller: NatsBus, start_child) -> None:
    leaving, staying = start_child(), start_child()
    await leaving.ready()
    await staying.ready()
    outcomes: list[str] = []

    async def call_on() -> None:
        for n in range(60):
            outcomes.append((await caller.call(SAY, Say(text=str(n), seconds=0.02))).text)

    callers = [asyncio.create_task(call_on()) for _ in range(20)]
    await asyncio.sleep(0.3)
    leaving.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*callers)
    assert len(outcomes) == 20 * 60
    assert leaving.stop() == 0


async def test_discovery_lists_the_service_its_endpoints_and_their_statistics(
    caller: NatsBus, start_child
) -> None:
    await start_child().ready()
    await caller.call(SAY, Say(text="x"))
    ping = json.loads((await caller.request("$SRV.PING", b"", 30)).data)
    assert ping["type"] == "io.nats.micro.v1.ping_response"
    info = json.loads((await caller.request(f"$SRV.INFO.echo.{ping['id']}", b"", 30)).data)
    subjects = [endpoint["subject"] for endpoint in info["endpoints"]]
    assert subjects == [SAY.subject, SHOUT.subject]
    stats = json.loads((await caller.request("$SRV.STATS.echo", b"", 30)).data)
    assert stats["endpoints"][0]["num_requests"] == 1
