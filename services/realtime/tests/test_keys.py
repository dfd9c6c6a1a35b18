"""What becomes of a socket when its key may something else than before."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from common.contracts.access import AUTHENTICATE, Access, KeyRevoked
from common.errors import ServiceError, Unauthenticated
from common.testing import MemoryBus
from realtime.sockets import Sockets


class Key:
    """What the gateway says of `k1`, the only one there is; `scopes`: None once it is revoked."""

    def __init__(self) -> None:
        self.scopes: list[str] | None = ["monitor:read"]

    async def authenticate(self, _: Any) -> Access:
        if self.scopes is None:
            raise Unauthenticated("the API key is unknown, expired or revoked")
        return Access(account="a", key="k1", scopes=self.scopes)


@pytest.fixture
def key() -> Key:
    return Key()


@pytest.fixture
def sockets(key: Key) -> Sockets:
    bus: Any = MemoryBus()
    bus.answer(AUTHENTICATE, key.authenticate)
    slots: Any = SimpleNamespace()
    return Sockets(bus, slots, "http://127.0.0.1:8080")


def connected(sockets: Sockets) -> list[int]:
    """A client with that key; the codes of why it is dismissed."""
    reasons: list[int] = []

    def dismiss(reason: ServiceError, **_: bool) -> None:
        reasons.append(reason.code)

    client: Any = SimpleNamespace(account="a", key="k1", token="t", gone=False, dismiss=dismiss)
    sockets.clients["one"] = client
    return reasons


@pytest.mark.parametrize(
    ("scopes", "codes"),
    [(["generate", "monitor:read"], []), (["generate"], [2003]), ([], [2001])],
    ids=str,
)
async def test_a_changed_key_keeps_its_sockets_while_it_may_have_them(sockets, scopes, codes):
    reasons = connected(sockets)
    await sockets.revoke(KeyRevoked(account="a", key="k1", scopes=scopes))
    assert reasons == codes


@pytest.mark.parametrize(
    ("scopes", "codes"), [(["monitor:read"], []), (["generate"], [2003]), (None, [2001])], ids=str
)
async def test_a_change_that_was_not_heard_is_found_later(sockets, key, scopes, codes):
    reasons = connected(sockets)
    key.scopes = scopes
    checking = asyncio.create_task(sockets.recheck())
    await asyncio.sleep(0.05)
    checking.cancel()
    assert reasons == codes
