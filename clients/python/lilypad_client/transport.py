"""Transports that carry out the steps of a flow: with threads, and with asyncio."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lilypad_client import deadline
from lilypad_client.connection import Connection
from lilypad_client.resource import Emit, Flow, Items, RawResponse
from lilypad_client.retrying import Lost, Reply, Send, Wait
from lilypad_client.version import __version__

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
Step = TypeVar("Step")
Outcome = Reply | Lost | None

MAX_CONNECT_S = 10.0
# Far more than any answer has; a broken service must not fill the memory, or the disk.
MAX_ANSWER_BYTES = 100_000_000


class SyncTransport(Connection):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pool: _Pool[httpx2.Client] = _Pool()

    @property
    def http(self) -> httpx2.Client:
        if self._pool.client is None:
            import httpx2  # noqa: PLC0415  (slow to import)

            self._pool.client = httpx2.Client(**_options(self.base_url))
            deadline.enforce(self._pool.client)
        return self._pool.client

    def run(self, flow: Flow[T]) -> T | RawResponse[T]:
        outcome: Outcome = None
        last = None
        with contextlib.closing(flow):
            while True:
                try:
                    step = _next(flow, outcome)
                except StopIteration as done:
                    return _result(done.value, last) if self.raw else done.value
                outcome = self._do(step)
                last = outcome or last

    def iterate(self, items: Items[T]) -> Iterator[T]:
        outcome: Outcome = None
        with contextlib.closing(items):
            while True:
                try:
                    step = _next(items, outcome)
                except StopIteration:
                    return
                if isinstance(step, Emit):
                    outcome = None
                    yield step.item
                else:
                    outcome = self._do(step)

    def _do(self, step: Send | Wait) -> Outcome:
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        end_s = time.monotonic() + step.timeout_s
        reset = deadline.end_s.set(end_s)
        try:
            with _translated(), self.http.stream(**_arguments(self.base_url, step)) as answer:
                body = _Body(answer, step)
                for chunk in answer.iter_bytes():
                    body.add(chunk)
                    if time.monotonic() > end_s:
                        return Lost("the answer is too slow", sent=True, timed_out=True)
                return body.reply()
        except Lost as lost:
            return lost
        finally:
            deadline.end_s.reset(reset)

    def close(self) -> None:
        if self._pool.client is not None:
            self._pool.client.close()


class AsyncTransport(Connection):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pool: _Pool[httpx2.AsyncClient] = _Pool()

    @property
    def http(self) -> httpx2.AsyncClient:
        if self._pool.client is None:
            import httpx2  # noqa: PLC0415  (slow to import)

            self._pool.client = httpx2.AsyncClient(**_options(self.base_url))
        return self._pool.client

    async def run(self, flow: Flow[T]) -> T | RawResponse[T]:
        outcome: Outcome = None
        last = None
        with contextlib.closing(flow):
            while True:
                try:
                    step = _next(flow, outcome)
                except StopIteration as done:
                    return _result(done.value, last) if self.raw else done.value
                outcome = await self._do(step)
                last = outcome or last

    async def iterate(self, items: Items[T]) -> AsyncIterator[T]:
        outcome: Outcome = None
        with contextlib.closing(items):
            while True:
                try:
                    step = _next(items, outcome)
                except StopIteration:
                    return
                if isinstance(step, Emit):
                    outcome = None
                    yield step.item
                else:
                    outcome = await self._do(step)

    async def _do(self, step: Send | Wait) -> Outcome:
        import asyncio  # noqa: PLC0415  (slow to import)

        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with asyncio.timeout(step.timeout_s):
                with _translated():
                    async with self.http.stream(**_arguments(self.base_url, step)) as answer:
                        body = _Body(answer, step)
                        async for chunk in answer.aiter_bytes():
                            body.add(chunk)
                        return body.reply()
        except TimeoutError:
            return Lost("the answer is too slow", sent=True, timed_out=True)
        except Lost as lost:
            return lost

    async def close(self) -> None:
        if self._pool.client is not None:
            await self._pool.client.aclose()


class _Pool(Generic[T]):
    """A connection pool, created on first use and shared by a client's copies."""

    client: T | None = None


class _Body:
    """The body of an answer: collected in memory, or on success written to the request's sink."""

    def __init__(self, answer: httpx2.Response, step: Send) -> None:
        self.status = answer.status_code
        self.headers = dict(answer.headers)
        self.sink = step.sink if answer.is_success else None
        self.chunks: list[bytes] = []
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > MAX_ANSWER_BYTES:
            raise Lost(f"the answer is larger than {MAX_ANSWER_BYTES} bytes", sent=True)
        if self.sink is not None:
            self.sink.write(chunk)
        else:
            self.chunks.append(chunk)

    def reply(self) -> Reply:
        return Reply(self.status, self.headers, b"".join(self.chunks))


def _next(flow: Generator[Step, Reply, Any], outcome: Outcome) -> Step:
    if isinstance(outcome, Lost):
        return flow.throw(outcome)
    return flow.send(outcome)  # type: ignore[arg-type]  # None where no answer is waited for


def _result(value: T, last: Outcome) -> RawResponse[T]:
    assert isinstance(last, Reply), "a flow ends well only after an answer"
    return RawResponse(last.status, dict(last.headers), last.content, value)


def _options(base_url: str) -> dict[str, Any]:
    agent = f"lilypad-client-python/{__version__}"
    return {
        "headers": {"User-Agent": agent, "Accept-Encoding": "identity"},
        # Loading the system's certificates takes 80 ms, which plain http can save.
        "verify": base_url.startswith("https://"),
    }


def _arguments(base_url: str, step: Send) -> dict[str, Any]:
    import httpx2  # noqa: PLC0415  (slow to import)

    request = step.request
    return {
        "method": request.operation.method,
        "url": base_url + request.path,
        "params": request.query or None,
        "headers": request.headers,
        "content": request.content,
        "timeout": httpx2.Timeout(step.timeout_s, connect=min(step.timeout_s, MAX_CONNECT_S)),
    }


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise connection errors of httpx2 as `Lost`."""
    import httpx2  # noqa: PLC0415  (slow to import)

    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise Lost(f"no connection: {error}", sent=False) from error
    except httpx2.TimeoutException as error:
        raise Lost("no answer in time", sent=True, timed_out=True) from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise Lost(f"the connection broke: {error}", sent=True) from error
