"""Slots on a real bus, with one `Slots` for each replica."""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from nats.js.errors import KeyNotFoundError

from common import bus
from common.errors import RateLimited
from local.stack import Stack
from realtime import slots
from realtime.slots import MAX_PER_ACCOUNT, Slots


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    # Long, so that no slot expires while the machine is busy.
    monkeypatch.setattr(slots, "TTL_S", 1000.0)
    monkeypatch.setattr(slots, "SETTLING_S", 0.0)
    with Stack(servers={"nats"}, services=()) as running:
        yield running


@pytest.fixture
async def new_replica(server: Stack) -> AsyncIterator[Callable]:
    async with AsyncExitStack() as stays:

        async def start(name: str) -> Slots:
            connecting = bus.connect(server.nats.url("realtime"), "realtime")
            replica = Slots(await stays.enter_async_context(connecting), name)
            await replica.start()
            return replica

        yield start


async def claim_many(replicas: list[Slots], count: int) -> list[object]:
    claims = [replicas[n % len(replicas)].claim("acc", lambda: None) for n in range(count)]
    outcomes = await asyncio.gather(*claims, return_exceptions=True)
    unexpected = [o for o in outcomes if not isinstance(o, RateLimited | slots.Slot)]
    assert unexpected == []
    return [outcome for outcome in outcomes if isinstance(outcome, slots.Slot)]


async def test_ten_of_forty_claims_on_three_replicas_are_granted(new_replica):
    replicas = [await new_replica(name) for name in "abc"]
    granted = await claim_many(replicas, 40)
    assert len({slot.key for slot in granted}) == len(granted) == MAX_PER_ACCOUNT
    other = await replicas[0].claim("another account", lambda: None)
    assert other.key != granted[0].key


async def test_a_refusal_holds_no_traceback_of_an_earlier_refusal(new_replica):
    replica = await new_replica("a")
    await claim_many([replica], 10)
    depths = set()
    for _ in range(3):
        with pytest.raises(RateLimited) as refusal:
            await replica.claim("acc", lambda: None)
        depths.add(len(list(traceback.walk_tb(refusal.value.__traceback__))))
    assert len(depths) == 1


async def test_a_released_slot_can_be_claimed_again(new_replica):
    first, other = await new_replica("a"), await new_replica("b")
    granted = await claim_many([first], 12)
    await first.release(granted[3])
    await first.release(granted[3])
    assert len(await claim_many([other], 3)) == 1


async def test_the_slots_of_a_dead_replica_are_taken_over_at_once(new_replica):
    first, other = await new_replica("a"), await new_replica("b")
    await claim_many([first], 6)
    await claim_many([other], 4)
    await first.bus.client.close()
    assert len(await claim_many([other], 8)) == 6


async def keys_of(replica: slots.Slots) -> list[str]:
    """Return the keys of the account's slots that somebody holds."""
    bucket, held = await replica._open(), []
    for number in range(MAX_PER_ACCOUNT):
        with contextlib.suppress(KeyNotFoundError):
            held.append(str((await bucket.get(f"acc.{number}")).key))
    return held


async def test_a_slot_expires_unless_it_is_renewed(new_replica, monkeypatch):
    monkeypatch.setattr(slots, "TTL_S", 5.0)
    first, other = await new_replica("a"), await new_replica("b")
    await claim_many([first], 6)
    [kept] = await claim_many([other], 1)
    while await keys_of(first) != [kept.key]:
        await asyncio.sleep(0.4)
        await other.renew()
    assert len(await claim_many([other], 20)) == 9
    assert kept in other.held


async def test_a_deleted_bucket_is_created_again_with_every_held_slot(new_replica):
    first, other = await new_replica("a"), await new_replica("b")
    taken_away: list[int] = []
    for number in range(10):
        await first.claim("acc", lambda number=number: taken_away.append(number))
    await first.bus.client.jetstream().delete_key_value(slots.BUCKET)
    await first.renew()
    with pytest.raises(RateLimited):
        await other.claim("acc", lambda: None)
    assert taken_away == []


async def test_a_renewal_whose_acknowledgement_was_lost_closes_no_socket(new_replica):
    """A bus that hangs executes the renewal later."""
    first, other = await new_replica("a"), await new_replica("b")
    taken_away: list[int] = []
    held = [
        await first.claim("acc", lambda number=number: taken_away.append(number))
        for number in range(10)
    ]
    bucket = await first._open()
    for slot in held:
        value = (await bucket.get(slot.key)).value
        await bucket.update(slot.key, value, slot.revision)
    await first.renew()
    assert taken_away == []
    await first.release(held[3])
    await other.claim("acc", lambda: None)
    with pytest.raises(RateLimited):
        await other.claim("acc", lambda: None)
