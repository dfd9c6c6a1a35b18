"""Counters after an update from a version that kept them in another stream."""

import asyncio
import contextlib

import pytest
from nats.js.api import StorageType
from nats.js.errors import NotFoundError

from common import bus
from common.bus import NatsBus
from local.stack import Stack

from .test_limits import Clock, account, admitted, limiter


@pytest.mark.parametrize(("name", "user"), [("LIMITS_60", "gateway"), ("LIMITS", "benchmarker")])
async def test_the_stream_of_an_earlier_version_is_replaced(
    nats: NatsBus, servers: Stack, name: str, user: str
) -> None:
    own = nats.client.jetstream(timeout=60)
    for today in ("LIMITS_60", "LIMITS_3600"):
        with contextlib.suppress(NotFoundError):
            await own.delete_stream(today)
    # Of today's users, one alone may make each of them.
    async with bus.connect(servers.nats.url(user), user) as earlier:
        await earlier.client.jetstream(timeout=60).add_stream(
            name=name, subjects=["limit.>"], storage=StorageType.MEMORY
        )
    limits = await asyncio.wait_for(limiter(nats, 5, Clock()), 60)
    assert await admitted(limits, account(), 9) == 5
    assert (await own.stream_info("LIMITS_60")).config.storage == StorageType.FILE
    with pytest.raises(NotFoundError):
        await own.delete_stream("LIMITS")
