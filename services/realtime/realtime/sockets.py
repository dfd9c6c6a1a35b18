"""The events of the public socket, and who may send them."""

import asyncio
import contextlib
import functools
import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import socketio
import socketio.exceptions
import structlog
from engineio.payload import Payload
from pydantic import ValidationError

from common.bus import NatsBus
from common.context import Context, current
from common.contracts.access import AUTHENTICATE, Credentials, KeyRevoked
from common.contracts.monitoring import FIND_MODEL, ModelRequest
from common.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from common.service import invalid
from realtime.client import Client, Pump
from realtime.cursor import Cursor
from realtime.missed import Missed
from realtime.slots import Slots, full
from realtime.topics import Topics
from realtime.update import Update, topic_of
from realtime.websocket import LARGEST_FRAME, WebSocket
from realtime.wishes import Subscription, Unsubscription

log = structlog.get_logger()

SCOPE = "monitor:read"
# Seconds from the connection to a token that is let in; without one a
# connection would stay for as long as it answers pings.
INTRODUCTION = 10.0
# How long it is remembered that a key is revoked, in seconds: whoever was let in a moment
# before may still be on the way. Longer than the gateway's word is waited for, and the slot.
REMEMBERED = 60.0
# Models that one socket may hear.
MOST_MODELS = 500
# How often keys are checked again, in seconds: what expires is noticed by then.
RECHECK = 30.0
# How often ended connections are counted, in seconds, and how many are left to lie.
TIDY, MOST_ENDED = 10.0, 1_000


class Server(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio has no types
    """python-socketio's, which hands every event to one function.

    Its own way runs a handler that does not know whether an acknowledgement
    was asked for; who asked for none has to be told of an error in another way.
    """

    answer: Callable[[str, list[Any]], Awaitable[dict[str, Any]]]
    tell: Callable[[str, Update], None]

    async def _handle_event_internal(
        self, server: Any, _sid: str, eio_sid: str, data: list[Any], namespace: str, id: int | None
    ) -> None:
        answer = await self.answer(eio_sid, data)
        if id is not None:
            packet = self.packet_class(
                socketio.packet.ACK, namespace=namespace, id=id, data=[answer]
            )
            await server._send_packet(eio_sid, packet)  # noqa: SLF001  (as the method it replaces)
        elif answer["status"] == "error":
            body = {"code": answer["code"], "message": answer["message"]}
            self.tell(eio_sid, Update("error", body))


class Sockets:
    def __init__(self, bus: NatsBus, slots: Slots, public_url: str) -> None:
        self.bus = bus
        self.slots = slots
        self.topics = Topics(bus)
        self.missed = Missed(bus)
        self.pump = Pump()
        self.clients: dict[str, Client] = {}
        self.draining = False
        # Keys that may have no socket any more, and when that was told, monotonic.
        self._refused: dict[str, float] = {}
        self._lost = asyncio.Event()
        self._ended = 0
        self._origin = _origin(public_url)
        quiet = logging.getLogger("socketio")
        quiet.setLevel(logging.CRITICAL)  # it logs what callers do wrong, at their pace
        self.server = Server(
            async_mode="asgi",
            cors_allowed_origins=self._is_allowed,
            max_http_buffer_size=LARGEST_FRAME,
            http_compression=False,
            logger=quiet,
            engineio_logger=quiet,
        )
        self.server.answer = self._answer
        self.server.tell = self._tell
        # engineio drops a request with more without a word; `Client` counts, and says so.
        Payload.max_decode_packets = LARGEST_FRAME
        engine = self.server.eio
        engine._async = {**engine._async, "websocket": WebSocket}  # noqa: SLF001  (its only way in)
        self._opened = engine.handlers["connect"]
        self._closed = engine.handlers["disconnect"]
        engine.on("connect", self._open)
        engine.on("disconnect", self._close)
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)

    def _is_allowed(self, origin: str, environ: dict[str, Any]) -> bool:
        """Pages of this very origin, as it is published or as the caller addressed it."""
        host = environ.get("HTTP_HOST", "")
        try:
            return origin == self._origin or (bool(host) and urlsplit(origin).netloc == host)
        except ValueError:  # it is no address
            return False

    async def _open(self, id: str, environ: dict[str, Any]) -> None:
        await self._opened(id, environ)
        client = Client(id, self.server.eio.sockets[id], self.pump)
        self.clients[id] = client
        asyncio.get_running_loop().call_later(INTRODUCTION, self._introduced, client)

    def _introduced(self, client: Client) -> None:
        if not client.account:
            client.dismiss(Unauthenticated(f"no token within {INTRODUCTION:g} s"))

    async def _close(self, id: str, reason: str) -> None:
        await self._closed(id, reason)
        client = self.clients.pop(id, None)
        if client is not None:
            client.gone = True
            self._ended += 1
            # A poll that waits would go on waiting: engineio does not end it.
            queue = client.socket.queue
            asyncio.get_running_loop().call_later(0.05, queue.put_nowait, None)
            await self._leave(client)

    async def _connect(self, sid: str, _environ: dict[str, Any], auth: Any) -> None:
        client = self.clients[self.server.manager.eio_sid_from_sid(sid, "/")]
        try:
            await self._admit(client, auth)
        except Unavailable as error:
            # Socket.IO's clients give up on a refusal, and try again on a lost connection.
            client.dismiss(error, back=True)
            raise _refusal(error) from None
        except ServiceError as error:
            await self._leave(client)
            asyncio.get_running_loop().call_later(1.0, client.dismiss, error)
            raise _refusal(error) from None
        except Exception:
            log.exception("admission failed")
            raise _refusal(ServiceError("internal error")) from None

    async def _admit(self, client: Client, auth: Any) -> None:
        token = auth.get("token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not 0 < len(token) <= 4096:
            raise Unauthenticated("connect with auth: {token: <an API key>}")
        access = await self.bus.call(AUTHENTICATE, Credentials(token=token))
        if access.key and SCOPE not in access.scopes:
            raise _lacking()
        lost = lambda: client.dismiss(full())  # noqa: E731
        slot = await self.slots.claim(access.account, lost)
        if client.gone or client.id not in self.clients:
            await self.slots.release(slot)
            raise Unavailable("the connection was lost")
        client.slot = slot
        if access.key in self._refused:  # told after the gateway had answered
            raise _over()
        client.account, client.key, client.token = access.account, access.key, token
        await self.topics.enter(access.account, client)
        if client.gone or client.id not in self.clients:
            # Let in, python-socketio would keep it for ever: it was told of the end too early.
            raise Unavailable("the connection was lost")

    async def _disconnect(self, sid: str, _reason: str) -> None:
        client = self.clients.get(self.server.manager.eio_sid_from_sid(sid, "/"))
        if client is not None:
            await self._leave(client)
            asyncio.get_running_loop().call_later(INTRODUCTION, self._introduced, client)

    async def _leave(self, client: Client) -> None:
        """Undo everything that admission and subscriptions did; harmless when repeated."""
        account, client.account = client.account, ""
        if account:
            self.topics.exit(account, client)
            for model in client.models:
                self.topics.leave(account, model, client)
        client.models = set()
        slot, client.slot = client.slot, None
        if slot is not None:
            await self.slots.release(slot)

    def _tell(self, id: str, update: Update) -> None:
        if (client := self.clients.get(id)) is not None:
            client.keep(update)

    async def _answer(self, id: str, data: list[Any]) -> dict[str, Any]:
        """What an event is acknowledged with."""
        client = self.clients.get(id)
        if client is None or not client.account:
            return _failure(Unauthenticated("not connected"))
        name, arguments = data[0], data[1:]
        handlers = {
            "subscribe_metrics": self._subscribe,
            "unsubscribe_metrics": self._unsubscribe,
        }
        handler = handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            error = InvalidRequest(f"there is no such event; there are {', '.join(handlers)}")
            # Said in the acknowledgement first, if one is waited for.
            asyncio.get_running_loop().call_later(0.05, client.dismiss, error)
            return _failure(error)
        with _acting_for(client.account):
            try:
                async with client.busy:
                    return await handler(client, arguments[0] if arguments else {})
            except ServiceError as error:
                return _failure(error)
            except ValidationError as error:
                return _failure(invalid(error))
            except Exception:
                log.exception("event failed", name=name)
                return _failure(ServiceError("internal error"))

    async def _subscribe(self, client: Client, data: Any) -> dict[str, Any]:
        wish = Subscription.model_validate_json(_text(data))
        async with client.turn(wish.model_id):
            return await self._fulfil(client, wish)

    async def _fulfil(self, client: Client, wish: Subscription) -> dict[str, Any]:
        account, model = client.account, wish.model_id
        if model not in client.models and len(client.models) >= MOST_MODELS:
            raise InvalidRequest(f"one socket hears at most {MOST_MODELS} models")
        if (account, model) not in self.topics.models:
            try:
                await self.bus.call(FIND_MODEL, ModelRequest(model_id=model))
            except NotFound:
                raise NotFound("no metrics of such a model were recorded") from None
        wanted = frozenset(wish.metrics) if wish.metrics else None
        marked = wish.cursor or isinstance(wish.since, Cursor)
        topic = await self.topics.join(
            account, model, client, wanted, hold=marked or wish.since is not None
        )
        if client.gone or client.account != account:
            self.topics.leave(account, model, client)
            raise Unavailable("the connection was lost")
        client.models.add(model)
        answer: dict[str, Any] = {"status": "success"}
        member, heard = topic.members[client], self.topics.accounts[account].members[client]
        if wish.since is not None:
            try:
                answer["complete"] = await self.missed.tell(
                    client, heard, topic, since=wish.since, marked=marked
                )
            except ServiceError:
                # With a gap it would go on as if there were none.
                client.models.discard(model)
                topic.give_up(client, heard)
                self.topics.tidy(topic)
                # Else it heard of this before what it was told, and asked for that again.
                await client.has_kept()
                raise
        elif marked and member.cursor is None:
            await self.missed.begin(topic, client, heard)
        else:
            member.cursor = member.cursor if marked else None
            topic.release(client, member, heard)
        await client.has_kept()
        if member.cursor is not None and not client.waits_for(topic_of(model)):
            answer["cursor"] = member.cursor.text
        return answer

    async def _unsubscribe(self, client: Client, data: Any) -> dict[str, Any]:
        wish = Unsubscription.model_validate_json(_text(data))
        async with client.turn(wish.model_id):
            client.models.discard(wish.model_id)
            if not self.topics.leave(client.account, wish.model_id, client):
                raise NotFound("there is no such subscription")
        return {"status": "success"}

    async def revoke(self, revoked: KeyRevoked) -> None:
        """Whoever changes a key, and leaves it the scope, loses no socket."""
        self._refused.pop(revoked.key, None)
        if SCOPE in revoked.scopes:
            return
        now = time.monotonic()
        self._refused = {key: at for key, at in self._refused.items() if now - at < REMEMBERED}
        self._refused[revoked.key] = now
        reason = _lacking() if revoked.scopes else _over()
        for client in list(self.clients.values()):
            if client.key == revoked.key and client.account:
                client.dismiss(reason)

    async def recheck(self) -> None:
        """Ask again about each key that is in use, for ever.

        At once after events were lost, of which a revocation may have been
        one; and soon again as long as nobody can say.
        """
        while True:
            wait = (RECHECK if await self._check_keys() else 1.0) * random.uniform(0.8, 1.2)  # noqa: S311  (only to spread)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), wait)
            self._lost.clear()

    async def _check_keys(self) -> bool:
        """Whether all could be asked about."""
        known = True
        for token in {c.token for c in self.clients.values() if c.account and c.key}:
            try:
                asked = Credentials(token=token, connected=True)
                access = await self.bus.call(AUTHENTICATE, asked)
            except Unauthenticated:
                self._dismiss_all(token, _over())
            except ServiceError as error:
                log.warning("key not checked", error=error.message)
                known = False
            else:
                if SCOPE not in access.scopes:
                    self._dismiss_all(token, _lacking())
        return known

    def _dismiss_all(self, token: str, reason: ServiceError) -> None:
        for client in [c for c in self.clients.values() if c.token == token]:
            client.dismiss(reason)

    async def tidy(self) -> None:
        """For ever: free what closed connections leave behind, when there is much of it."""
        while True:
            await asyncio.sleep(TIDY)
            if self._ended > max(MOST_ENDED, len(self.clients) // 2):
                self._ended = 0
                gc.collect()

    def refuse(self, query: bytes, error: ServiceError) -> None:
        """Dismiss the client that a request's query names, if there is one."""
        for id in _ids(query):
            if (client := self.clients.get(id)) is not None:
                client.dismiss(error)

    def forget_ended(self, query: bytes) -> None:
        """Else engineio, over a message to a connection that has ended, would fail."""
        sockets = self.server.eio.sockets
        for id in _ids(query):
            if id in sockets and sockets[id].closed:
                del sockets[id]

    def tell_of_gap(self, since: datetime) -> None:
        """Events were lost on the way; each client can ask for those it wants."""
        self.topics.lose()
        notice = Update("gap", {"since": since.isoformat().replace("+00:00", "Z")})
        for client in self.clients.values():
            if client.account:
                client.keep(notice, None)  # updates that wait have cursors of before
        self._lost.set()
        self.pump.do(self.slots.renew())  # the bus may have forgotten who holds them

    async def drain(self, seconds: float) -> None:
        """Send all clients elsewhere, spread over some time, so that they do not come together."""
        self.draining = True
        reason = Unavailable("this server stops; connect again", retry_after=1)
        clients = list(self.clients.values())
        for client in clients:
            client.keep(Update("server_draining", {"message": reason.message}))
        loop = asyncio.get_running_loop()
        for client in clients:
            leave = functools.partial(client.dismiss, reason, back=True)
            loop.call_later(random.uniform(0, seconds), leave)  # noqa: S311  (only to spread)
        end = time.monotonic() + seconds + 2
        while self.clients and time.monotonic() < end:  # noqa: ASYNC110  (they leave by the dozen)
            await asyncio.sleep(0.05)


def _ids(query: bytes) -> list[str]:
    return parse_qs(query.decode("latin-1")).get("sid", [])


def _over() -> Unauthenticated:
    return Unauthenticated("the API key is expired or revoked, or the session over")


def _lacking() -> PermissionDenied:
    return PermissionDenied(f"the API key lacks the scope {SCOPE}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@contextlib.contextmanager
def _acting_for(account: str) -> Iterator[None]:
    reset = current.set(Context(account=account))
    try:
        yield
    finally:
        current.reset(reset)


def _text(data: Any) -> bytes:
    """As JSON, which is checked more strictly than what Python made of it."""
    try:
        return orjson.dumps(data)
    except TypeError:  # Python's reads more than others can
        raise InvalidRequest("half a character, or a number beyond 64 bits") from None


def _failure(error: ServiceError) -> dict[str, Any]:
    answer = {"status": "error", "code": error.code, "message": error.message}
    return {**answer, "details": error.details} if error.details else answer


def _refusal(error: ServiceError) -> socketio.exceptions.ConnectionRefusedError:
    data = {"code": error.code, "message": error.message}
    return socketio.exceptions.ConnectionRefusedError(error.message, data)
