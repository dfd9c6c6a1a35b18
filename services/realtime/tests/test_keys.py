"""Open sockets during changes of their keys."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from socketio.exceptions import ConnectionRefusedError as Refused

from common.contracts.access import AUTHENTICATE, Access, KeyRevoked
from common.errors import ServiceError, Unauthenticated
from common.testing import MemoryBus
from realtime.origins import Origins
from realtime.sockets import Sockets


class Key:
    """A fake gateway with one key, `k1`; `scopes` is None once the key is revoked."""

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
    return Sockets(bus, slots, Origins("http://127.0.0.1:8080"))


def connected(sockets: Sockets) -> list[int]:
    """Connect a client with the key; return a list of the codes that it is dismissed with."""
    reasons: list[int] = []

    def dismiss(reason: ServiceError, **_: bool) -> None:
        reasons.append(reason.code)

    client: Any = SimpleNamespace(account="a", key="k1", token="t", closed=False, dismiss=dismiss)
    sockets.clients["one"] = client
    return reasons


@pytest.mark.parametrize(
    ("scopes", "codes"),
    [(["generate", "monitor:read"], []), (["generate"], [2003]), ([], [2001])],
    ids=str,
)
async def test_the_sockets_of_a_changed_key_stay_open_only_if_it_may_still_read_metrics(
    sockets, scopes, codes
):
    reasons = connected(sockets)
    await sockets.keys.revoke(KeyRevoked(account="a", key="k1", scopes=scopes))
    assert reasons == codes


@pytest.mark.parametrize(
    ("scopes", "codes"), [(["monitor:read"], []), (["generate"], [2003]), (None, [2001])], ids=str
)
async def test_the_next_check_closes_the_sockets_of_a_key_whose_change_was_missed(
    sockets, key, scopes, codes
):
    reasons = connected(sockets)
    key.scopes = scopes
    checking = asyncio.create_task(sockets.keys.keep_checking())
    await asyncio.sleep(0.05)
    checking.cancel()
    assert reasons == codes


@pytest.mark.parametrize(
    ("changes", "admitted"),
    [([[]], False), ([["generate"]], False), ([[], ["monitor:read"]], True)],
)
async def test_a_key_revoked_during_admission_admits_no_client(sockets, changes, admitted):
    """The gateway has answered, but the slot is not claimed yet."""
    held: list[str] = []

    async def claim(account: str, _: Any) -> Any:
        for scopes in changes:
            await sockets.keys.revoke(KeyRevoked(account="a", key="k1", scopes=scopes))
        held.append(account)
        return account

    async def release(slot: Any) -> None:
        held.remove(slot)

    async def enter(_account: str, _client: Any) -> None:
        pass

    sockets.admission.slots = SimpleNamespace(claim=claim, release=release)
    sockets.topics.enter = enter
    connected(sockets)
    client = sockets.clients["one"]
    client.id, client.account, client.models, client.slot = "one", "", set(), None
    with contextlib.nullcontext() if admitted else pytest.raises(Refused) as refusal:
        await sockets.connect("one", {"token": "t"})
    assert bool(client.account) == admitted
    assert held == (["a"] if admitted else [])
    assert admitted or refusal.value.error_args["data"]["code"] == 2001
