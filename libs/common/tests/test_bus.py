import asyncio
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import bus
from common.bus import NatsBus, token
from common.context import Context, current
from common.contracts import Event, Message
from common.errors import Unavailable

sys.path.insert(0, str(Path(__file__).parent))
from echo_service import SAY, Say


class Sung(Message):
    line: str


SUNG = Event("event.song.sung", Sung)


async def heard_again(caller: NatsBus) -> str:
    """What the service says as soon as it can be asked."""
    while True:
        try:
            return (await caller.call(SAY, Say(text="again"))).text
        except Unavailable:
            await asyncio.sleep(0.1)


async def test_a_lost_bus_fails_what_is_under_way_and_heals_by_itself(
    caller: NatsBus, nats_server, start_child
) -> None:
    await start_child().ready()
    under_way = asyncio.create_task(caller.call(SAY, Say(text="x", seconds=4)))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    nats_server.kill()
    with pytest.raises(Unavailable):
        await under_way
    with pytest.raises(Unavailable):
        await caller.call(SAY, Say(text="x"))
    assert time.monotonic() - started < SAY.timeout / 2  # not by running into the timeout

    nats_server.start()
    assert await heard_again(caller) == "again"


async def test_a_bus_that_hangs_is_away_until_it_goes_on(
    caller: NatsBus, nats_server, start_child
) -> None:
    await start_child().ready()
    nats_server.hang()
    for _ in range(2):
        with pytest.raises(Unavailable, match="the bus"):  # not: no answer in time
            await caller.request(SAY.subject, b"", 600)
    nats_server.go_on()
    assert await heard_again(caller) == "again"


async def test_a_service_may_start_before_its_bus(nats_server, start_child) -> None:
    nats_server.kill()
    child = start_child()
    await asyncio.sleep(1)
    nats_server.start()
    await child.ready()


async def test_an_event_reaches_all_who_listen_with_its_request_id(
    caller: NatsBus, nats_server
) -> None:
    heard: list[tuple[str, str]] = []

    async def hear(sung: Sung) -> None:
        heard.append((sung.line, current.get().request_id))
        if sung.line == "wrong":
            raise ValueError("a handler that fails must not end the listening")

    async with bus.connect(nats_server.url, "listener") as listener:
        await listener.subscribe(SUNG, hear)
        await listener.subscribe(SUNG, hear, filter="other.*")
        await listener.flush()
        current.set(Context(request_id="abcdefgh"))
        for line in ("one", "wrong", "two"):
            await caller.publish(SUNG, Sung(line=line), "me", "org/model.v1")
        async with asyncio.timeout(60):
            while len(heard) < 3:
                await asyncio.sleep(0.01)
    current.set(Context())
    assert heard == [("one", "abcdefgh"), ("wrong", "abcdefgh"), ("two", "abcdefgh")]


async def test_a_request_larger_than_the_bus_carries_is_an_error_not_a_hang(
    caller: NatsBus, start_child
) -> None:
    await start_child().ready()
    with pytest.raises(Unavailable, match="larger than the bus"):
        await caller.call(SAY, Say(text="x" * 2_000_000))


@given(st.text(), st.text())
def test_any_two_values_have_two_tokens_and_none_has_a_meaning_to_nats(a: str, b: str) -> None:
    a, b = (value.encode(errors="replace").decode() for value in (a, b))
    assert token(a)
    assert not set(token(a)) & set(".*> \t\r\n")
    assert token(a).isascii()
    assert (token(a) == token(b)) == (a == b)
