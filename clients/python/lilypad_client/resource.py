"""Methods written once for both clients.

A method builds a flow: a generator that yields what to do (`Send`, `Wait`) and returns the
result. `operation` makes a method of it that, on `Resource[Sync]`, returns the result, on
`Resource[Async]` an awaitable of it, and on the raw ones a `RawResponse`. `stream` does the
same for flows that yield items (`Emit`): an iterator or an asynchronous iterator.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    TypeVar,
    overload,
)

from lilypad_client.retrying import Reply, Send, Wait

if TYPE_CHECKING:
    from lilypad_client.connection import Connection
    from lilypad_client.jobs import Job
    from lilypad_client.operation import Operation

P = ParamSpec("P")
T = TypeVar("T")
Mode = TypeVar("Mode")


class Sync:
    """Mode of a resource whose methods return results."""


class Async:
    """Mode of a resource whose methods return awaitables of results."""


class Raw:
    """Mode of a resource whose methods return raw responses."""


class AsyncRaw:
    """Mode of a resource whose methods return awaitables of raw responses."""


class Emit(NamedTuple, Generic[T]):
    item: T


Flow = Generator[Send | Wait, Reply, T]
Items = Generator[Send | Wait | Emit[T], Reply, None]


class RawResponse(NamedTuple, Generic[T]):
    """An answer's status and headers (in lower case), and the result."""

    status_code: int
    headers: dict[str, str]
    content: bytes
    parsed: T

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")


class Resource(Generic[Mode]):
    """A group of the API's operations."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _call(self, operation: Operation[T], **parts: Any) -> Flow[T]:
        """Send one request of an operation; its body is serialized immediately."""
        request = self._connection.request(operation, **parts)
        return self._connection.exchange(operation, request)

    def _iterate(
        self, operation: Operation[Any], name: str, *, cursor: str = "before", **query: Any
    ) -> Items[Any]:
        """Yield the items of all pages of a list; `cursor` names the next page's parameter."""
        while True:
            page = yield from self._call(operation, query=query)
            for item in getattr(page, name):
                yield Emit(item)
            if page.next is None:
                return
            query[cursor] = page.next


class operation(Generic[P, T]):  # noqa: N801  (reads as the decorator that it is)
    def __init__(self, function: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> operation[P, T]: ...
    @overload
    def __get__(self, instance: Resource[Sync], owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, instance: Resource[Async], owner: Any = None
    ) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(
        self, instance: Resource[Raw], owner: Any = None
    ) -> Callable[P, RawResponse[T]]: ...
    @overload
    def __get__(
        self, instance: Resource[AsyncRaw], owner: Any = None
    ) -> Callable[P, Awaitable[RawResponse[T]]]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        return _bind(self.function, instance, instance._connection.run)  # noqa: SLF001


class stream(Generic[P, T]):  # noqa: N801  (reads as the decorator that it is)
    def __init__(self, function: Callable[Concatenate[Any, P], Items[T]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> stream[P, T]: ...
    @overload
    def __get__(self, instance: Resource[Sync], owner: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(
        self, instance: Resource[Async], owner: Any = None
    ) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        return _bind(self.function, instance, instance._connection.iterate)  # noqa: SLF001


class starting(Generic[P, T]):  # noqa: N801  (reads as the decorator that it is)
    """Like `operation`, for flows that start a job: the result is its handle."""

    def __init__(self, function: Callable[Concatenate[Any, P], Flow[Job[Any, T]]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> starting[P, T]: ...
    @overload
    def __get__(self, instance: Resource[Sync], owner: Any = None) -> Callable[P, Job[Sync, T]]: ...
    @overload
    def __get__(
        self, instance: Resource[Async], owner: Any = None
    ) -> Callable[P, Awaitable[Job[Async, T]]]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        return _bind(self.function, instance, instance._connection.run)  # noqa: SLF001


def _bind(function: Any, instance: Any, drive: Callable[[Any], Any]) -> Any:
    @functools.wraps(function)
    def method(*args: Any, **fields: Any) -> Any:
        return drive(function(instance, *args, **fields))

    return method
