"""An overall deadline for calls of httpx2, whose own timeouts restart with each read."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

# The end of the call that runs in this thread, on the monotonic clock.
end_s: ContextVar[float] = ContextVar("lilypad_deadline")


def enforce(client: httpx2.Client) -> None:
    """Bound each read of a client's connections by `end_s`.

    httpcore2 takes a network backend of one's own, and httpx2 does not pass one on, so it is put
    in place through private names. A version without them keeps httpx2's own timeouts.
    """
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001  (see above)
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001  (see above)


class _Backend:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, *arguments: Any, **options: Any) -> _Stream:
        return _Stream(self._backend.connect_tcp(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if timeout is not None:
            timeout = min(timeout, end_s.get(float("inf")) - time.monotonic())
            if timeout <= 0:  # a deadline that a body which never pauses would never reach
                import httpcore2  # noqa: PLC0415  (slow to import)

                raise httpcore2.ReadTimeout("the deadline passed")
        data: bytes = self._stream.read(max_bytes, timeout)
        return data

    def start_tls(self, *arguments: Any, **options: Any) -> _Stream:
        return _Stream(self._stream.start_tls(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
