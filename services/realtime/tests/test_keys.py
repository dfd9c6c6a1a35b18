"""What becomes of a socket when its key may something else than before."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from socketio.exceptions import ConnectionRefusedError as Refused

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


@pytest.mark.parametrize(
    ("told", "admitted"), [([[]], False), ([["generate"]], False), ([[], ["monitor:read"]], True)]
)
async def test_a_key_that_is_revoked_while_its_client_is_let_in_lets_nobody_in(
    sockets, told, admitted
):
    """The gateway has answered, the slot is still asked for."""
    held: list[str] = []

    async def claim(account: str, _: Any) -> Any:
        for scopes in told:
            await sockets.revoke(KeyRevoked(account="a", key="k1", scopes=scopes))
        held.append(account)
        return account

    async def release(slot: Any) -> None:
        held.remove(slot)

    async def enter(_account: str, _client: Any) -> None:
        pass

    sockets.slots = SimpleNamespace(claim=claim, release=release)
    sockets.topics.enter = enter
    connected(sockets)
    client = sockets.clients["one"]
    client.id, client.account, client.models = "one", "", set()
    sockets.server.manager = SimpleNamespace(eio_sid_from_sid=lambda *_: "one")
    with contextlib.nullcontext() if admitted else pytest.raises(Refused) as refusal:
        await sockets._connect("sid", {}, {"token": "t"})
    assert bool(client.account) == admitted
    assert held == (["a"] if admitted else [])
    assert admitted or refusal.value.error_args["data"]["code"] == 2001
