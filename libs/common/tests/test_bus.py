import asyncio
import itertools
import ssl
import sys
from pathlib import Path

import nats.errors
import orjson
import pytest
import structlog.testing
import trustme
from hypothesis import given
from hypothesis import strategies as st

from common import bus
from common.bus import NatsBus, token
from common.connection import ERROR, ERROR_CODE, Connection, ReceivedMessage, encode
from common.context import Context, current
from common.contracts import Event, Message, Rpc
from common.errors import Unavailable
from common.service import Service

sys.path.insert(0, str(Path(__file__).parent))
from echo_service import SAY, Say


class Sung(Message):
    line: str


SUNG = Event("event.song.sung", Sung)


async def heard_again(caller: NatsBus) -> str:
    """Return the service's reply as soon as it is available again."""
    while True:
        try:
            return (await caller.call(SAY, Say(text="again"))).text
        except Unavailable:
            await asyncio.sleep(0.1)


async def test_a_lost_bus_fails_pending_calls_and_reconnects(
    caller: NatsBus, nats_server, start_child
) -> None:
    await start_child().ready()
    under_way = asyncio.create_task(caller.call(SAY, Say(text="x", seconds=4)))
    await asyncio.sleep(0.2)
    nats_server.kill()
    for call in (under_way, caller.call(SAY, Say(text="x"))):
        with pytest.raises(Unavailable) as lost:
            await call
        assert "did not answer within" not in lost.value.message  # failed before the timeout

    nats_server.start()
    assert await heard_again(caller) == "again"


async def test_a_hung_bus_is_unavailable_until_it_resumes(
    caller: NatsBus, nats_server, start_child, monkeypatch
) -> None:
    await start_child().ready()
    repeat, looks, looked_again = caller.calls.repeat, itertools.count(), asyncio.Event()

    def fail_once() -> None:
        if next(looks) == 0:
            raise LookupError
        looked_again.set()
        repeat()

    monkeypatch.setattr(caller.calls, "repeat", fail_once)
    await asyncio.wait_for(looked_again.wait(), 60)  # an error does not end the detection
    nats_server.hang()
    for _ in range(2):
        with pytest.raises(Unavailable, match="the bus"):  # rather than a timeout
            await caller.request(SAY.subject, b"", 600)
    nats_server.go_on()
    assert await heard_again(caller) == "again"


@pytest.mark.parametrize("repeatable", [True, False])
async def test_an_unanswered_call_is_retried_only_if_it_is_repeatable(
    caller: NatsBus, nats_server, *, repeatable: bool
) -> None:
    requests: list[bytes] = []

    def hang_once(message: ReceivedMessage) -> None:
        requests.append(message.data)
        if len(requests) == 2:
            listener.client.send(message.reply, b'{"line": "second"}')

    rpc = Rpc(
        "rpc.choir.sing", Sung, Sung, timeout=18 if repeatable else 1.8, repeatable=repeatable
    )
    async with bus.connect(nats_server.url, "listener") as listener:
        await listener.client.listen(rpc.subject, hang_once, "choir")
        await listener.flush()
        if repeatable:
            assert (await caller.call(rpc, Sung(line="first"))).line == "second"
        else:
            with pytest.raises(Unavailable, match=r"did not answer within 1\.\d s$"):
                await caller.call(rpc, Sung(line="first"))
    assert requests == [b'{"line":"first"}'] * (2 if repeatable else 1)


async def test_a_late_call_is_answered_although_its_queue_group_delivers_to_a_hanging_replica(
    caller: NatsBus, nats_server
) -> None:
    async def sing(request: Sung) -> Sung:
        return Sung(line=f"{request.line} sung")

    rpc = Rpc("rpc.choir.sing", Sung, Sung, timeout=18, repeatable=True)
    hung: list[ReceivedMessage] = []
    async with bus.connect(nats_server.url, "choir") as choir:
        service = Service("choir", choir)
        await service.answer(rpc, sing)
        # The bus might deliver to it by chance.
        assert service.endpoints[0].subscription
        await service.endpoints[0].subscription.unsubscribe()
        await choir.client.listen(rpc.subject, hung.append, "choir")
        await choir.flush()
        assert (await caller.call(rpc, Sung(line="la"))).line == "la sung"
    assert len(hung) == 2


@pytest.mark.parametrize(
    ("answered", "timeout", "outcome"),
    [
        (["busy copy", "well"], 18, "first"),  # the original may be slow, and answer well
        (["original"], 18, "original"),  # the original's own failure precedes any copy's
        (["busy copy"], 3, "busy copy"),  # more helpful than the report of a missing answer
    ],
)
async def test_a_failed_repetition_fails_its_call_only_if_the_original_gets_no_reply(
    caller: NatsBus, nats_server, answered: list[str], timeout: float, outcome: str
) -> None:
    received: list[ReceivedMessage] = []

    def answer(message: ReceivedMessage) -> None:
        received.append(message)
        for reply in answered if len(received) == 2 else ():
            to = message if "copy" in reply else received[0]
            error = encode({ERROR: reply, ERROR_CODE: "503"}) if reply != "well" else b""
            refusal = {"code": 5003, "status": 503, "message": reply}
            body = orjson.dumps(refusal if error else {"line": "first"})
            listener.client.send(to.reply, body, "", error)

    rpc = Rpc("rpc.choir.sing", Sung, Sung, timeout=timeout, repeatable=True)
    async with bus.connect(nats_server.url, "listener") as listener:
        await listener.client.listen(rpc.subject, answer, "choir")
        await listener.flush()
        try:
            line = (await caller.call(rpc, Sung(line=""))).line
        except Unavailable as error:
            line = error.message
    assert line == outcome


async def test_no_call_fails_while_passwords_change(nats_server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bus, "BRIDGE_S", 60)  # however slow this machine is
    password, users = tmp_path / "password", tmp_path / "users.conf"

    def change(to: str) -> None:
        password.write_text(f"{to}\n")
        both = ", ".join(f"{{user: {name}, password: {to}}}" for name in ("caller", "choir"))
        users.write_text(f"authorization {{ users: [{both}] }}")

    def sing(message: ReceivedMessage) -> None:
        choir.client.send(message.reply, b'{"line": "la"}')

    change("one")
    nats_server.kill()
    nats_server.options = ["--config", str(users)]
    nats_server.start()
    rpc = Rpc("rpc.choir.sing", Sung, Sung, timeout=60, repeatable=True)
    async with (
        bus.connect(nats_server.url, "caller", password) as caller,
        bus.connect(nats_server.url, "choir", password) as choir,
    ):
        await choir.client.listen(rpc.subject, sing, "choir")
        await choir.flush()
        assert (await caller.call(rpc, Sung(line=""))).line == "la"
        change("two")
        with structlog.testing.capture_logs() as logged:
            nats_server.reload()  # the server ends the connections of changed users
            while not (caller.client.stats["reconnects"] and choir.client.stats["reconnects"]):
                assert (await caller.call(rpc, Sung(line=""))).line == "la"
            assert (await caller.call(rpc, Sung(line=""))).line == "la"
    reasons = [entry["error"].lower() for entry in logged if entry["event"] == "bus error"]
    assert any("authorization" in reason for reason in reasons), "the server's reason is logged"


def certify(folder: Path) -> None:
    """Write the certificate of a new authority, and a server's key and certificate from it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")


async def test_a_tls_connection_reads_its_authorities_again_when_it_reconnects(
    nats_server, tmp_path
) -> None:
    certify(tmp_path)
    nats_server.kill()
    nats_server.options = [f"--tlscert={tmp_path}/tls.crt", f"--tlskey={tmp_path}/tls.key"]
    nats_server.start()
    url, trusted = nats_server.url.replace("nats://", "tls://"), tmp_path / "ca.crt"
    with pytest.raises(ssl.SSLCertVerificationError):
        await Connection(tls=True).connect(url, allow_reconnect=False)
    async with bus.connect(url, "caller", ca_file=trusted) as caller:
        received: asyncio.Queue[ReceivedMessage] = asyncio.Queue()
        await caller.client.listen("to.me", received.put_nowait)
        for round in range(2):
            caller.client.send("to.me", b"x" * 500_000)
            assert len((await received.get()).data) == 500_000
            if round == 0:
                certify(tmp_path)
                nats_server.kill()
                nats_server.start()
                while not caller.client.stats["reconnects"]:
                    await asyncio.sleep(0.05)


async def test_a_server_without_tls_gets_no_password_if_the_url_requires_tls() -> None:
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload":1048576,"auth_required":true}\r\n')
        sent.put_nowait(await reader.read())
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client, url = Connection(tls=True), f"tls://user:secret@127.0.0.1:{port}"
        with pytest.raises(nats.errors.Error, match="no TLS"):
            await client.connect(url, allow_reconnect=False)
        await client.close()
        assert await sent.get() == b""


async def test_a_service_may_start_before_its_bus(nats_server, start_child) -> None:
    nats_server.kill()
    child = start_child()
    await asyncio.sleep(1)
    nats_server.start()
    await child.ready()


async def test_an_event_reaches_all_subscribers_with_its_request_id(
    caller: NatsBus, nats_server
) -> None:
    received: list[tuple[str, str]] = []

    async def receive(sung: Sung) -> None:
        received.append((sung.line, current.get().request_id))
        if sung.line == "wrong":
            raise ValueError("a handler that fails must not end the listening")

    async with bus.connect(nats_server.url, "listener") as listener:
        await listener.subscribe(SUNG, receive)
        await listener.subscribe(SUNG, receive, filter="other.*")
        await listener.flush()
        current.set(Context(request_id="abcdefgh"))
        for line in ("one", "wrong", "two"):
            await caller.publish(SUNG, Sung(line=line), "me", "org/model.v1")
        async with asyncio.timeout(60):
            while len(received) < 3:
                await asyncio.sleep(0.01)
    current.set(Context())
    assert received == [("one", "abcdefgh"), ("wrong", "abcdefgh"), ("two", "abcdefgh")]


async def test_a_request_larger_than_the_bus_allows_fails_at_once(
    caller: NatsBus, start_child
) -> None:
    await start_child().ready()
    with pytest.raises(Unavailable, match="too large to be passed on"):
        await caller.call(SAY, Say(text="x" * 2_000_000))


@given(st.text(), st.text())
def test_subject_tokens_are_unique_and_contain_no_special_character(a: str, b: str) -> None:
    a, b = (value.encode(errors="replace").decode() for value in (a, b))
    assert token(a)
    assert not set(token(a)) & set(".*> \t\r\n")
    assert token(a).isascii()
    assert (token(a) == token(b)) == (a == b)
